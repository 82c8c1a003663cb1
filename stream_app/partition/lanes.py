"""The lanes of one partition in memory: changed at once, written with the step that is committed next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from stream_app.core.delivery import lane_key
from stream_app.core.lane import Lane, reconfigured, take_over
from stream_app.core.lane_view import view
from stream_app.core.lead import home_partition
from stream_app.core.messages import LaneView
from stream_app.core.policy import Plan
from stream_app.core.record import Record
from stream_app.core.silence import listening
from stream_app.line import Clock
from stream_app.partition.ports import Observer
from stream_app.partition.rows import RowUnreadable, read_lane

_json: Final = msgspec.json.Encoder()
_VIEW_EVERY_MS: Final = 1_000


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
        self._lanes: dict[str, Lane] = {}
        self._views: dict[str, LaneView] = {}

    def __getitem__(self, workspace: str) -> Lane:
        """A workspace that was never seen begins with a lane of its own."""
        lane = self._lanes.get(workspace)
        if lane is None:
            lane = self._lanes[workspace] = take_over(Lane(workspace, self._number), self._clock.now_ms())
        return lane

    def __setitem__(self, workspace: str, lane: Lane) -> None:
        self._lanes[workspace] = lane

    def change(self, workspace: str, how: Callable[[Lane], Lane]) -> None:
        """Belongs to the step of that workspace that is committed next."""
        self._lanes[workspace] = how(self[workspace])

    def view(self, workspace: str) -> LaneView:
        """The lane for people, as it is now, with what happened since it was last published."""
        destinations = self._plan.destinations_of(workspace)
        shown = self._views.get(workspace)
        return view(self._plan.workspaces[workspace], self[workspace], destinations, self._clock.now_ms(), shown)

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Begin again with what a take-over has read, and take it out of `rows`. Raises RowUnreadable."""
        self._heard.update(self._lanes)
        self._lanes.clear()
        now_ms = self._clock.now_ms()
        for key in [key for key in rows if key.startswith(b"l/")]:
            lane = read_lane(key, rows.pop(key))
            self._check_home(lane)
            self._lanes[lane.workspace] = take_over(lane, now_ms, self._heard.get(lane.workspace))
        self.reconfigured()

    def reconfigured(self) -> None:
        """The plan may be another one: what it mends may be tried at once."""
        now_ms = self._clock.now_ms()
        for name, lane in self._lanes.items():
            self._lanes[name] = reconfigured(lane, self._plan.destinations, now_ms)

    def records(self, workspaces: set[str]) -> list[Record]:
        """Their rows as they are now, and what people see of them when it has changed."""
        records: list[Record] = []
        now_ms = self._clock.now_ms()
        for name in sorted(workspaces):
            lane = self[name]
            lane = self[name] = msgspec.structs.replace(lane, hearing=listening(lane.hearing, now_ms))
            records.append(Record(self._plan.topics.state, lane_key(name), _json.encode(lane)))
            shown = self._views.get(name)
            seen = self.view(name)
            if shown is None or seen.news or now_ms - shown.at_ms >= _VIEW_EVERY_MS:
                self._views[name] = seen
                records.append(Record(self._plan.topics.lanes, name.encode(), _json.encode(seen)))
                self._observer.lane(seen)
        return records

    def gone(self) -> None:
        """Another process may have them now. What this one has heard of Clay counts, should they come back to it."""
        self._heard.update(self._lanes)
        for name in self._lanes:
            self._observer.lane_gone(name)

    def _check_home(self, lane: Lane) -> None:
        home = home_partition(lane.workspace, self._plan.partitions, self._plan.pins)
        if lane.workspace in self._plan.workspaces and home != self._number:
            raise RowUnreadable(
                f"workspace {lane.workspace} has its lane in partition {self._number}, the configuration says {home}: "
                f"set workspaces.{lane.workspace}.partition = {self._number}, or use a new workspace name"
            )
