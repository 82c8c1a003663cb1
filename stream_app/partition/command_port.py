"""What operations see and change of a partition (`operate.PartitionState`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.lead import home_partition
from stream_app.domain.messages import CommandAnswer, LaneView
from stream_app.domain.policy import Plan
from stream_app.domain.record import ConsumedRecord
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.key_locks import KeyLocks
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer
from stream_app.partition.state import Rows


class PartitionState(Protocol):
    """What the line's desk does for operations, too."""

    def marked(self, *places: str) -> bytes | None: ...

    def passed(self, consumed: ConsumedRecord) -> bool: ...

    async def conclude(self, in_flight: object, step: WriteBatch) -> None: ...

    async def confirm(self, in_flight: object, key: bytes) -> None: ...


class Console:
    """The rows, lanes and gate of partition `number`, changed in place; steps go through its desk."""

    def __init__(
        self,
        number: int,
        plan: Plan,
        desk: PartitionState,
        rows: Rows,
        lanes: Lanes,
        admission: AdmissionQueue,
        turns: KeyLocks,
        observer: Observer,
    ) -> None:
        self._number = number
        self._plan = plan
        self._rows = rows
        self._lanes = lanes
        self._admission = admission
        self._observer = observer
        self.marked: Callable[..., bytes | None] = desk.marked
        self.passed: Callable[[ConsumedRecord], bool] = desk.passed
        self.is_free = turns.is_free
        self.conclude: Callable[[object, WriteBatch], Coroutine[Any, Any, None]] = desk.conclude
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
        return self._admission.in_flight_of(workspace)

    def ask_again(self) -> None:
        self._admission.ask_again()

    def answered(self, answer: CommandAnswer) -> None:
        self._observer.answered(answer)
        self._admission.shared = is_shared(self._plan, self._number)
        self._admission.ask_again()


def is_shared(plan: Plan, number: int) -> bool:
    """Whether several workspaces live in this partition."""
    return sum(home_partition(name, plan.partitions, plan.pins) == number for name in plan.workspaces) > 1
