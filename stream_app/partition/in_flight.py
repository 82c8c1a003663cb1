"""The records under way.

What is known of each, how many there may be, what each has locked, and when each is acked.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Final, Literal

from attrs import define, field

from stream_app.domain.delivery.recorder import Attempt
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import DeliveryPolicy
from stream_app.domain.views.lane import Position
from stream_app.partition.ports import PartitionStream

Source = Literal["hot", "retry", "bulk", "command", "callback"]
PRIORITY: Final[dict[Source, int]] = {"hot": 0, "retry": 1, "bulk": 2}


class GiveUp(Exception):
    """The stream is suspended while the lead waits: the record is given up and delivered again."""


class Recalled(Exception):
    """A callback waits for the lock of this lead, which is not sent yet.

    The lead starts again behind the callback.
    """


def nothing_to_unlock() -> None:
    """Do nothing: the record has no lock."""


@define(eq=False, repr=False)
class EmptyRun:
    """Input records without a value that follow each other on a topic. They are concluded together.

    Attributes:
        waiting: Those that wait for the step that concludes them, by offset.
        turn: Held by the record whose step that is.
    """

    waiting: dict[int, ConsumedRecord] = field(init=False, factory=dict)
    turn: asyncio.Lock = field(init=False, factory=asyncio.Lock)


@define(eq=False, repr=False)
class AdmissionState:
    """What admission keeps of a record while others write about it. Only `admission.py` writes it.

    Attributes:
        arrival: Its place in the order of admission requests; 0 before the first.
        since_ms: Since when it waits for its present admission, on the monotonic clock.
        recalled: True if a callback waits for its lock.
    """

    arrival: int = 0
    since_ms: int | None = None
    recalled: bool = False


@define(eq=False, repr=False)
class InFlight:
    """A consumed record that is being processed. It survives a recovery of the partition.

    Attributes:
        begun: False as long as it is only taken ahead.
        passed: Set when the next record of its topic may start; of its workspace, where workspaces
            share the partition.
        limiter: Counts it from its begin to its end.
        finished: True if it is concluded and not acked yet.
        waits: True while it waits for admission or for a lock.
        turns: How often such a wait has ended.
        ticket: Its place in the order of lock requests; 0 before the first.
        attempt: What is known of its last POST, from the write-ahead on, except while the POST is
            under way. Only `lead.py` writes it.
        run: The run that it belongs to, if it is an input record without a value.
        unlock: Releases its lock before the `async with` of it ends. Does nothing while it has
            none.
    """

    consumed: ConsumedRecord
    source: Source
    suspended: asyncio.Event
    limiter: Limiter
    begun: bool = False
    passed: asyncio.Event = field(init=False, factory=asyncio.Event)
    finished: bool = False
    waits: bool = False
    turns: int = 0
    ticket: int = 0
    admission: AdmissionState = field(init=False, factory=AdmissionState)
    attempt: Attempt | None = None
    run: EmptyRun | None = None
    unlock: Callable[[], None] = nothing_to_unlock
    task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """How many bytes its value has."""
        return len(self.consumed.value or b"")

    def waiting(self) -> _Waiting:
        """Mark it as waiting inside the `with` block."""
        return _Waiting(self)

    async def wait_aside(self, turn: asyncio.Future[None]) -> None:
        """Give the place up until `turn` is done.

        Raises:
            GiveUp: The stream is suspended. A turn that came at the same time does not count,
                because it may come from an earlier record that has just been given up, and this
                record must not overtake it.
        """
        suspended = asyncio.ensure_future(self.suspended.wait())
        with self.limiter.released(), self.waiting():
            try:
                await asyncio.wait((turn, suspended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                suspended.cancel()
        if self.suspended.is_set():
            raise GiveUp

    def release_next(self) -> None:
        """Let the next record of the topic start: this one no longer waits for admission."""
        self.passed.set()


@define(eq=False, repr=False)
class _Waiting:
    """A `with` block in which a record waits.

    A generator would cost each lead more than the wait.
    """

    _in_flight: InFlight

    def __enter__(self) -> None:
        self._in_flight.waits = True

    def __exit__(self, *_: object) -> None:
        self._in_flight.waits = False
        self._in_flight.turns += 1


MAX_UNDER_WAY_BYTES: Final = 33_554_432
"""The bytes of the records under way in a partition, those that wait included."""
MAX_WAITING_BYTES: Final = 8_388_608
"""The bytes of the records that wait for their lanes in memory, in a partition that workspaces
share.
"""
# records for each lead that may wait for its lane: reading is far cheaper than processing
_AHEAD: Final = 4
_PAUSE_EVERY: Final = 32  # records that are taken without a pause cost about a millisecond
_MAX_RELEASED: Final = 10  # records that wait for a lock, for each place


class Limiter:
    """Bounds how many records are under way, by number and bytes.

    A record always enters; the next one waits until a place is free.

    A record that waits for a lock gives its place up meanwhile. Ten times as many of those are
    allowed. One that waits in the window of a shared partition (`admission.py`) gives its place up,
    too.
    """

    def __init__(self, places: int) -> None:
        self._left = places
        self._left_released = places * _MAX_RELEASED
        self._left_bytes = MAX_UNDER_WAY_BYTES
        self._some = asyncio.Event()
        self._some.set()

    def enter(self, size: int = 0) -> None:
        """Take a place for a record of this many bytes."""
        self._left_bytes -= size
        self._count(-1, 0)

    def leave(self, size: int = 0) -> None:
        self._left_bytes += size
        self._count(1, 0)

    async def wait(self) -> None:
        """Wait until a place is free."""
        await self._some.wait()

    @contextmanager
    def released(self, counted: int = 1) -> Iterator[None]:
        """Give the place of a record up inside the `with` block.

        `counted`: 0 where something else bounds such.
        """
        self._count(1, -counted)
        try:
            yield
        finally:
            self._count(-1, counted)

    def _count(self, places: int, released: int) -> None:
        self._left += places
        self._left_released += released
        if self._left > 0 and self._left_released > 0 and self._left_bytes > 0:
            self._some.set()
        else:
            self._some.clear()


class TakenAhead:
    """Bounds the records of one topic that were taken and have not begun, by number and bytes."""

    def __init__(self, policy: DeliveryPolicy) -> None:
        self._records_left = policy.max_waiting * _AHEAD
        self._bytes_left = MAX_WAITING_BYTES
        self._some = asyncio.Event()
        self._some.set()
        self._since_pause = 0

    def enter(self, in_flight: InFlight) -> None:
        self._count(in_flight, -1)

    def leave(self, in_flight: InFlight) -> None:
        self._count(in_flight, 1)

    async def wait(self) -> None:
        """Wait until one more record may be taken. Others get the event loop now and then."""
        self._since_pause = (self._since_pause + 1) % _PAUSE_EVERY
        if not self._since_pause:
            await asyncio.sleep(0)
        await self._some.wait()

    def _count(self, in_flight: InFlight, sign: int) -> None:
        self._records_left += sign
        self._bytes_left += sign * in_flight.size
        if self._records_left > 0 and self._bytes_left > 0:
            self._some.set()
        else:
            self._some.clear()


class Intake:
    """How far the topics of the partition were read, and which of those records have no step yet.

    A record is taken with its first step, which writes an event. If the transaction of that step
    fails, it is not. A record that an earlier owner took is taken when its row shows that.
    """

    def __init__(self) -> None:
        self._streams: dict[str, PartitionStream] = {}
        self._next: dict[str, int] = {}
        self._untaken: dict[str, set[InFlight]] = {}
        # taken since the last transaction began, and from where
        self._submitted: dict[InFlight, set[InFlight]] = {}
        self._written: dict[InFlight, set[InFlight]] = {}  # taken with the transaction under way

    def begin(self, stream: PartitionStream) -> None:
        """A new assignment begins, which reads from the committed offset on."""
        self._streams[stream.topic] = stream
        self._next.pop(stream.topic, None)
        self._untaken[stream.topic] = set()

    def read(self, in_flight: InFlight) -> None:
        """A record was read."""
        consumed = in_flight.consumed
        self._next[consumed.topic] = consumed.offset + 1
        self._untaken[consumed.topic].add(in_flight)

    def take(self, in_flight: InFlight) -> None:
        """A record is taken or concluded.

        It may have been before, and a record of the bootstrap was never read.
        """
        untaken = self._untaken.get(in_flight.consumed.topic)
        if untaken is not None and in_flight in untaken:
            untaken.remove(in_flight)
            self._submitted[in_flight] = untaken

    def begin_transaction(self) -> None:
        """A transaction begins, which writes the steps that took records."""
        self._written = self._submitted
        self._submitted = {}

    def committed(self) -> None:
        """The transaction under way is committed."""
        self._written = {}

    def lose(self) -> None:
        """The transaction under way failed, with all steps in it and behind it.

        Their records were not taken.
        """
        for in_flight, untaken in [*self._written.items(), *self._submitted.items()]:
            untaken.add(in_flight)
        self._written = {}
        self._submitted = {}

    def positions(self, topics: Iterable[str]) -> dict[str, Position]:
        """The positions in these topics, where they say more than the committed offset.

        A record that was given up counts as untaken until the next assignment, which reads it
        again.
        """
        positions: dict[str, Position] = {}
        for topic in topics:
            offset = self._next.get(topic, 0)
            if offset > self._passed(topic):
                positions[topic] = Position(offset, len(self._untaken[topic]))
        return positions

    def _passed(self, topic: str) -> int:
        stream = self._streams.get(topic)
        return (stream.committed() or 0) if stream is not None else 0


Keys = Callable[[], tuple[bytes, ...]]
"""Returns the keys that a record needs, each once, by the rows in memory."""


class KeyLocks:
    """Exclusive locks on the rows of one partition.

    So copies of a lead, and leads of one person, are processed one after the other. A record
    requests all of its keys at once. It gets all of them, or waits in the queue of each. Queues are
    ordered by ticket, so a later record never overtakes an earlier one with which it shares a key.
    A record that waits holds no key, so there is no deadlock. Callbacks go before leads, because
    they never wait for admission.

    Args:
        recall: Makes the holder of a key that a callback waits for release its locks and start
            again, if it waits for admission, now or later.
    """

    def __init__(self, recall: Callable[[InFlight], None]) -> None:
        self.recall = recall
        self._holders: dict[bytes, KeyLock] = {}
        self._queues: dict[bytes, deque[KeyLock]] = {}
        self._tickets = 0

    def lock(self, in_flight: InFlight, keys: Keys) -> KeyLock:
        """Return an exclusive lock on these keys, for `async with`. Entering it may raise GiveUp.

        `keys` is called again after a wait, and may then return more keys. `in_flight.unlock`
        releases it early.
        """
        if not in_flight.ticket:
            self._tickets += 1
            in_flight.ticket = self._tickets
        return KeyLock(self, in_flight, keys, (in_flight.source != "callback", in_flight.ticket))

    def is_free(self, keys: tuple[bytes, ...]) -> bool:
        """True if no record holds any of these keys.

        The next step of a holder would undo a change.
        """
        return self._holders.keys().isdisjoint(keys)

    def acquire(self, lock: KeyLock) -> bool:
        """Acquire the keys, or queue for them.

        Keys that the lock held before are released. True: they are acquired.
        """
        before = lock.keys
        lock.keys = lock.needs()
        for key in before:
            del self._holders[key]
        lock.holds = self._is_free(lock)
        if lock.holds:
            self._holders.update(dict.fromkeys(lock.keys, lock))
        else:
            lock.granted = asyncio.get_running_loop().create_future()
            for key in lock.keys:
                insort(self._queues.setdefault(key, deque()), lock, key=attrgetter("order"))
        # Behind its own request: this lock stands in its place among those that wait for a key that
        # it has just released.
        self._grant_next(before)
        return lock.holds

    def holder_of(self, lock: KeyLock) -> InFlight | None:
        """A record that holds one of the keys that this lock waits for."""
        return next(
            (self._holders[key].in_flight for key in lock.keys if key in self._holders),
            None,
        )

    def leave(self, lock: KeyLock) -> None:
        """Release the keys, or leave their queues."""
        # Emptied first: behind an early `unlock`, `__aexit__` calls this again, when another record
        # may hold these keys.
        lock.in_flight.unlock = nothing_to_unlock
        keys = lock.keys
        lock.keys = ()
        for key in keys:
            if lock.holds:
                del self._holders[key]
            else:
                self._queues[key].remove(lock)
                self._drop_empty(key)
        if self._queues:
            self._grant_next(keys)

    def _is_free(self, lock: KeyLock) -> bool:
        if not self._holders.keys().isdisjoint(lock.keys):
            return False
        queues = self._queues
        return not queues or all(
            key not in queues or lock.order < queues[key][0].order for key in lock.keys
        )

    def _grant_next(self, keys: tuple[bytes, ...]) -> None:
        """Grant these keys to the locks that are first in the queue of each of their keys."""
        for key in keys:
            queue = self._queues.get(key)
            if not queue or key in self._holders:
                continue
            lock = queue[0]
            if all(
                wanted not in self._holders and self._queues[wanted][0] is lock
                for wanted in lock.keys
            ):
                for wanted in lock.keys:
                    self._queues[wanted].popleft()
                    self._drop_empty(wanted)
                    self._holders[wanted] = lock
                lock.holds = True
                lock.granted.set_result(None)

    def _drop_empty(self, key: bytes) -> None:
        if not self._queues[key]:
            del self._queues[key]


@define(eq=False, repr=False)
class KeyLock:
    """The lock of one record.

    Attributes:
        order: Its place among those that wait.
        granted: Done when it holds its keys.
    """

    _key_locks: KeyLocks
    in_flight: InFlight
    needs: Keys
    order: tuple[bool, int]
    keys: tuple[bytes, ...] = ()
    holds: bool = False
    granted: asyncio.Future[None] = field(init=False)

    async def __aenter__(self) -> None:
        key_locks = self._key_locks
        in_flight = self.in_flight
        while not key_locks.acquire(self):
            in_flight.release_next()
            try:
                if (
                    in_flight.source == "callback"
                    and (holder := key_locks.holder_of(self)) is not None
                ):
                    key_locks.recall(holder)
                await in_flight.wait_aside(self.granted)
            # Also if the keys were granted in the turn of the cancellation: they are released.
            except BaseException:
                key_locks.leave(self)
                raise
            # Second look: the step of the earlier holder may have linked more aliases to this
            # person. Then the lock requests all of the keys again.
            if set(self.needs()) <= set(self.keys):
                break
        in_flight.unlock = partial(key_locks.leave, self)

    async def __aexit__(self, *_: object) -> None:
        self._key_locks.leave(self)


@define(eq=False, repr=False)
class AckTracker:
    """The records of one stream that are under way.

    Only the finished prefix is acked, so a crash loses nothing.

    A Faust ack commits its offset even if an earlier record is unfinished: see
    docs/reference/faust.md.
    """

    _stream: PartitionStream
    _unfinished: deque[InFlight] = field(init=False, factory=deque)
    _broken: bool = field(init=False, default=False)
    _acking: bool = field(init=False, default=False)

    def add(self, in_flight: InFlight) -> None:
        self._unfinished.append(in_flight)

    async def finish(self, in_flight: InFlight) -> None:
        """Ack a concluded record and those that were finished behind it.

        Nothing is acked while an earlier record is under way.
        """
        in_flight.finished = True
        if self._broken:
            self.give_up(in_flight)
            return
        # by another record's call, which includes this one: acks never overtake each other
        if self._acking:
            return
        self._acking = True
        while self._unfinished and self._unfinished[0].finished:
            await self._stream.ack(self._unfinished.popleft().consumed)
        self._acking = False

    def give_up(self, in_flight: InFlight) -> None:
        """Give a record up, so that it is delivered again.

        From then on nothing is acked: an ack could skip it.
        """
        self._stream.give_up(in_flight.consumed)
        if not self._broken:
            self._broken = True
            for other in self._unfinished:
                if other.finished:
                    self._stream.give_up(other.consumed)
