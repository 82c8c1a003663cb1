"""What operations see and change of a partition (`operate.Desk`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from stream_app.domain.delivery.recorder import Step
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.lead import home_partition
from stream_app.domain.messages import CommandAnswer, LaneView
from stream_app.domain.policy import Plan
from stream_app.domain.record import Taken
from stream_app.partition.admission import Gate
from stream_app.partition.key_locks import Turns
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer
from stream_app.partition.state import Rows


class Desk(Protocol):
    """What the line's desk does for operations, too."""

    def marked(self, *places: str) -> bytes | None: ...

    def passed(self, taken: Taken) -> bool: ...

    async def conclude(self, walk: object, step: Step) -> None: ...

    async def confirm(self, walk: object, key: bytes) -> None: ...


class Console:
    """The rows, lanes and gate of partition `number`, changed in place; steps go through its desk."""

    def __init__(
        self,
        number: int,
        plan: Plan,
        desk: Desk,
        rows: Rows,
        lanes: Lanes,
        gate: Gate,
        turns: Turns,
        observer: Observer,
    ) -> None:
        self._number = number
        self._plan = plan
        self._rows = rows
        self._lanes = lanes
        self._gate = gate
        self._observer = observer
        self.marked: Callable[..., bytes | None] = desk.marked
        self.passed: Callable[[Taken], bool] = desk.passed
        self.is_free = turns.is_free
        self.conclude: Callable[[object, Step], Coroutine[Any, Any, None]] = desk.conclude
        self.confirm: Callable[[object, bytes], Coroutine[Any, Any, None]] = desk.confirm

    def row(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def lane(self, workspace: str) -> Lane:
        return self._lanes[workspace]

    def keep(self, lane: Lane) -> None:
        self._lanes[lane.workspace] = lane

    def lane_view(self, workspace: str) -> LaneView:
        return self._lanes.view(workspace)

    def in_flight(self, workspace: str) -> int:
        return self._gate.in_flight_of(workspace)

    def ask_again(self) -> None:
        self._gate.ask_again()

    def answered(self, answer: CommandAnswer) -> None:
        self._observer.answered(answer)
        self._gate.shared = is_shared(self._plan, self._number)
        self._gate.ask_again()


def is_shared(plan: Plan, number: int) -> bool:
    """Whether several workspaces live in this partition."""
    return sum(home_partition(name, plan.partitions, plan.pins) == number for name in plan.workspaces) > 1
