"""Exclusive locks on rows: the copies of a lead, and the leads of a person, are decided one by one in their order.

A walk asks for all of its keys at once. It gets all of them or waits in the queue of each. Queues are ordered by the
walks' tickets, so an earlier record is never overtaken by a later one that shares a key with it, and since a walk that
waits holds nothing, no two walks can wait for each other. Callbacks go before leads: they never wait at the gate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType

from stream_app.partition.in_flight import GiveUp, InFlight, Limiter

Keys = Callable[[], tuple[bytes, ...]]
"""The keys that a walk needs, each once, by what is in memory now."""

Recall = Callable[[InFlight], None]
"""Makes a walk that stands at the gate, or comes there, give its locks up and start again."""


class KeyLocks:
    """Key -> the turn that holds it, and those that wait for it.

    recall   called with the holder of a key that a callback waits for.
    room_of  the room that a walk takes a place in.
    """

    def __init__(self, recall: Recall, room_of: Callable[[InFlight], Limiter]) -> None:
        self.recall = recall
        self.room_of = room_of
        self._holders: dict[bytes, KeyLock] = {}
        self._queues: dict[bytes, deque[KeyLock]] = {}
        self._key_locks: dict[object, KeyLock] = {}
        self._tickets = 0

    def of(self, in_flight: InFlight, keys: Keys) -> KeyLock:
        """To be entered with `async with`, which locks the keys. Raises GiveUp there."""
        if not in_flight.ticket:
            self._tickets += 1
            in_flight.ticket = self._tickets
        turn = self._key_locks[in_flight] = KeyLock(self, in_flight, keys)
        return turn

    def is_free(self, keys: tuple[bytes, ...]) -> bool:
        """Whether no walk holds any of these keys, so that none has their rows in hand."""
        return self._holders.keys().isdisjoint(keys)

    def release(self, in_flight: object) -> None:
        """Unlock what this walk holds, if anything, before its `async with` ends."""
        if (turn := self._key_locks.get(in_flight)) is not None:
            self.leave(turn)

    def take(self, turn: KeyLock) -> bool:
        """Lock the turn's keys, or queue for them; keys that it held before are unlocked. True: they are locked."""
        before, turn.keys = turn.keys, turn.needs()
        for key in before:
            del self._holders[key]
        turn.holds = self._is_free(turn)
        if turn.holds:
            self._holders.update(dict.fromkeys(turn.keys, turn))
        else:
            turn.granted = asyncio.get_running_loop().create_future()
            for key in turn.keys:
                self._enqueue(turn, key)
        self._grant_next(before)
        return turn.holds

    def holder_of(self, turn: KeyLock) -> InFlight | None:
        """A walk that holds one of the keys that this turn waits for."""
        return next((self._holders[key].in_flight for key in turn.keys if key in self._holders), None)

    def leave(self, turn: KeyLock) -> None:
        """Unlock its keys, or leave their queues."""
        self._key_locks.pop(turn.in_flight, None)
        keys, turn.keys = turn.keys, ()
        for key in keys:
            if turn.holds:
                del self._holders[key]
            else:
                self._queues[key].remove(turn)
                self._drop_empty(key)
        if self._queues:
            self._grant_next(keys)

    def _is_free(self, turn: KeyLock) -> bool:
        if not self._holders.keys().isdisjoint(turn.keys):
            return False
        queues = self._queues
        return not queues or all(key not in queues or turn.order < queues[key][0].order for key in turn.keys)

    def _enqueue(self, turn: KeyLock, key: bytes) -> None:
        queue = self._queues.setdefault(key, deque())
        place = len(queue)
        while place and turn.order < queue[place - 1].order:
            place -= 1
        queue.insert(place, turn)

    def _grant_next(self, keys: tuple[bytes, ...]) -> None:
        """Lock for whoever is first in the queue of each of its keys."""
        for key in keys:
            queue = self._queues.get(key)
            if not queue or key in self._holders:
                continue
            turn = queue[0]
            if all(each not in self._holders and self._queues[each][0] is turn for each in turn.keys):
                for each in turn.keys:
                    self._queues[each].popleft()
                    self._drop_empty(each)
                    self._holders[each] = turn
                turn.holds = True
                turn.granted.set_result(None)

    def _drop_empty(self, key: bytes) -> None:
        if not self._queues[key]:
            del self._queues[key]


class KeyLock:
    """One walk's turn at its keys. `order`: its place among those that wait. `granted`: done once it holds them."""

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
        while not key_locks.take(self):
            in_flight.release_next()
            try:
                if in_flight.source == "callback" and (holder := key_locks.holder_of(self)) is not None:
                    key_locks.recall(holder)
                with key_locks.room_of(in_flight).aside(), in_flight.waiting():
                    await _granted_or_give_up(self.granted, in_flight)
            except BaseException:
                key_locks.leave(self)
                raise
            if set(self.needs()) <= set(self.keys):  # what it waited for may have shown more that it needs
                return

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._key_locks.leave(self)


async def _granted_or_give_up(granted: asyncio.Future[None], in_flight: InFlight) -> None:
    """Wait for the locks, but not through a suspension of the flow."""
    suspended = asyncio.ensure_future(in_flight.suspended.wait())
    try:
        await asyncio.wait((granted, suspended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        suspended.cancel()
    if not granted.done():
        raise GiveUp
