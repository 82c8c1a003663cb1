"""The lanes of one partition in memory: changed at once, written with the step that is committed next.

What people see of them is published on change. It is shown once that is committed, and news are what has happened since
the last time: a step that is lost with its transaction, or a process that has only just begun, loses none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.delivery.state_machine import lane_key
from stream_app.domain.lane.callback_health import listening
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.stall_detector import NOTHING, StallDetector
from stream_app.domain.lane.takeover import reconfigured, take_over
from stream_app.domain.lane.view import view
from stream_app.domain.lead.lead import home_partition
from stream_app.domain.messages import LaneView
from stream_app.domain.policy import Plan
from stream_app.domain.record import Record
from stream_app.partition.ports import Observer
from stream_app.partition.state import RowUnreadable, read_lane
from stream_app.pipeline.ports import Clock

_json: Final = msgspec.json.Encoder()
_VIEW_EVERY_MS: Final = 1_000
_LOOK_EVERY_S: Final = 60.0
_NEVER: Final = 0


class Lanes:
    """Workspace -> lane, for the workspaces that live in partition `number`. `heard`: see desk.Partition."""

    def __init__(
        self, number: int, plan: Plan, clock: Clock, observer: Observer, heard: dict[str, Lane] | None = None
    ) -> None:
        self._heard = {} if heard is None else heard
        self._number = number
        self._plan = plan
        self._clock = clock
        self._observer = observer
        self.hanging: dict[str, StallDetector] = {}  # by workspace; in no row: a new owner has no requests under way
        self._lanes: dict[str, Lane] = {}
        self._shown: dict[str, LaneView] = {}  # as it was last published
        self._going: dict[str, LaneView] = {}  # in the transaction under way
        self._behind = asyncio.Event()  # there may be a change that was not published

    def __getitem__(self, workspace: str) -> Lane:
        """A workspace that was never seen begins with a lane of its own."""
        lane = self._lanes.get(workspace)
        if lane is None:
            lane = self._lanes[workspace] = take_over(Lane(workspace, self._number), self._clock.now_ms())
            self._shown[workspace] = msgspec.structs.replace(self.view(workspace), at_ms=_NEVER)
        return lane

    def __setitem__(self, workspace: str, lane: Lane) -> None:
        self._lanes[workspace] = lane

    def change(self, workspace: str, how: Callable[[Lane], Lane]) -> None:
        """Belongs to the step of that workspace that is committed next."""
        self._lanes[workspace] = how(self[workspace])

    def view(self, workspace: str) -> LaneView:
        """The lane for people, as it is now, with what happened since it was last published."""
        return self._view(self[workspace], self._clock.now_ms(), self._shown.get(workspace))

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Begin again with what a take-over has read, and take it out of `rows`. Raises RowUnreadable."""
        self._heard.update(self._lanes)
        for memory in (self._lanes, self._shown, self._going, self.hanging):
            memory.clear()
        now_ms = self._clock.now_ms()
        for key in [key for key in rows if key.startswith(b"l/")]:
            lane = read_lane(key, rows.pop(key))
            self._check_home(lane)
            if lane.workspace in self._plan.workspaces:
                at_ms = min(now_ms, lane.hearing.listened_ms or now_ms)  # of its last commit
                self._shown[lane.workspace] = self._view(lane, at_ms, None)
            self._lanes[lane.workspace] = take_over(lane, now_ms, self._heard.get(lane.workspace))
        self.reconfigured()
        for name in self._shown:
            self._observer.lane(msgspec.structs.replace(self.view(name), news=()))  # that is told when it is published

    def reconfigured(self) -> None:
        """The plan may be another one: what it mends may be tried at once."""
        now_ms = self._clock.now_ms()
        for name, lane in self._lanes.items():
            if (policy := self._plan.workspaces.get(name)) is not None:
                self._lanes[name] = reconfigured(policy, lane, self._plan.destinations, now_ms)
        self._behind.set()

    def records(self, workspaces: set[str]) -> list[Record]:
        """Their rows as they are now, and what people see of them when it has changed."""
        records: list[Record] = []
        now_ms = self._clock.now_ms()
        for name in sorted(workspaces):
            lane = self[name]
            lane = self[name] = msgspec.structs.replace(lane, hearing=listening(lane.hearing, now_ms))
            records.append(Record(self._plan.topics.state, lane_key(name), _json.encode(lane)))
            seen = self.view(name)
            if seen.news or not self._is_recent(name, now_ms):
                self._going[name] = seen
                records.append(Record(self._plan.topics.lanes, name.encode(), _json.encode(seen)))
            else:
                self._behind.set()
        return records

    def committed(self) -> None:
        """What `records` gave last is in Kafka."""
        for name, seen in self._going.items():
            self._shown[name] = seen
            self._observer.lane(seen)
        self._going.clear()

    async def keep_shown(self, submit: Callable[[WriteBatch], asyncio.Future[None]]) -> None:
        """Publish what changes by time alone, and what the last step of a burst has left behind. Until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._behind.wait()
            await asyncio.sleep(_VIEW_EVERY_MS / 1000)
            self._behind.clear()
            now_ms = self._clock.now_ms()
            for name in [name for name in self._shown if not _same(self.view(name), self._shown[name])]:
                if self._is_recent(name, now_ms):
                    self._behind.set()
                else:
                    submit(WriteBatch([], [], [], name))

    def gone(self) -> None:
        """Another process may have them now. What this one has heard of Clay counts, should they come back to it."""
        self._heard.update(self._lanes)
        for name in self._lanes:
            self._observer.lane_gone(name)

    def _view(self, lane: Lane, now_ms: int, before: LaneView | None) -> LaneView:
        name = lane.workspace
        policy, destinations = self._plan.workspaces[name], self._plan.destinations_of(name)
        return view(policy, lane, destinations, now_ms, before, self.hanging.get(name, NOTHING))

    def _is_recent(self, name: str, now_ms: int) -> bool:
        """Whether it was published just now."""
        shown = self._shown.get(name)
        return shown is not None and now_ms - shown.at_ms < _VIEW_EVERY_MS

    def _check_home(self, lane: Lane) -> None:
        home = home_partition(lane.workspace, self._plan.partitions, self._plan.pins)
        if lane.workspace in self._plan.workspaces and home != self._number:
            raise RowUnreadable(
                f"workspace {lane.workspace} has its lane in partition {self._number}, the configuration says {home}: "
                f"set workspaces.{lane.workspace}.partition = {self._number}, or use a new workspace name"
            )


def _same(one: LaneView, other: LaneView) -> bool:
    """Whether they say the same, if at other times."""
    return msgspec.structs.replace(one, at_ms=0, news=()) == msgspec.structs.replace(other, at_ms=0, news=())
