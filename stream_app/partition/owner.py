"""The owner of one partition.

It takes the partition over from Kafka, has its records processed, and recovers after a failed
commit.

    take_over: fence every earlier owner, read the rows
        -> process pending commands and callbacks
        -> admit leads, until a commit fails or the partition is closed

When a transaction fails, memory is ahead of Kafka. Then the tasks of all records under way are
cancelled, the partition is taken over again as after a crash, and the same records are processed
again. Their rows say what became of them.
"""

import asyncio
import math
from collections.abc import Hashable, Mapping
from typing import Final

from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.cached_results import seal
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.model.errors import Aborted, BrokerUnavailable, StateStoreError
from stream_app.domain.model.run import RunAnswer, RunUnread
from stream_app.domain.model.topics import ERASED_LAG_MS
from stream_app.domain.plan import Plan
from stream_app.partition.announcements import Announcements
from stream_app.partition.balances import Balances
from stream_app.partition.callback import CallbackPipeline
from stream_app.partition.command import CommandPipeline
from stream_app.partition.commits import FIRST_PAUSE_S, MAX_PAUSE_S, Commits
from stream_app.partition.conclusions import Conclusions
from stream_app.partition.endings import Endings
from stream_app.partition.fallback import Fallback
from stream_app.partition.given_up import GivenUp
from stream_app.partition.in_flight import LEAD_SOURCES, InFlight, Source
from stream_app.partition.lead import LeadPipeline
from stream_app.partition.places import Limiter
from stream_app.partition.ports import Observer, StateStore
from stream_app.partition.results import ResultPipeline
from stream_app.partition.rows import Rows
from stream_app.partition.runner import RECORDS_FOR_A_POST, ProcessRecord, RecordRunner
from stream_app.partition.state import PartitionState, WorkerParts
from stream_app.partition.timeout import TimeoutPipeline
from stream_app.tasks import died_of, until_failure

_READ: Final = 2_000  # Records that are read at a time, so that memory is bounded.
_PARALLEL: Final[dict[Source, int]] = {"command": 1, "callback": 200}
"""How many records the bootstrap processes at the same time. Commands are applied in their order,
and callbacks share transactions.
"""
_PAUSE_S: Final = 1.0
_LOOK_EVERY_S: Final = 600.0
_SEAL_AFTER_MS: Final = ERASED_LAG_MS + 3_600_000
_FORGET_AFTER_MS: Final = 7 * 86_400_000
"""No seal is written for an erasure that is older than this."""


