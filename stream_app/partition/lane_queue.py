"""The leads of one lane that wait for admission.

In which order they go, how long they may wait, and when to look again.
"""

import asyncio
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Final, Generic, Literal, TypeVar

import msgspec

from stream_app.clock import Clock
from stream_app.domain.delivery.recorder import Applicant, Attempt
from stream_app.domain.lane.admission import AdmissionRequest, Held
from stream_app.domain.lane.lane import LANE_BUSY, Horizon, postpone, sends_per_s
from stream_app.domain.model.text import count
from stream_app.domain.plan import Plan, Workspace
from stream_app.partition.in_flight import PRIORITY, GiveUp, InFlight, Recalled, Source
from stream_app.partition.lanes import Lanes

K = TypeVar("K", int, str)

Admitted = tuple[Attempt, asyncio.Future[None]]
"""The attempt, with the commit of the step that was written ahead for it."""

Answer = Admitted | Held | GiveUp | Recalled
"""To a lead that waits: it is admitted, or why it must not wait here."""

Kind = tuple[str, bool]
"""Alias of the destination, and whether the lead is bulk. If one lead of a kind is held, all of
them are.
"""

Group = Literal["again"] | Source
"""`again`: leads that Clay did not take, for their next attempt. The others are grouped by their
topic.
"""

_GROUPS: Final[tuple[Group, ...]] = ("again", *sorted(PRIORITY, key=PRIORITY.__getitem__))
_MOST_OWED: Final = 2.0
# longer than a breaker is open by default: then the next probe is due
_PROBE_PATIENCE_MS: Final = 120_000
_number: Final = attrgetter("number")
_IN_FLIGHT: Final = "in_flight"  # held until a request ends, which may be at any moment
_LONGEST_TIMER_S: Final = 60.0  # the wall clock may step while the loop's clock does not


class Timetable(Generic[K]):
    """Keys by their number (a time or a length), lowest first.

    A change is a binary search and a move in memory.
    """

    def __init__(self) -> None:
        self._order: list[tuple[int, K]] = []
        self._numbers: dict[K, int] = {}

    def set(self, key: K, number: int | None) -> None:
        """Give a key its number; None removes it."""
        before = self._numbers.get(key)
        if before == number:
            return
        if before is not None:
            del self._order[bisect_left(self._order, (before, key))]
            del self._numbers[key]
        if number is not None:
            insort(self._order, (number, key))
            self._numbers[key] = number

    @property
    def lowest(self) -> int | None:
        """The lowest number; None if there is no key."""
        return self._order[0][0] if self._order else None

    @property
    def highest_key(self) -> K:
        """The key with the highest number. There must be one."""
        return self._order[-1][1]

    def pop_until(self, number: int) -> list[K]:
        """Remove and return the keys up to this number, lowest first."""
        end = bisect_left(self._order, (number + 1,))
        keys = [key for _, key in self._order[:end]]
        for key in keys:
            del self._numbers[key]
        del self._order[:end]
        return keys


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

    __slots__ = (
        "answered",
        "applicant",
        "group",
        "in_flight",
        "kind",
        "number",
        "ready",
        "request",
        "since_ms",
    )

    def __init__(
        self,
        in_flight: InFlight,
        applicant: Applicant,
        request: AdmissionRequest,
        since_ms: int,
    ) -> None:
        self.in_flight = in_flight
        self.applicant = applicant
        self.request = request
        self.number = in_flight.arrival
        self.since_ms = since_ms
        self.kind = kind_of(request)
        self.group: Group = "again" if request.not_before_ms else in_flight.source
        self.ready = False
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    @property
    def place(self) -> tuple[int, int]:
        """When it goes, if no source is owed a turn: by its group, then in the order of arrival."""
        return _GROUPS.index(self.group), self.number

    @property
    def size(self) -> int:
        """The bytes of its record."""
        return len(self.in_flight.consumed.value or b"")


