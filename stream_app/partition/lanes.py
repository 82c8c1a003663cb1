"""The lanes of one partition in memory.

A change of a lane applies at once, and is written with the next step of its workspace.

A view of each lane is published when it changes. It is also published at each take-over, because
the topic of the views may have been lost, and an idle lane does not change. A view counts as shown
once it is committed. Its `news` are the changes since the last shown view, so an aborted
transaction or a restart loses none.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec
from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import lane_key
from stream_app.domain.lane.admission import Grant
from stream_app.domain.lane.lane import Lane, for_new_owner, host_checked, moved_text, reconfigured
from stream_app.domain.lane.settlement import charged, dead_letter_counted
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.limits.callback_health import record_owner
from stream_app.domain.limits.concurrency import StallDetector
from stream_app.domain.model.errors import RowUnreadable
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Destination, InForce, Plan
from stream_app.domain.views.lane import LaneView, Position, RunsView
from stream_app.domain.views.lane_now import held_since, view
from stream_app.partition.intake import Intake
from stream_app.partition.ports import Clay, Observer
from stream_app.partition.rows import read_lane

_json: Final = msgspec.json.Encoder()
_VIEW_EVERY_MS: Final = 1_000
_LOOK_EVERY_S: Final = 60.0
_NEVER: Final = 0
_VIEWS_AT_ONCE: Final = 50
"""Views in one transaction when all are published, so that the steps of leads do not wait for a
large one.
"""
_CHECK_HOSTS_EVERY_S: Final = 1.0


@define(eq=False, repr=False)
class Lanes:
    """The lanes of the workspaces that live in partition `number`, by workspace.

    `last_known` is `WorkerParts.last_known_lanes`.

    Each view has the positions of the partition in its topics. The positions change with each
    record, so they alone do not make a view a changed one. Instead, one view a second shows the
    newest positions, whichever lane it is of.
    """

    _number: int
    _plan: Plan
    _clock: Clock
    _observer: Observer
    _intake: Intake
    _last_known: dict[str, Lane] = field(factory=dict)
    # What is known of the runs of a workspace, which is in no row of a lane.
    runs_of: Callable[[str], RunsView | None] = field(init=False, default=lambda _: None)
    # The detectors are in no row, because a new owner has sent nothing.
    stalls: dict[str, StallDetector] = field(init=False, factory=lambda: defaultdict(StallDetector))
    _lanes: dict[str, Lane] = field(init=False, factory=dict)
    _shown: dict[str, LaneView] = field(init=False, factory=dict)  # as they were last committed
    # The views in the transaction under way.
    _uncommitted: dict[str, LaneView] = field(init=False, factory=dict)
    # The lanes whose view is to be published even if it has not changed.
    _due: set[str] = field(init=False, factory=set)
    _positions: dict[str, Position] = field(init=False, factory=dict)  # as they were last committed
    # Set if there may be a change that is not published.
    _changed: asyncio.Event = field(init=False, factory=asyncio.Event)

    def __getitem__(self, workspace: str) -> Lane:
        """The lane of a workspace. A new workspace gets a new lane."""
        lane = self._lanes.get(workspace)
        if lane is None:
            now_ms = self._clock.now_ms()
            fresh = Lane(workspace, self._number)
            lane = for_new_owner(
                reconfigured(
                    fresh.in_force(self._plan.workspaces[workspace]),
                    fresh,
                    self._plan.destinations_of(workspace),
                    now_ms,
                ),
                now_ms,
            )
            self._lanes[workspace] = lane
            self._shown[workspace] = msgspec.structs.replace(self.view(workspace), at_ms=_NEVER)
        return lane

    def __setitem__(self, workspace: str, lane: Lane) -> None:
        """Change a lane. The change is written with the next step of that workspace."""
        self._lanes[workspace] = lane

    def __contains__(self, workspace: str) -> bool:
        """True if the workspace has a lane, because it has had leads or commands."""
        return workspace in self._lanes

    def policy(self, workspace: str) -> InForce:
        """The policy in force: the configured one, with what operators changed for this lane."""
        return self[workspace].in_force(self._plan.workspaces[workspace])

    def is_home(self, workspace: str) -> bool:
        return self._plan.home_of(workspace) == self._number

    @property
    def shared(self) -> bool:
        """True if several workspaces live in the partition."""
        return len(self._plan.residents(self._number)) > 1

    def rows(self) -> Mapping[bytes, bytes]:
        """The rows of the lanes as the next step would write them, by key."""
        return _LaneRows(self._lanes)

    def view(self, workspace: str) -> LaneView:
        """The view of a lane now, with the changes since it was last published in `news`."""
        return self._view(self[workspace], self._clock.now_ms(), self._shown.get(workspace))

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Replace the lanes by those in `rows`, and remove them from `rows`.

        Raises:
            RowUnreadable: A row does not decode, or its lane belongs to another partition.
        """
        self._last_known.update(self._lanes)
        for memory in (self._lanes, self._shown, self._uncommitted, self._due, self.stalls):
            memory.clear()
        self._positions = {}
        now_ms = self._clock.now_ms()
        for key in [key for key in rows if key.startswith(b"l/")]:
            lane = read_lane(key, rows.pop(key))
            if lane.workspace in self._plan.workspaces:
                # Its last commit by an earlier owner counts as the time of its last view.
                at_ms = min(now_ms, lane.callback_health.owned_ms or now_ms)
                self._shown[lane.workspace] = self._view(lane, at_ms, None)
            self._lanes[lane.workspace] = for_new_owner(
                lane,
                now_ms,
                self._last_known.get(lane.workspace),
            )
        self.reconfigured()
        self.publish_all()
        for name in self._shown:
            # Without its changes, which the observer gets with the first view that is committed.
            self._observer.lane(msgspec.structs.replace(self.view(name), news=()))

    def publish_all(self) -> None:
        """Have the view of each lane published again, because the topic may have lost it."""
        self._due.update(self._shown)
        self._changed.set()

    def publish(self, workspace: str) -> None:
        """Have the view of a lane published with its next step, even if it has not changed."""
        self._due.add(workspace)

    def reconfigured(self) -> None:
        """Apply a changed configuration: what it repairs may be tried at once.

        Raises:
            RowUnreadable: The home of a lane is another partition by this configuration.
        """
        if problems := self.moved(self._plan):
            raise RowUnreadable("; ".join(problems))
        now_ms = self._clock.now_ms()
        for name, lane in self._lanes.items():
            if (policy := self._plan.workspaces.get(name)) is not None:
                self._lanes[name] = reconfigured(
                    lane.in_force(policy),
                    lane,
                    self._plan.destinations_of(name),
                    now_ms,
                )
        self._changed.set()

    def moved(self, plan: Plan) -> list[str]:
        """Why this process must not adopt `plan`: the lanes here whose home is elsewhere by it."""
        mine = self._plan
        number = self._number
        names = self._lanes.keys() & plan.workspaces.keys()
        homes = {
            name: (mine if name in mine.workspaces else plan).home_of(name)
            for name in sorted(names)
        }
        return [moved_text(name, number, home) for name, home in homes.items() if home != number]

    # ----------------------------------------- what changes a lane, besides operators and admission

    def charge(self, workspace: str, reserved: Reservation | None) -> Reservation | None:
        """Book what is still reserved for a lead as spent.

        Returns:
            The reservation, or None if there is none or the workspace is not configured any more.
        """
        if reserved is None or workspace not in self._plan.workspaces:
            return None
        self._lanes[workspace] = charged(self[workspace], reserved)
        return reserved

    def count_dead_letter(self, grant: Grant, reason: str) -> None:
        name = grant.destination.workspace
        now_ms = self._clock.now_ms()
        self._lanes[name] = dead_letter_counted(
            self.policy(name),
            self[name],
            grant,
            reason,
            now_ms,
        )

    # ------------------------------------------------------------------------------- rows and views

    def records(self, workspaces: set[str]) -> list[Record]:
        """The rows of these lanes as they are now, and the views that have changed."""
        records: list[Record] = []
        now_ms = self._clock.now_ms()
        for name in sorted(workspaces):
            view_now = self.view(name)
            lane = msgspec.structs.replace(
                self[name],
                callback_health=record_owner(self[name].callback_health, now_ms),
                held_since=held_since(view_now),
            )
            self[name] = lane
            records.append(Record(self._plan.topics.state, lane_key(name), _json.encode(lane)))
            if view_now.news or name in self._due or not self._is_recent(name, now_ms):
                self._due.discard(name)  # If the transaction fails, `load` adds it again.
                self._uncommitted[name] = view_now
                records.append(
                    Record(self._plan.topics.lanes, name.encode(), _json.encode(view_now)),
                )
            else:
                self._changed.set()
        if self._shows_older_positions():
            self._changed.set()
        return records

    def committed(self) -> None:
        """The last `records` are committed."""
        for name, shown in self._uncommitted.items():
            self._shown[name] = shown
            self._positions = shown.positions
            self._observer.lane(shown)
        self._uncommitted.clear()

    async def keep_shown(self, submit: Callable[[CommitStep], asyncio.Future[None]]) -> None:
        """Publish the views that no step of a lead publishes, until cancelled.

        These are the views that change with time only, those that changed within a second of the
        last one, those of `publish_all`, and one view with newer positions if no other has them.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._changed.wait()
            await asyncio.sleep(_VIEW_EVERY_MS / 1000)
            # Cleared before the look: a change during the sleep is in what the look reads, and one
            # that comes later sets the event again.
            self._changed.clear()
            now_ms = self._clock.now_ms()
            others = [
                name
                for name in self._shown
                if name not in self._due and name in self._plan.workspaces
            ]
            changed = [
                name for name in others if _lasting(self.view(name)) != _lasting(self._shown[name])
            ]
            if not self._due and not changed and self._shows_older_positions():
                changed = others[:1]
            ready = [name for name in changed if not self._is_recent(name, now_ms)]
            for name in sorted(self._due)[:_VIEWS_AT_ONCE] + ready:
                submit(CommitStep([], [], [], name))
            if len(self._due) > _VIEWS_AT_ONCE or len(ready) < len(changed):
                self._changed.set()

    def report_gone(self) -> None:
        """Report the lanes as gone.

        They are kept as `last_known_lanes`, in case the partition is assigned to this process
        again.
        """
        self._last_known.update(self._lanes)
        for name in self._lanes:
            self._observer.lane_gone(name)

    def _view(self, lane: Lane, now_ms: int, before: LaneView | None) -> LaneView:
        name = lane.workspace
        policy = self._plan.workspaces[name]
        destinations = self._plan.destinations_of(name)
        seen = view(
            policy,
            lane,
            destinations,
            now_ms,
            before,
            self.stalls[name],
            self.runs_of(name),
        )
        return msgspec.structs.replace(seen, positions=self._positions_now())

    def _positions_now(self) -> dict[str, Position]:
        return self._intake.positions(self._plan.topics.lead_topics)

    def _shows_older_positions(self) -> bool:
        """True if a topic was read further than the last committed view says.

        A topic whose committed offset has caught up with the reader does not count: the offset says
        as much.
        """
        return any(
            self._positions.get(topic) != position
            for topic, position in self._positions_now().items()
        )

    def _is_recent(self, name: str, now_ms: int) -> bool:
        """True if its view was published within the last second."""
        shown = self._shown.get(name)
        return shown is not None and now_ms - shown.at_ms < _VIEW_EVERY_MS


@define(eq=False, repr=False)
class _LaneRows(Mapping[bytes, bytes]):
    """The rows of these lanes by key.

    A row is encoded only when it is read, so reading one costs the same with any number of lanes.
    """

    _lanes: Mapping[str, Lane]

    def __getitem__(self, key: bytes) -> bytes:
        if not key.startswith(b"l/"):
            raise KeyError(key)
        return _json.encode(self._lanes[key[2:].decode("utf-8", "replace")])

    def __iter__(self) -> Iterator[bytes]:
        return map(lane_key, self._lanes)

    def __len__(self) -> int:
        return len(self._lanes)


def _lasting(view: LaneView) -> LaneView:
    """Return what makes a view a changed one: not its time, news, positions and polls.

    Nothing is written for a poll.
    """
    runs = None if view.runs is None else RunsView(view.runs.open)
    return msgspec.structs.replace(view, at_ms=0, news=(), positions={}, runs=runs)


@define(eq=False, repr=False)
class HostWatch:
    """Asks Clay's host whether it answers, while the breaker of a lane is open.

    This notices the end of an outage without a lead that fails. It knows the lanes of one partition
    whose breaker holds leads, so a healthy partition does no work here.
    """

    _plan: Plan
    _lanes: Lanes
    _clock: Clock
    _clay: Clay
    _held: dict[str, str] = field(init=False, factory=dict)
    _any_held: asyncio.Event = field(init=False, factory=asyncio.Event)

    def note(self, destination: Destination) -> None:
        """Note that the breaker holds a lead of this destination."""
        self._held[destination.workspace] = destination.alias
        self._any_held.set()

    async def run(self, pump: Callable[[str], None]) -> None:
        """Check the hosts of the held lanes every second, until cancelled.

        `pump` is called with each workspace whose probe may have become due.
        """
        while True:
            await self._any_held.wait()
            now_ms = self._clock.now_ms()
            for name in [
                name for name in self._held if self._lanes[name].breaker.until_ms <= now_ms
            ]:
                del self._held[name]
            if not self._held:
                self._any_held.clear()
                continue
            # A copy, because `note` adds lanes while the hosts are asked.
            held = dict(self._held)
            answers = await asyncio.gather(
                *(self._clay.host_answers(alias) for alias in held.values()),
            )
            for name, answer in zip(held, answers, strict=True):
                # Read after the answers: leads and operators may have changed the lane while the
                # hosts were asked, and its breaker may be closed.
                policy = self._lanes.policy(name)
                self._lanes[name] = host_checked(
                    policy,
                    self._lanes[name],
                    answer,
                    self._clock.now_ms(),
                )
                pump(name)
            await asyncio.sleep(_CHECK_HOSTS_EVERY_S)
