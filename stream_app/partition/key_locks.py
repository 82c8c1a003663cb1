"""The locks on the rows of a partition, and the order in which records get them."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import attrgetter

from attrs import define, field

from stream_app.partition.in_flight import InFlight, nothing_to_release

KeysNow = Callable[[], tuple[bytes, ...]]
"""Returns the keys that a record needs, each once, by the rows in memory."""


class KeyLocks:
    """Exclusive locks on the rows of one partition.

    They make copies of a lead, and leads of one person, wait for each other. A record requests all
    of its keys at once. It gets all of them, or waits in the queue of each. Queues are ordered by
    ticket, so a later record never overtakes an earlier one with which it shares a key. A record
    that waits holds no key, so there is no deadlock. Callbacks go before leads, because callbacks
    never wait for admission.

    Args:
        recall: Called with the record that holds a key for which a callback waits. If that record
            waits for admission, now or later, it releases its locks and starts again.
    """

    def __init__(self, recall: Callable[[InFlight], None]) -> None:
        self.recall = recall
        self._holders: dict[bytes, KeyLock] = {}
        self._queues: dict[bytes, deque[KeyLock]] = {}
        self._tickets = 0

    def lock(self, in_flight: InFlight, keys: KeysNow) -> KeyLock:
        """Return an exclusive lock on these keys, for `async with`.

        Entering it may raise StreamSuspended. `keys` is called again after a wait, and may then
        return more keys. `in_flight.lock.release` releases the lock before the block ends.
        """
        state = in_flight.lock
        if not state.ticket:
            self._tickets += 1
            state.ticket = self._tickets
        return KeyLock(self, in_flight, keys, (in_flight.source != "callback", state.ticket))

    def is_free(self, keys: tuple[bytes, ...]) -> bool:
        """True if no record holds any of these keys.

        A change to the row of a key that is held would be undone by the holder's next step.
        """
        return self._holders.keys().isdisjoint(keys)

    def acquire(self, lock: KeyLock) -> bool:
        """Acquire the keys, or queue for them. Keys that the lock held before are released.

        Returns:
            True if the lock holds its keys now.
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
        # After its own request, so that this lock has its place among those that wait for a key
        # that it has just released.
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
        # Emptied first: after an early `release`, `__aexit__` calls this again, and another record
        # may hold these keys by then.
        lock.in_flight.lock.release = nothing_to_release
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
        needs: Returns the keys that its record needs now.
        order: Its place among those that wait.
        keys: The keys that it holds, or that it waits for.
        holds: True if it holds its keys.
        granted: Done when it holds its keys, after a wait.
    """

    _key_locks: KeyLocks
    in_flight: InFlight
    needs: KeysNow
    order: tuple[bool, int]
    keys: tuple[bytes, ...] = ()
    holds: bool = field(init=False)
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
                with in_flight.limiter.released():
                    await in_flight.wait_or_give_up(self.granted)
            # The keys may have been granted in the turn of the cancellation. `leave` releases them.
            except BaseException:
                key_locks.leave(self)
                raise
            # Second look: during the wait, the step of an earlier holder may have linked more
            # aliases to this person. Then the lock requests all of the keys again.
            if set(self.needs()) <= set(self.keys):
                break
        in_flight.lock.release = partial(key_locks.leave, self)

    async def __aexit__(self, *_: object) -> None:
        self._key_locks.leave(self)