class LaneQueue:
    """The waiting leads of one lane.

    Attributes:
        in_flight: POSTs of the lane that are under way.
        held: Why the leads of each kind are held, as of the last look.
        wakes: The time (epoch ms) from which on `pop_woken` returns a lead, by its number.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.held: dict[Kind, Held] = {}
        self._waiters: dict[int, Waiter] = {}
        self.wakes: Timetable[int] = Timetable()
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
        self.wakes.set(waiter.number, None)
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

    def pop_woken(self, now_ms: int) -> list[Waiter]:
        """Return the leads whose wake time has come."""
        return [self._waiters[number] for number in self.wakes.pop_until(now_ms)]

    def first(self, without: Collection[Kind]) -> Waiter | None:
        """Return the lead that goes next, leaving out these kinds.

        Next attempts go first, then sources that are owed a turn, then by priority, then by
        arrival.
        """
        best: Waiter | None = None
        place = (0, 0)
        for (kind, group), waiters in self._ready.items():
            if kind in without:
                continue
            head = (self._rank(group), waiters[0].number)
            if best is None or head < place:
                best = waiters[0]
                place = head
        return best

    def last(self) -> Waiter:
        """Return the lead that would go last. The lane must have one."""
        for group in reversed(_GROUPS):
            if self._ready_in[group]:
                tails = (
                    waiters[-1]
                    for (_, of_group), waiters in self._ready.items()
                    if of_group == group
                )
                return max(tails, key=_number)
        return next(reversed(self._waiters.values()))

    def has(self, kind: Kind) -> bool:
        """True if a lead of this kind is ready."""
        return any(of_kind == kind for of_kind, _ in self._ready)

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
        beside = (waiters for (_, group), waiters in self._ready.items() if group == waiter.group)
        own = sum(bisect_left(waiters, waiter.number, key=_number) for waiters in beside)
        in_all = own + sum(
            self._ready_in[group] for group in _GROUPS[: _GROUPS.index(waiter.group)]
        )
        return min(in_all, (own + 1) * (1 + 1 / share)) if share else in_all

    def count_share(self, source: Source, shares: dict[Source, float]) -> None:
        """Credit the sources that wait behind a send of `source` with their share.

        A send of theirs uses it up.
        """
        for sender, share in shares.items():
            if sender == source:
                self._owed[sender] = max(0.0, self._owed.get(sender, 0.0) - 1.0)
            elif self._waiting_of.get(sender):
                self._owed[sender] = min(_MOST_OWED, self._owed.get(sender, 0.0) + share)

    def _rank(self, group: Group) -> int:
        if group == "again":
            return -2
        return -1 if self._owed.get(group, 0.0) >= 1.0 else PRIORITY[group]


class Patience:
    """Decides which waiting leads of one partition are deferred, and until when.

    A lead waits in its partition for as long as the hold of its lane lasts, with two exceptions:
    where workspaces share the partition, and where a workspace's leads are to be answered at once
    (`hold = "degrade"`).
    """

    def __init__(self, plan: Plan, lanes: Lanes) -> None:
        self._plan = plan
        self._lanes = lanes
        self._patience_ms = int(plan.delivery.patience_s * 1000)
        self.shares: dict[Source, float] = {"retry": plan.shares.retry, "bulk": plan.shares.bulk}
        self._horizons: dict[tuple[str, bool], Horizon] = {}

    def until_ms(self, waiter: Waiter, now_ms: int, boot_ms: int) -> int:
        """Return until when (epoch ms) a lead may wait in a shared partition."""
        patience_ms = (
            max(self._patience_ms, _PROBE_PATIENCE_MS)
            if waiter.request.probe
            else self._patience_ms
        )
        return now_ms + waiter.since_ms + patience_ms - boot_ms

    def wait_for_stall(self, policy: Workspace, held: Held, since_ms: int, now_ms: int) -> Held:
        """Let a lead wait for a short stall even if it must not wait for a held lane.

        Any answer ends a stall.
        """
        until_ms = min(held.until_ms, since_ms + self._patience_ms)
        waits = (self._lanes.shared or policy.hold == "degrade") and now_ms < until_ms
        return Held(_IN_FLIGHT, "", until_ms) if waits else held

    def impatient(
        self,
        name: str,
        queue: LaneQueue,
        kind: Kind,
        held: Held,
        now_ms: int,
    ) -> list[Waiter]:
        """Return the ready leads of a held kind that must not wait here."""
        degrades = self._plan.workspaces[name].hold == "degrade"
        is_long = ends_ms(held) - now_ms > self._patience_ms
        # A lead must not wait for long if workspaces share the partition or leads are to be served
        # at once, not even for a Retry-After.
        if (held.status is not None and degrades) or (is_long and (self._lanes.shared or degrades)):
            return [waiter for waiter in queue.ready(kind) if degrades or not waiter.request.probe]
        if held.bulk_only and is_long:  # returned bulk leads must not block replays that may go
            return [waiter for waiter in queue.ready(kind) if waiter.in_flight.source == "retry"]
        return []

    def comes_too_late(
        self,
        name: str,
        queue: LaneQueue,
        waiter: Waiter,
        now_ms: int,
        boot_ms: int,
    ) -> bool:
        """Return True if the turn of a ready lead comes later than it may wait."""
        begins_ms = max(now_ms, ends_ms(queue.held[waiter.kind]))
        return begins_ms + self._line_ms(name, queue, waiter) > self.until_ms(
            waiter,
            now_ms,
            boot_ms,
        )

    def deferred(
        self,
        name: str,
        queue: LaneQueue,
        waiter: Waiter,
        held: Held,
        now_ms: int,
    ) -> Held:
        """Return the answer to a deferred lead, with about the time of its turn.

        Its turn is behind those that were deferred before.
        """
        at_ms = max(held.back_ms or ends_ms(held), now_ms + self._line_ms(name, queue, waiter))
        per_s = sends_per_s(self._lanes.policy(name), self._lanes[name])
        key = (name, waiter.request.bulk)
        returned = waiter.in_flight.source == "retry"
        self._horizons[key], due_ms = postpone(
            self._horizons.get(key, Horizon()),
            at_ms,
            per_s,
            returned=returned,
        )
        return msgspec.structs.replace(held, defer=True, back_ms=due_ms)

    def _line_ms(self, name: str, queue: LaneQueue, waiter: Waiter) -> int:
        """How long the lane needs for the leads that go before this one."""
        if not waiter.ready:
            return 0
        per_s = sends_per_s(self._lanes.policy(name), self._lanes[name])
        return round(
            queue.sends_before(waiter, self.shares.get(waiter.in_flight.source, 0.0))
            * 1000
            / per_s,
        )


def ends_ms(held: Held) -> int:
    """Return when the hold ends at the latest (epoch ms); 0 if it may end at any moment."""
    return 0 if held.reason == _IN_FLIGHT else held.until_ms


def reason_of(queue: LaneQueue, waiter: Waiter) -> Held:
    """Return why a ready lead is deferred: the hold of its lane, or the leads before it."""
    held = queue.held[waiter.kind]
    return held if held.status else busy(queue)


def busy(queue: LaneQueue) -> Held:
    """Return the reason of a deferral because of the leads that wait for the lane."""
    waiting = count(len(queue), "lead of its workspace waits", "leads of its workspace wait")
    return Held(LANE_BUSY, f"{waiting} for the lane", 0)


class LaneTimer:
    """Calls `look_at` for each lane whose time has come, which sets the lane's next time.

    All lanes of the partition share one timer of the event loop. It calls `look_at_all` instead if
    the wall clock stepped back.
    """

    def __init__(
        self,
        clock: Clock,
        look_at: Callable[[str], None],
        look_at_all: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._look_at = look_at
        self._look_at_all = look_at_all
        self._looks: Timetable[str] = Timetable()
        self._handle: asyncio.TimerHandle | None = None
        self._at_ms: int | None = None
        self._fired_at_ms = 0

    def set(self, name: str, at_ms: int | None, now_ms: int) -> None:
        """Set when to look at a lane again (epoch ms); None: not before it changes."""
        self._looks.set(name, at_ms)
        self._start(now_ms)

    def clear(self) -> None:
        self._looks = Timetable()
        self._start(0)

    def _fire(self) -> None:
        self._handle = self._at_ms = None
        now_ms = self._clock.now_ms()
        before_ms = self._fired_at_ms
        self._fired_at_ms = now_ms
        if now_ms < before_ms:
            self._look_at_all()
            return
        for name in self._looks.pop_until(now_ms):
            self._look_at(name)
        self._start(now_ms)

    def _start(self, now_ms: int) -> None:
        at_ms = self._looks.lowest
        if at_ms == self._at_ms:
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._at_ms = at_ms
        if at_ms is not None:
            delay_s = min(_LONGEST_TIMER_S, max(0.001, (at_ms - now_ms) / 1000))
            self._handle = asyncio.get_running_loop().call_later(delay_s, self._fire)
