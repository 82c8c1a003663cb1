"""The leads of one lane that wait for admission, in the order in which they may go."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Final, Literal

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.lane.admission import AdmissionRequest, Grant, Held
from stream_app.partition.in_flight import PRIORITY, GiveUp, InFlight, Recalled, Source
from stream_app.partition.timetable import Timetable

Admitted = tuple[Grant, asyncio.Future[None]]
"""The grant with its commit."""

Answer = Admitted | Held | GiveUp | Recalled
"""To a lead that waits: it is admitted, or why it must not wait here."""

Kind = tuple[str, bool]
"""Alias of the destination, and whether the lead is bulk. If one lead of a kind is held, all of them are."""

Group = Literal["again"] | Source
"""`again`: leads that Clay did not take, for their next attempt. The others are grouped by their topic."""

_GROUPS: Final[tuple[Group, ...]] = ("again", *sorted(PRIORITY, key=PRIORITY.__getitem__))
_MOST_OWED: Final = 2.0
_number: Final = attrgetter("number")


def kind_of(request: AdmissionRequest) -> Kind:
    """Return the kind of a lead."""
    return request.destination.alias, request.bulk


class Waiter:
    """A lead that waits for admission.

    Attributes:
        number: The lead's place in the order of arrival. It keeps it when it asks again.
        since_ms: Since when it waits, on the monotonic clock.
        ready: False until `not_before_ms`.
    """

    __slots__ = ("answered", "group", "in_flight", "kind", "number", "ready", "request", "since_ms", "write_ahead")

    def __init__(
        self,
        in_flight: InFlight,
        request: AdmissionRequest,
        write_ahead: Callable[[Grant], WriteBatch],
        since_ms: int,
    ) -> None:
        self.in_flight = in_flight
        self.request = request
        self.write_ahead = write_ahead
        self.number = in_flight.arrival
        self.since_ms = since_ms
        self.kind = kind_of(request)
        self.group: Group = "again" if request.not_before_ms else in_flight.source
        self.ready = False
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    @property
    def size(self) -> int:
        """The bytes of its record."""
        return len(self.in_flight.consumed.value or b"")


class LaneQueue:
    """The waiting leads of one lane.

    Attributes:
        in_flight: POSTs of the lane that are under way.
        held: Why the leads of each kind are held, as of the last look.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.held: dict[Kind, Held] = {}
        self._waiters: dict[int, Waiter] = {}
        self._wakes: Timetable[int] = Timetable()
        self._ready: dict[tuple[Kind, Group], list[Waiter]] = {}
        self._ready_in: Counter[Group] = Counter()
        self._unreported: dict[Kind, dict[int, Waiter]] = {}
        self._waiting_of: Counter[Source] = Counter()
        self._owed: dict[Source, float] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._waiters.values()))

    def add(self, waiter: Waiter) -> None:
        """Add a lead. It may go once it is marked as ready."""
        self._waiters[waiter.number] = waiter
        self._waiting_of[waiter.in_flight.source] += 1

    def make_ready(self, waiter: Waiter) -> None:
        """Let the lead go when its turn comes."""
        waiter.ready = True
        insort(self._ready.setdefault((waiter.kind, waiter.group), []), waiter, key=_number)
        self._ready_in[waiter.group] += 1
        if not waiter.request.patient:
            self._unreported.setdefault(waiter.kind, {})[waiter.number] = waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove a lead that has its answer."""
        del self._waiters[waiter.number]
        self._waiting_of[waiter.in_flight.source] -= 1
        self._wakes.set(waiter.number, None)
        if not waiter.ready:
            return
        name = (waiter.kind, waiter.group)
        group = self._ready[name]
        del group[bisect_left(group, waiter.number, key=_number)]
        if not group:
            del self._ready[name]
        self._ready_in[waiter.group] -= 1
        if not waiter.request.patient:
            del self._unreported[waiter.kind][waiter.number]
            if not self._unreported[waiter.kind]:
                del self._unreported[waiter.kind]

    def wake_at(self, waiter: Waiter, at_ms: int | None) -> None:
        """Have `pop_woken` return the lead from this time (epoch ms) on."""
        self._wakes.set(waiter.number, at_ms)

    def pop_woken(self, now_ms: int) -> list[Waiter]:
        """Return the leads whose wake time has come."""
        return [self._waiters[number] for number in self._wakes.pop_until(now_ms)]

    @property
    def next_wake_ms(self) -> int | None:
        """The earliest wake time (epoch ms)."""
        return self._wakes.lowest

    def first(self, without: Collection[Kind]) -> Waiter | None:
        """Return the lead that goes next, if it is of none of these kinds.

        Next attempts go first, then sources that are owed a turn, then by priority, then by arrival.
        """
        best: Waiter | None = None
        place = (0, 0)
        for (kind, group), waiters in self._ready.items():
            if kind in without:
                continue
            head = (self._rank(group), waiters[0].number)
            if best is None or head < place:
                best, place = waiters[0], head
        return best

    def last(self) -> Waiter:
        """Return the lead that would go last. The lane must have one."""
        for group in reversed(_GROUPS):
            if self._ready_in[group]:
                tails = (waiters[-1] for (_, each), waiters in self._ready.items() if each == group)
                return max(tails, key=_number)
        return next(reversed(self._waiters.values()))

    def has(self, kind: Kind) -> bool:
        """True if a lead of this kind is ready."""
        return any(each == kind for each, _ in self._ready)

    def ready(self, kind: Kind) -> list[Waiter]:
        """Return the leads of a kind in the order of their groups and arrival."""
        return [waiter for group in _GROUPS for waiter in self._ready.get((kind, group), ())]

    def unreported(self, kind: Kind) -> list[Waiter]:
        """Return the leads of a kind whose hold was not recorded yet, in the order of arrival."""
        return sorted(self._unreported.get(kind, {}).values(), key=_number)

    def sends_before(self, waiter: Waiter, share: float) -> float:
        """Return about how many sends of the lane come before this lead.

        `share` is the part of the sends that its group gets while others wait.
        """
        own = sum(
            bisect_left(waiters, waiter.number, key=_number)
            for (_, group), waiters in self._ready.items()
            if group == waiter.group
        )
        in_all = own + sum(self._ready_in[group] for group in _GROUPS[: _GROUPS.index(waiter.group)])
        return min(in_all, (own + 1) * (1 + 1 / share)) if share else in_all

    def count_share(self, source: Source, shares: dict[Source, float]) -> None:
        """Credit the sources that wait behind a send of `source` with their share; a send of theirs uses it up."""
        for each, share in shares.items():
            if each == source:
                self._owed[each] = max(0.0, self._owed.get(each, 0.0) - 1.0)
            elif self._waiting_of.get(each):
                self._owed[each] = min(_MOST_OWED, self._owed.get(each, 0.0) + share)

    def _rank(self, group: Group) -> int:
        if group == "again":
            return -2
        return -1 if self._owed.get(group, 0.0) >= 1.0 else PRIORITY[group]