class PartitionOwner:
    """Owns one partition from `take_over` to `close`.

    Args:
        store: The partition's transactional producer and its rows in Kafka.
        parts: What it shares with the other partitions of the worker.
    """

    def __init__(self, number: int, store: StateStore, parts: WorkerParts) -> None:
        self.number = number
        self._store = store
        self._parts = parts
        self.state = PartitionState(number, store, parts)
        state = self.state
        endings = Endings(
            plan=state.plan,
            clock=state.clock,
            rows=state.rows,
            lanes=state.lanes,
            pump_soon=state.admission.pump_soon,
        )
        self._results = (
            None
            if parts.runs is None
            else ResultPipeline(
                number=number,
                plan=state.plan,
                clock=state.clock,
                observer=state.observer,
                store=store,
                lanes=state.lanes,
                polls=state.deadlines.polls,
                admission=state.admission,
                tokens=state.admission.poll_tokens,
                commits=state.commits,
                endings=endings,
                runs=parts.runs,
            )
        )
        self._balances = (
            None
            if parts.runs is None
            else Balances(
                number=number,
                plan=state.plan,
                clock=state.clock,
                lanes=state.lanes,
                tokens=state.admission.poll_tokens,
                commits=state.commits,
                runs=parts.runs,
            )
        )
        callbacks = CallbackPipeline(
            plan=state.plan,
            clock=state.clock,
            rows=state.rows,
            locks=state.locks,
            commits=state.commits,
            endings=endings,
            announcements=Announcements(
                clock=state.clock,
                runs=state.open_runs,
                # Half of the places that callbacks and commands share in `RecordRunner`.
                most=state.plan.delivery.max_in_flight * RECORDS_FOR_A_POST // 2,
                ask=_no_answer if self._results is None else self._results.ask,
                poll_now=lambda key: state.deadlines.polls.hasten(key, state.clock.now_ms()),
            ),
        )
        pipelines: dict[Source, ProcessRecord] = {
            **dict.fromkeys(LEAD_SOURCES, _lead_pipeline(state, parts).process),
            "callback": callbacks.process,
            "command": CommandPipeline(
                plan=state.plan,
                clock=state.clock,
                observer=state.observer,
                rows=state.rows,
                lanes=state.lanes,
                locks=state.locks,
                commits=state.commits,
                admission=state.admission,
                reload=parts.reload,
            ).process,
        }
        self.runner = RecordRunner(
            number=number,
            plan=state.plan,
            rows=state.rows,
            lanes=state.lanes,
            intake=state.intake,
            commits=state.commits,
            admission=state.admission,
            pipelines=pipelines,
        )
        self._bootstrap = Bootstrap(
            number=number,
            plan=state.plan,
            observer=state.observer,
            rows=state.rows,
            store=store,
            pipelines={**pipelines, "callback": callbacks.process_pending},
        )
        self._timeouts = TimeoutPipeline(
            number=number,
            plan=state.plan,
            clock=state.clock,
            observer=state.observer,
            store=store,
            lanes=state.lanes,
            deadlines=state.deadlines,
            commits=state.commits,
            endings=endings,
        )
        self._erasures = Erasures(
            plan=state.plan,
            clock=state.clock,
            rows=state.rows,
            commits=state.commits,
        )
        self._owning: asyncio.Task[None] | None = None

    async def take_over(self, fence_within_s: float = math.inf) -> None:
        """Fence earlier owners, read the rows, and have records processed from then on.

        Args:
            fence_within_s: No owner is fenced after this time, in seconds.

        Raises:
            BrokerUnavailable: Kafka cannot be reached now.
            RowUnreadable: A row does not decode.
            SettingsError: The settings of this process are not those that the namespace began with.
        """
        # The store fences before it reads, so no earlier owner can change what is loaded here. No
        # record runs before `resume`: those of before were stopped, and new ones are only kept. So
        # the steps that `forget` drops are those that were decided by the old rows.
        self.state.load(await self._store.take_over(fence_within_s))
        self.state.commits.forget()
        self.runner.resume()  # Leads wait until the bootstrap has ended.
        if self._owning is None:
            self._owning = asyncio.create_task(self._own(), name=f"owner-{self.number}")
            self._owning.add_done_callback(self._watch)

    async def close(self) -> None:
        """Drop everything at once: the partition is no longer ours, or the process ends."""
        # First, so that nothing changes a lane or uses the store during the lines below.
        await self.runner.close(self._owning)
        self.state.lanes.report_gone()
        await self._store.close()

    # --------------------------------------------------------------- from one take-over to the next

    async def _own(self) -> None:
        """Commit until a transaction fails, then take the partition over again, as after a crash.

        This goes on until the task is cancelled.

        Raises:
            Fenced: Another process owns the partition. Any other error is a bug.
        """
        while True:
            failed = await until_failure(self.state.commits.run(), self._bootstrap_then_run())
            if not isinstance(failed, Aborted):
                raise failed
            # Awaited before the rows are replaced, so that no record acts on what it has read from
            # the old rows.
            await self.runner.stop()
            await self._take_over_again(failed)

    def _watch(self, owning: asyncio.Task[None]) -> None:
        """End the process if the owning task ended although the partition was not closed."""
        if (error := died_of(owning)) is not None:
            self.runner.is_resumed = False
            self.state.admission.end(error)

    async def _bootstrap_then_run(self) -> None:
        """Process pending commands and callbacks, then admit leads and run the periodic tasks."""
        await self._bootstrap.run()
        # Only now has a pause that was waiting changed its lane, and a callback that was waiting
        # settled its lead. A lead that was admitted before could be sent in spite of either.
        self.runner.admit_leads()
        state = self.state
        periodic = [
            self._timeouts.run(),
            state.open_runs.load(state.rows.leads(), state.rows.get),
            state.lanes.keep_shown(state.commits.submit),
            self._erasures.run(),
            state.hosts.run(state.admission.pump_lane),
        ]
        if self._results is not None:
            periodic.append(self._results.run())
        if self._balances is not None:
            periodic.append(self._balances.run())
        failed = await until_failure(*periodic)
        if not isinstance(failed, StateStoreError):  # `Commits.run` raises that one, too
            # The commits go on, so that what is under way can still be recorded.
            state.admission.end(failed)

    async def _take_over_again(self, failed: Aborted) -> None:
        recovering = self._parts.observer.recovering
        recovering(self.number, failed)
        await asyncio.sleep(self.state.commits.pause_s)
        delay_s = FIRST_PAUSE_S
        while True:
            try:
                # Without `still_member`, a worker that was cut off for longer than its session
                # would fence its successor.
                await self.take_over(await self._parts.still_member())
            except BrokerUnavailable as unavailable:
                recovering(self.number, unavailable)
                await asyncio.sleep(delay_s)
                delay_s = min(MAX_PAUSE_S, delay_s * 2)
            else:
                return

    # ----------------------------------------------------------------------------- for the operator

    @property
    def failing(self) -> str:
        """Why nothing of this partition can be committed now; '' if it can.

        One failed transaction is no reason yet, because the take-over after it repeats its steps.
        """
        failures = self.state.commits.failures
        return (
            f"partition {self.number} commits nothing: {failures} transactions failed"
            if failures > 1
            else ""
        )

    def under_way(self) -> dict[str, Hashable]:
        """What must end by itself, described for the operator.

        Each description has a token that changes when the work progresses.
        """
        if not self.runner.is_resumed:
            return {f"partition {self.number} is being taken over again": self.runner.take_overs}
        seen: dict[str, Hashable] = {}
        if (committed := self.state.commits.under_way) is not None:
            seen[f"partition {self.number} commits nothing"] = committed
        if (oldest := self.runner.oldest()) is not None:
            seen[f"the lead at {oldest.consumed.record_id} does not end"] = oldest.turns
        return seen


