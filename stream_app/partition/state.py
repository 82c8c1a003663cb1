"""The state of one partition, by its parts, and what a worker gives to each of its partitions."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from stream_app.clock import Clock
from stream_app.domain.commands import CommandResult
from stream_app.domain.delivery.state_machine import KINDS
from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import Scalar
from stream_app.domain.model.records import Record
from stream_app.domain.model.system import SYSTEM_KEY, system_problem, system_row
from stream_app.domain.plan import Plan
from stream_app.domain.views.lane import RunsView
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Commits
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.intake import Intake
from stream_app.partition.key_locks import KeyLocks
from stream_app.partition.lanes import HostWatch, Lanes
from stream_app.partition.open_runs import OpenRuns
from stream_app.partition.ports import Cache, Clay, Observer, Runs, StateStore
from stream_app.partition.rows import Rows


async def _no_reload(_: str) -> CommandResult:
    return CommandResult("this program cannot reload its configuration", False, "refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """What the partitions of a worker share.

    Attributes:
        plan: The configuration. `reload` changes it in place.
        clay: Sends leads.
        runs: Asks about the runs of routines; None: no destination has a routine.
        observer: Is told what was committed, for metrics and log.
        alarm: Ends the process after a bug, or when another worker owns the partition.
        still_member: Waits until the group confirms that this process is still the member that the
            partition was assigned to. Returns for how many seconds the group will not reassign the
            partitions of this process. After an eviction it does not return, because a rebalance
            follows and closes the partition.
        reload: Reads the configuration again for the command with this id, and applies what can
            change while the worker runs.
        cache: The results that the fallback serves; None: there are none.
        local_facts: Derives fields from a lead's own fields. Returns by name the value, and the
            name of the field it comes from.
        last_known_lanes: The lanes as this process last knew them, by workspace. The process keeps
            them between assignments.
        spacing_s: The shortest time from the end of a transaction to the start of the next one, in
            seconds.
    """

    plan: Plan
    clay: Clay
    clock: Clock
    observer: Observer
    alarm: Callable[[BaseException], None]
    still_member: Callable[[], Awaitable[float]]
    reload: Callable[[str], Awaitable[CommandResult]] = _no_reload
    cache: Cache | None = None
    local_facts: Callable[[Mapping[str, Scalar]], dict[str, tuple[Scalar, str]]] = lambda _: {}
    last_known_lanes: dict[str, Lane] = field(default_factory=dict)
    spacing_s: float = 0.1
    runs: Runs | None = None


class PartitionState:
    """The parts of the state of partition `number`, empty at first.

    Each part exists once. `PartitionOwner` gives those that act on the state the parts that they
    use.
    """

    def __init__(self, number: int, store: StateStore, parts: WorkerParts) -> None:
        self.number = number
        self.plan = parts.plan
        self.clock = parts.clock
        self.observer = parts.observer
        self.open_runs = OpenRuns(self.plan)
        freshness_ms = int(self.plan.delivery.freshness_days * 86_400_000)
        self.rows = Rows(number, freshness_ms, self.open_runs)
        self.intake = Intake()
        self.lanes = Lanes(
            number,
            self.plan,
            self.clock,
            self.observer,
            self.intake,
            parts.last_known_lanes,
        )
        self.lanes.runs_of = self._runs_of
        self.hosts = HostWatch(self.plan, self.lanes, self.clock, parts.clay)
        self.deadlines = DeadlineQueue(self.plan, self.rows, self.lanes)
        self.commits = Commits(
            store,
            self.plan.topics.state,
            parts.spacing_s,
            self.rows,
            self.lanes,
            self.intake,
            self.deadlines,
            self.clock,
            self.observer,
        )
        self.admission = AdmissionQueue(
            self.plan,
            self.lanes,
            self.hosts,
            self.commits,
            self.clock,
            parts.alarm,
        )
        self.locks = KeyLocks(self.admission.recall)

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Replace the state by these rows, which were read from Kafka.

        Raises:
            RowUnreadable: A row does not decode.
            SettingsError: The settings of this process are not those that the namespace began with.
        """
        self.commits.opening = self._opening(rows)
        # Before the lanes are loaded, because their views show the runs.
        self.open_runs.clear()
        self.deadlines.clear()
        if unknown := [key for key in rows if key[:2] not in KINDS]:
            self.observer.unknown_rows(self.number, len(unknown))
            for key in unknown:
                del rows[key]
        # The lanes first, because they take their rows out of `rows`.
        self.lanes.load(rows)
        self.rows.load(rows)

    def _runs_of(self, workspace: str) -> RunsView | None:
        """Return the open runs of a lane; None if there is none, or until they are known."""
        number = self.open_runs.open_in(workspace)
        if not number or not self.open_runs.are_loaded.is_set():
            return None
        return RunsView(
            number,
            self.deadlines.polls.next_ms(workspace) or 0,
            self.admission.poll_tokens.are_waited_for(workspace),
        )

    def _opening(self, rows: dict[bytes, bytes]) -> Record | None:
        """Return what the partition begins with, if it has no row yet.

        Removes the row of the system from `rows`.
        """
        topic = self.plan.topics.state
        partitions = self.plan.partitions
        if not rows:
            return Record(topic, SYSTEM_KEY, system_row(partitions))
        began = rows.pop(SYSTEM_KEY, None)
        if problem := system_problem(None if began is None else SYSTEM_KEY, began, partitions):
            raise SettingsError([f"{topic}/{self.number}: {problem}"])
        return None
