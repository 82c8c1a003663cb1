"""A record under way, with the state that each module keeps of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Literal

from attrs import define, field

from stream_app.domain.delivery.recorder import AdmittedPost
from stream_app.domain.model.records import ConsumedRecord
from stream_app.partition.places import Limiter

Source = Literal["hot", "retry", "bulk", "command", "callback"]
PRIORITY: Final[dict[Source, int]] = {"hot": 0, "retry": 1, "bulk": 2}
"""The order in which a lane admits the leads of each source. A lower number goes first."""
LEAD_SOURCES: Final = PRIORITY.keys()


class StreamSuspended(Exception):
    """The stream was suspended while the record waited. It is given up, and delivered again."""


class Recalled(Exception):
    """A callback waits for the lock of this lead, which is not sent yet.

    The lead starts again after the callback.
    """


@define(eq=False, repr=False)
class EmptyRun:
    """Consecutive input records of a topic without a value. They are concluded together.

    Attributes:
        waiting: Those that wait for the step that concludes them, by offset.
        turn: Held by the record whose step that is.
    """

    waiting: dict[int, ConsumedRecord] = field(init=False, factory=dict)
    turn: asyncio.Lock = field(init=False, factory=asyncio.Lock)


@define(eq=False, repr=False)
class Execution:
    """How far a record was started. Only `runner.py` writes it.

    Attributes:
        begun: True once the record has its place in the `Limiter`. Before that it is only read
            ahead.
        task: The task that processes it.
    """

    begun: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """True if nothing processes the record: it waits for a recovery of the partition."""
        return self.task is None or self.task.done()


def nothing_to_release() -> None:
    """Do nothing: the record has no lock."""


@define(eq=False, repr=False)
class LockState:
    """What the locks keep of a record. Only `key_locks.py` writes it.

    Attributes:
        ticket: Its place in the order of lock requests; 0 before the first.
        release: Releases its lock before the `async with` block ends. Does nothing while the record
            has no lock.
    """

    ticket: int = 0
    release: Callable[[], None] = nothing_to_release


@define(eq=False, repr=False)
class AdmissionState:
    """What admission keeps of a record from one request to the next. Only `admission.py` writes it.

    Attributes:
        arrival: Its place in the order of admission requests; 0 before the first.
        since_ms: Since when it waits for its present admission, on the monotonic clock; None if it
            does not ask for one.
        recalled: True if a callback waits for its lock, and it has not asked for admission since.
    """

    arrival: int = 0
    since_ms: int | None = None
    recalled: bool = False


@define(eq=False, repr=False)
class InFlight:
    """A consumed record that is being processed. It survives a recovery of the partition.

    Attributes:
        suspended: Set before a rebalance or shutdown: the record must be given up if it only waits.
        limiter: Counts it while it is under way.
        empty_run: The run that it belongs to, if it is an input record without a value.
        execution: How far it was started, and the task that processes it.
        lock: What the locks keep of it.
        admission: What admission keeps of it.
        post: What is known of its last POST, from the write-ahead on, except while the POST is
            under way. Only `lead.py` writes it.
        next_may_start: Set when the next record of its sequence (`RecordRunner`) may start.
        waits: True while it waits for admission or for a lock.
        turns: How often such a wait has ended.
        size: How many bytes its value has.
    """

    consumed: ConsumedRecord
    source: Source
    suspended: asyncio.Event
    limiter: Limiter
    empty_run: EmptyRun | None = None
    execution: Execution = field(init=False, factory=Execution)
    lock: LockState = field(init=False, factory=LockState)
    admission: AdmissionState = field(init=False, factory=AdmissionState)
    post: AdmittedPost | None = field(init=False, default=None)
    next_may_start: asyncio.Event = field(init=False, factory=asyncio.Event)
    waits: bool = field(init=False, default=False)
    turns: int = field(init=False, default=0)
    size: int = field(init=False)

    @size.default
    def _size(self) -> int:
        return len(self.consumed.value or b"")

    def waiting(self) -> _Waiting:
        """Mark it as waiting inside the `with` block."""
        return _Waiting(self)

    async def wait_or_give_up(self, turn: asyncio.Future[Any]) -> None:
        """Wait until `turn` is done.

        Raises:
            StreamSuspended: The stream is suspended, even if `turn` is done at the same time: an
                earlier record that was given up may have ended it, and this record must not
                overtake that one.
        """
        suspended = asyncio.ensure_future(self.suspended.wait())
        with self.waiting():
            try:
                await asyncio.wait((turn, suspended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                suspended.cancel()
        if self.suspended.is_set():
            raise StreamSuspended

    def release_next(self) -> None:
        """Let the next record of its sequence start: this one no longer waits for admission."""
        self.next_may_start.set()

    def hold_next(self) -> None:
        """Have the next record of its sequence wait: this one starts again and goes first."""
        self.next_may_start.clear()


@define(eq=False, repr=False)
class _Waiting:
    """A `with` block in which a record waits.

    `contextlib.contextmanager` would cost each lead more than the wait itself.
    """

    _in_flight: InFlight

    def __enter__(self) -> None:
        self._in_flight.waits = True

    def __exit__(self, *_: object) -> None:
        self._in_flight.waits = False
        self._in_flight.turns += 1