async def _no_answer(_destination: str, _run: str) -> RunAnswer:
    return RunUnread("no_routine", "no destination of this worker is a routine")


def _lead_pipeline(state: PartitionState, parts: WorkerParts) -> LeadPipeline:
    """Return the pipeline of leads.

    Only this pipeline sends. `HostWatch` gets Clay, too, and only calls `host_answers`.
    """
    return LeadPipeline(
        plan=state.plan,
        clock=state.clock,
        rows=state.rows,
        lanes=state.lanes,
        intake=state.intake,
        locks=state.locks,
        commits=state.commits,
        admission=state.admission,
        clay=parts.clay,
        conclusions=Conclusions(
            plan=state.plan,
            clock=state.clock,
            rows=state.rows,
            lanes=state.lanes,
            commits=state.commits,
        ),
        given_up=GivenUp(
            plan=state.plan,
            clock=state.clock,
            rows=state.rows,
            locks=state.locks,
            commits=state.commits,
        ),
        fallback=Fallback(
            plan=state.plan,
            clock=state.clock,
            rows=state.rows,
            commits=state.commits,
            would_hold=state.admission.would_hold,
            cache=parts.cache,
            local_facts=parts.local_facts,
        ),
    )


@define(eq=False, repr=False, kw_only=True)
class Bootstrap:
    """Processes the commands, then the callbacks that came while no worker owned the partition.

    All of them are processed before the first lead. So a pause that was issued meanwhile takes
    effect before any lead is sent, and a lead whose callback came is neither sent again nor
    reported as overdue. While Kafka cannot be read, reading is tried again.
    """

    _number: int
    _plan: Plan
    _observer: Observer
    _rows: Rows
    _store: StateStore
    _pipelines: Mapping[Source, ProcessRecord]
    _limiter: Limiter = field(init=False, factory=lambda: Limiter(_PARALLEL["callback"]))

    async def run(self) -> None:
        await self._process_topic(self._plan.topics.commands, "command")
        await self._process_topic(self._plan.topics.callbacks, "callback")

    async def _process_topic(self, topic: str, source: Source) -> None:
        """Process the records of one topic.

        The stream of the topic has them, too. The first of the two to come to a record concludes
        it, as `Commits.end_if_concluded` tells the other one.
        """
        offset = self._rows.passed(topic)
        more = True
        while more:
            try:
                waiting = await self._store.waiting(topic, offset, _READ)
            except BrokerUnavailable as error:
                self._observer.recovering(self._number, error)
                await asyncio.sleep(_PAUSE_S)
                continue
            for first in range(0, len(waiting), _PARALLEL[source]):
                async with asyncio.TaskGroup() as group:
                    for consumed in waiting[first : first + _PARALLEL[source]]:
                        in_flight = InFlight(consumed, source, asyncio.Event(), self._limiter)
                        group.create_task(self._pipelines[source](in_flight))
            more = len(waiting) == _READ
            offset = waiting[-1].offset + 1 if waiting else offset


@define(eq=False, repr=False, kw_only=True)
class Erasures:
    """Makes Kafka compact erased results, also where `leads.enriched` gets no other records.

    A broker compacts closed segments only, and closes a segment only when a record is appended. So
    an erased result would stay on disk for ever in an idle partition, in spite of its tombstone.
    Some time after an erasure one more record, the seal, is appended. It starts a new segment, and
    the segment with the tombstone is compacted (docs/reference/kafka.md). A new owner of the
    partition may write a seal again.
    """

    _plan: Plan
    _clock: Clock
    _rows: Rows
    _commits: Commits
    _sealed_until_ms: int = field(init=False, default=0)

    async def run(self) -> None:
        """Look for erasures that need a seal every ten minutes, until a commit fails."""
        while True:
            await self._seal(self._clock.now_ms())
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _seal(self, now_ms: int) -> None:
        due_ms = now_ms - _SEAL_AFTER_MS
        since_ms = max(self._sealed_until_ms, now_ms - _FORGET_AFTER_MS)
        workspaces = {
            name for name, erased_ms in self._rows.erasures() if since_ms < erased_ms <= due_ms
        }
        if workspaces:
            await self._commits.submit(
                CommitStep([], [seal(self._plan.topics.enriched, min(workspaces))], []),
            )
        # After the commit: a seal whose transaction failed is written again.
        self._sealed_until_ms = due_ms
