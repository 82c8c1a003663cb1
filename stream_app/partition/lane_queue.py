"""The leads that wait for admission, by lane, in the order in which they go."""

import asyncio
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from operator import attrgetter
from typing import Final, Literal

import msgspec

from stream_app.clock import Now
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.lane.admission import AdmissionRequest, Grant, Held
from stream_app.domain.lane.holds import RATE, RATE_LIMITED
from stream_app.partition.in_flight import PRIORITY, InFlight, Source
from stream_app.partition.lane_timer import Timetable

StepAhead = Callable[[Grant, int], CommitStep]
"""Returns the step that is written ahead of a granted POST. It is called with the grant and the
time (epoch ms), in the turn of the event loop in which the lane grants that POST.
"""


class Admitted(msgspec.Struct, frozen=True):
    """The lane granted the lead a POST, and the step that was written ahead for it is submitted.

    Attributes:
        committed: Done when that step is committed. It raises what made the transaction fail.
    """

    grant: Grant
    committed: asyncio.Future[None]


class Withdrawn(Enum):
    """Why a lead leaves the queue without an answer of its lane."""

    SUSPENDED = "its stream is suspended, and it is delivered again"
    RECALLED = "a callback waits for its lock, and it starts again after that callback"


WaitOutcome = Admitted | Held | Withdrawn
"""How a lead leaves the queue. With `Held`, it must not wait there any longer, for that reason."""

Kind = tuple[str, bool]
"""Alias of the destination, and whether the lead is bulk. If one lead of a kind is held, all of
them are.
"""

Group = Literal["next_attempt"] | Source
"""Leads that Clay did not take are in the group `next_attempt`, all others in that of their topic.
"""

_GROUPS: Final[tuple[Group, ...]] = ("next_attempt", *sorted(PRIORITY, key=PRIORITY.__getitem__))
_MAX_OWED_SENDS: Final = 2.0
_number: Final = attrgetter("number")


class Waiter:
    """A lead that asks for admission, and waits until it has its outcome.

    Attributes:
        number: The lead's place in the order of arrival. The lead keeps it when it asks again.
        since_ms: Since when it waits, on the monotonic clock.
        ready: False until `not_before_ms`.
        step_ahead: Called once, if the lane admits the lead.
        outcome: How it left; None while it waits.
    """

    __slots__ = (
        "_left",
        "group",
        "in_flight",
        "kind",
        "number",
        "outcome",
        "ready",
        "request",
        "since_ms",
        "step_ahead",
    )

    def __init__(
        self,
        in_flight: InFlight,
        request: AdmissionRequest,
        step_ahead: StepAhead,
        *,
        number: int,
        since_ms: int,
    ) -> None:
        self.in_flight = in_flight
        self.request = request
        self.step_ahead = step_ahead
        self.number = number
        self.since_ms = since_ms
        self.kind: Kind = (request.destination.alias, request.bulk)
        self.group: Group = "next_attempt" if request.not_before_ms else in_flight.source
        self.ready = False
        self.outcome: WaitOutcome | None = None
        self._left: asyncio.Future[WaitOutcome] | None = None  # set once a task waits

    @property
    def place(self) -> tuple[int, int]:
        """Its place if no source is owed a turn: by its group, then in the order of arrival."""
        return _GROUPS.index(self.group), self.number

    @property
    def size(self) -> int:
        """The bytes of its record."""
        return self.in_flight.size

    def is_too_old(self, now: Now) -> bool:
        """True if its `not_after_ms` has passed."""
        not_after_ms = self.request.not_after_ms
        return not_after_ms is not None and now.epoch_ms > not_after_ms

    @property
    def has_left(self) -> bool:
        """True if it has its outcome or its task was cancelled."""
        return self.outcome is not None or (self._left is not None and self._left.done())

    def leave(self, outcome: WaitOutcome) -> None:
        """Give it its outcome, unless its task was cancelled and nobody waits for it."""
        if self.has_left:
            return
        self.outcome = outcome
        if self._left is not None:
            self._left.set_result(outcome)

    async def wait(self) -> WaitOutcome:
        """Wait until it leaves the queue. Called at most once, and only while it waits."""
        self._left = asyncio.get_running_loop().create_future()
        return await self._left


