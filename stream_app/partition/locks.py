"""Exclusive locks on rows: copies of a lead, and leads of one person, are processed one after the other.

A record requests all of its keys at once. It gets all of them, or waits in the queue of each. Queues are ordered by
ticket, so a later record never overtakes an earlier one with which it shares a key. A record that waits holds no key,
so there is no deadlock. Callbacks go before leads, because they never wait for admission.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType

from stream_app.partition.in_flight import InFlight, nothing_to_unlock

Keys = Callable[[], tuple[bytes, ...]]
"""Returns the keys that a record needs, each once, by the rows in memory."""

Recall = Callable[[InFlight], None]
"""Makes a record that waits for admission, now or later, release its locks and start again."""


class KeyLocks:
    """The locks of one partition. `recall` is called with the holder of a key that a callback waits for."""

    def __init__(self, recall: Recall) -> None:
        self.recall = recall
        self._holders: dict[bytes, KeyLock] = {}
        self._queues: dict[bytes, deque[KeyLock]] = {}
        self._tickets = 0

    def lock(self, in_flight: InFlight, keys: Keys) -> KeyLock:
        """Return an exclusive lock on these keys, for `async with`. Entering it may raise GiveUp.

        `keys` is called again after a wait, and may then return more keys. `in_flight.unlock` releases it early.
        """
        if not in_flight.ticket:
            self._tickets += 1
            in_flight.ticket = self._tickets
        return KeyLock(self, in_flight, keys)

    def is_free(self, keys: tuple[bytes, ...]) -> bool:
        """True if no record holds any of these keys. The next step of a holder would undo a change."""
        return self._holders.keys().isdisjoint(keys)

    def acquire(self, lock: KeyLock) -> bool:
        """Acquire the keys, or queue for them. Keys that the lock held before are released. True: they are acquired."""
        before, lock.keys = lock.keys, lock.needs()
        for key in before:
            del self._holders[key]
        lock.holds = self._is_free(lock)
        if lock.holds:
            self._holders.update(dict.fromkeys(lock.keys, lock))
        else:
            lock.granted = asyncio.get_running_loop().create_future()
            for key in lock.keys:
                self._enqueue(lock, key)
        self._grant_next(before)
        return lock.holds

    def holder_of(self, lock: KeyLock) -> InFlight | None:
        """A record that holds one of the keys that this lock waits for."""
        return next((self._holders[key].in_flight for key in lock.keys if key in self._holders), None)

    def leave(self, lock: KeyLock) -> None:
        """Release the keys, or leave their queues."""
        lock.in_flight.unlock = nothing_to_unlock
        keys, lock.keys = lock.keys, ()
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
        return not queues or all(key not in queues or lock.order < queues[key][0].order for key in lock.keys)

    def _enqueue(self, lock: KeyLock, key: bytes) -> None:
        queue = self._queues.setdefault(key, deque())
        place = len(queue)
        while place and lock.order < queue[place - 1].order:
            place -= 1
        queue.insert(place, lock)

    def _grant_next(self, keys: tuple[bytes, ...]) -> None:
        """Grant these keys to the locks that are first in the queue of each of their keys."""
        for key in keys:
            queue = self._queues.get(key)
            if not queue or key in self._holders:
                continue
            lock = queue[0]
            if all(wanted not in self._holders and self._queues[wanted][0] is lock for wanted in lock.keys):
                for wanted in lock.keys:
                    self._queues[wanted].popleft()
                    self._drop_empty(wanted)
                    self._holders[wanted] = lock
                lock.holds = True
                lock.granted.set_result(None)

    def _drop_empty(self, key: bytes) -> None:
        if not self._queues[key]:
            del self._queues[key]


class KeyLock:
    """The lock of one record.

    Attributes:
        order: Its place among those that wait.
        granted: Done when it holds its keys.
    """

    __slots__ = ("_key_locks", "granted", "holds", "in_flight", "keys", "needs", "order")
    granted: asyncio.Future[None]

    def __init__(self, key_locks: KeyLocks, in_flight: InFlight, needs: Keys) -> None:
        self.in_flight = in_flight
        self.needs = needs
        self.order = (in_flight.source != "callback", in_flight.ticket)
        self.keys: tuple[bytes, ...] = ()
        self.holds = False
        self._key_locks = key_locks

    async def __aenter__(self) -> None:
        key_locks, in_flight = self._key_locks, self.in_flight
        while not key_locks.acquire(self):
            in_flight.release_next()
            try:
                if in_flight.source == "callback" and (holder := key_locks.holder_of(self)) is not None:
                    key_locks.recall(holder)
                await in_flight.wait_aside(self.granted)
            except BaseException:
                key_locks.leave(self)
                raise
            if set(self.needs()) <= set(self.keys):  # else the rows of the earlier holder showed that it needs more
                break
        in_flight.unlock = partial(key_locks.leave, self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._key_locks.leave(self)
