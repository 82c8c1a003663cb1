"""The way back of one partition: what callbacks see and change of it, and the clock of the leads without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol

from stream_app.domain.callback.interpret import Booking, book
from stream_app.domain.callback.timeout import OVERDUE, WAITING
from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.suppression import Suppression
from stream_app.domain.messages import Callback
from stream_app.domain.policy import Destination, Plan
from stream_app.domain.record import ConsumedRecord
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.key_locks import KeyLock, Keys
from stream_app.partition.lanes import Lanes
from stream_app.partition.state import Rows
from stream_app.pipeline.callback import InFlight as CallbackWalk
from stream_app.pipeline.ports import Clock
from stream_app.pipeline.timeout import Archive, CallbackUrlProbe, Overdue

_AT_ONCE: Final = 200
_LOOK_AGAIN_S: Final = 60.0  # at the latest: the wall clock may step; and so often a lane is known to be listened to
_PAUSE_S: Final = 5.0


class _Empty:
    """An archive in which nothing is."""

    async def fetch(self, places: Sequence[str]) -> dict[str, ConsumedRecord]:
        return {}


async def _nobody_asked() -> str:
    return ""


class PartitionState(Protocol):
    """What the line's desk does for callbacks, too."""

    def find(self, key: bytes) -> Delivery | None: ...

    def alias(self, key: bytes) -> bytes | None: ...

    def marked(self, *places: str) -> bytes | None: ...

    def passed(self, consumed: ConsumedRecord) -> bool: ...

    def suppression(self, key: bytes) -> Suppression | None: ...

    def lock(self, in_flight: CallbackWalk, keys: Keys) -> KeyLock: ...

    async def conclude(self, in_flight: object, step: WriteBatch) -> None: ...

    async def confirm(self, in_flight: object, key: bytes) -> None: ...

    def charge(self, workspace: str, reservation: Reservation) -> None: ...


class Outside(NamedTuple):
    """What is asked about leads that nobody calls back about; see overdue.py."""

    archive: Archive
    reach: CallbackUrlProbe


class CallbackState:
    """`correlate.PartitionState` and `overdue.PartitionState`. `submit`: the partition's; `trouble` is told when Kafka
    cannot be read.
    """

    def __init__(
        self,
        plan: Plan,
        desk: PartitionState,
        rows: Rows,
        lanes: Lanes,
        admission: AdmissionQueue,
        clock: Clock,
        submit: Callable[[WriteBatch], asyncio.Future[None]],
        outside: Outside,
        trouble: Callable[[Exception], None],
    ) -> None:
        self.find = desk.find
        self.alias = desk.alias
        self.marked: Callable[..., bytes | None] = desk.marked
        self.passed = desk.passed
        self.suppression = desk.suppression
        self.lock = desk.lock
        self.conclude: Callable[[object, WriteBatch], Coroutine[Any, Any, None]] = desk.conclude
        self.confirm: Callable[[object, bytes], Coroutine[Any, Any, None]] = desk.confirm
        self.charge = desk.charge
        self.submit = submit
        self._plan = plan
        self._lanes = lanes
        self._admission = admission
        self._clock = clock
        self._trouble = trouble
        self._awaiting = DeadlineQueue(plan, rows, lanes)
        self._overdue = Overdue(plan, self, outside.archive, outside.reach, clock)
        self._sooner = asyncio.Event()
        self._listened_ms = 0

    def book(self, row: Delivery, there: Destination, callback: Callback) -> Booking:
        name = there.workspace
        booking = book(self._plan.workspaces[name], self._lanes[name], row, there, callback, self._clock.now_ms())
        self._lanes[name] = booking.lane
        asyncio.get_running_loop().call_soon(
            self._admission.pump
        )  # there may be room in the budget, or no stop any more
        return booking

    def lane(self, workspace: str) -> Lane:
        return self._lanes[workspace]

    def keep(self, lane: Lane) -> None:
        self._lanes[lane.workspace] = lane

    def clear(self) -> None:
        """The rows are other ones: `run` begins anew."""
        self._awaiting.clear()

    def note(self, step: WriteBatch) -> None:
        """A step with events is submitted: its lead may wait from now on."""
        last = step.events[-1]
        waits = last.status in OVERDUE
        if last.status in WAITING:
            there = self._plan.destination(last.workspace, last.destination)
            waits = there is not None and there.callbacks
        if waits and self._awaiting.add(step.rows[0][0], last.status):
            self._sooner.set()

    async def run(self) -> None:
        """Move on whoever's time ends, until cancelled or a commit fails."""
        try:
            await self._awaiting.load()
            while True:
                now_ms = self._clock.now_ms()
                due = self._awaiting.pop_due(now_ms, _AT_ONCE)
                if due:
                    await self._move(due)
                else:
                    self._listen(now_ms)
                    await self._sleep(now_ms)
        except StateStoreError:
            return  # told already; it begins again when the partition has been taken over

    async def _move(self, keys: list[bytes]) -> None:
        try:
            await self._overdue.tell(keys)
            await self._overdue.park(keys)
        except BrokerUnavailable as error:
            self._trouble(error)
            await asyncio.sleep(_PAUSE_S)
        self._awaiting.put_back(keys, self._clock.now_ms())  # those that Kafka did not give

    def _listen(self, now_ms: int) -> None:
        """Write down now and then that somebody is here, else a successor takes the time for one without an owner."""
        if now_ms - self._listened_ms >= _LOOK_AGAIN_S * 1000:
            self._listened_ms = now_ms
            for name in self._awaiting.workspaces():
                self.submit(WriteBatch([], [], [], name))

    async def _sleep(self, now_ms: int) -> None:
        at_ms = self._awaiting.next_ms()
        self._sooner.clear()
        delay_s = None if at_ms is None else min(_LOOK_AGAIN_S, max(0.001, (at_ms - now_ms) / 1000))
        try:
            async with asyncio.timeout(delay_s):
                await self._sooner.wait()
        except TimeoutError:
            pass


NOTHING_OUTSIDE: Final = Outside(_Empty(), _nobody_asked)
"""Where no record can be read again, and nobody tries the callback URL."""