class LaneQueue:
    """The waiting leads of the lane of one workspace.

    Attributes:
        workspace: Its name.
        posts_in_flight: How many POSTs of the lane are under way.
        held: Why the leads of each kind are held, as it was when admission last tried them.
        wakes: From which time on (epoch ms) `pop_woken` returns a lead, by the lead's number.
    """

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.posts_in_flight = 0
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
        """Remove a lead that has its outcome, or whose task was cancelled."""
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

        Next attempts go first, then sources that are owed a turn, then the others by priority.
        Leads of equal rank go in the order of arrival.
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
        """Return the lead that would go last. The queue must not be empty."""
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

    @property
    def waits_for_rate(self) -> bool:
        """True if a lead would go if the lane had a token."""
        return any(
            held.reason in (RATE, RATE_LIMITED) and self.has(kind)
            for kind, held in self.held.items()
        )

    def ready(self, kind: Kind) -> list[Waiter]:
        """Return the leads of a kind in the order of their groups and arrival."""
        return [waiter for group in _GROUPS for waiter in self._ready.get((kind, group), ())]

    def unreported(self, kind: Kind) -> list[Waiter]:
        """Return the leads of a kind whose hold is not recorded yet, in the order of arrival."""
        return sorted(self._unreported.get(kind, {}).values(), key=_number)

    def sends_before(self, waiter: Waiter, share: float) -> float:
        """Return about how many sends of the lane come before the send of this lead.

        `share` is the part of the sends that its group gets while others wait.
        """
        beside = (waiters for (_, group), waiters in self._ready.items() if group == waiter.group)
        own = sum(bisect_left(waiters, waiter.number, key=_number) for waiters in beside)
        in_all = own + sum(
            self._ready_in[group] for group in _GROUPS[: _GROUPS.index(waiter.group)]
        )
        return min(in_all, (own + 1) * (1 + 1 / share)) if share else in_all

    def count_share(self, source: Source, shares: dict[Source, float]) -> None:
        """Credit each source that waits while `source` sends with its share of one send.

        A send of its own uses up one.
        """
        for sender, share in shares.items():
            if sender == source:
                self._owed[sender] = max(0.0, self._owed.get(sender, 0.0) - 1.0)
            elif self._waiting_of.get(sender):
                self._owed[sender] = min(_MAX_OWED_SENDS, self._owed.get(sender, 0.0) + share)

    def _rank(self, group: Group) -> int:
        if group == "next_attempt":
            return -2
        return -1 if self._owed.get(group, 0.0) >= 1.0 else PRIORITY[group]


class LaneQueues:
    """The queues of all lanes of one partition, and what all of their leads are together.

    Attributes:
        size: The bytes of the records that wait.
    """

    def __init__(self) -> None:
        self._queues: dict[str, LaneQueue] = {}
        self._waiters: dict[InFlight, Waiter] = {}
        self._lengths: Timetable[str] = Timetable()
        self.size = 0

    def __len__(self) -> int:
        """How many leads wait."""
        return len(self._waiters)

    def __iter__(self) -> Iterator[LaneQueue]:
        return iter(list(self._queues.values()))

    def get(self, workspace: str) -> LaneQueue | None:
        """Return the queue of a lane; None if no lead has asked for admission to it."""
        return self._queues.get(workspace)

    def open(self, workspace: str) -> LaneQueue:
        """Return the queue of a lane. A lane that has none gets one."""
        queue = self._queues.get(workspace)
        if queue is None:
            queue = LaneQueue(workspace)
            self._queues[workspace] = queue
        return queue

    def waiter(self, in_flight: InFlight) -> Waiter | None:
        """Return the place of a lead; None if it does not wait."""
        return self._waiters.get(in_flight)

    def waiters(self) -> list[Waiter]:
        """Return all leads that wait."""
        return list(self._waiters.values())

    def add(self, queue: LaneQueue, waiter: Waiter) -> None:
        """Add a lead to a queue."""
        self._waiters[waiter.in_flight] = waiter
        self.size += waiter.size
        queue.add(waiter)
        self._lengths.set(queue.workspace, len(queue))

    def remove(self, waiter: Waiter) -> None:
        """Remove a lead from its queue."""
        queue = self._queues[waiter.request.destination.workspace]
        del self._waiters[waiter.in_flight]
        self.size -= waiter.size
        queue.remove(waiter)
        self._lengths.set(queue.workspace, len(queue))

    def longest(self) -> LaneQueue:
        """Return the queue with the most leads. A lead must wait."""
        return self._queues[self._lengths.highest_key]

    def clear(self) -> None:
        """Forget all leads and queues."""
        self._queues.clear()
        self._waiters.clear()
        self._lengths = Timetable()
        self.size = 0
