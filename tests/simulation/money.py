"""Schedules in which a budget binds, and a checker that counts POSTs and days without the lane.

A day's POSTs, but those that were refused, never cost more than the cap: at the ceiling, which is
what is reserved. And nothing is wasted: a lead waits for the next day only when the day had no room
for it, whatever crashed meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Final

from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.plan import Plan
from tests.simulation.clay import Fate
from tests.simulation.schedule import CEILING, Arrival, Fault, FaultKind, Loss, Schedule, Setup

_FIRST_DAY: Final = "2026-11-30"
_NOT_TAKEN: Final = frozenset[Status]({"refused", "dead_lettered", "rejected_invalid", "parked"})
"""What a POST came to that costs nothing, where it is the very next event."""


class MoneyChecks:
    """Receives each commit's events, in order.

    For runs of one workspace whose caps do not change.
    """

    def __init__(self, plan: Plan, problem: Callable[[str], None]) -> None:
        self._problem = problem
        self._cap = next(iter(plan.workspaces.values())).budget.credits_per_day or 0
        self._costs: defaultdict[str, dict[str, int]] = defaultdict(dict)  # day -> POST -> credits
        self._booked: dict[str, int] = {}  # POST -> credits, once something says what it cost
        self._sending: dict[str, StatusEvent] = {}  # origin -> its last POST
        self._last: dict[str, StatusEvent] = {}
        self._closed: dict[str, int] = {}  # day -> what was used of it when the next one began
        self._today = ""

    def on_commit(self, events: Sequence[StatusEvent]) -> None:
        for event in events:
            self._day_turns(event)
            before = self._last.get(event.origin)
            self._last[event.origin] = event
            if event.status == "sending":
                self._sending[event.origin] = event
                self._costs[_day(event.at_ms)][event.id] = CEILING.credits
            elif (sending := self._sending.get(event.origin)) is not None:
                self._ended(sending, event)
            if before is not None and before.status == "held_budget":
                self._waited(before, event)
        for day, costs in self._costs.items():
            if sum(costs.values()) > self._cap:
                self._problem(
                    f"4: {sum(costs.values())} credits were spent on {day}, {self._cap} are "
                    "allowed",
                )

    def _ended(self, sending: StatusEvent, event: StatusEvent) -> None:
        """What a POST came to: nothing, or what each step since then says that it booked."""
        costs = self._costs[_day(sending.at_ms)]
        if event.credits is not None:
            booked = self._booked.get(sending.id, 0) + event.credits
            self._booked[sending.id] = booked
            costs[sending.id] = booked
        elif event.seq == sending.seq + 1 and event.status in _NOT_TAKEN:
            del costs[sending.id]

    def _day_turns(self, event: StatusEvent) -> None:
        today = max(self._today, _day(event.at_ms))
        if self._today and today != self._today:
            self._closed[self._today] = sum(self._costs[self._today].values())
        self._today = today

    def _waited(self, held: StatusEvent, event: StatusEvent) -> None:
        """If over midnight, the day must have been full.

        Not on the first day: it ends while workers are away.
        """
        day = _day(held.at_ms)
        if day == _day(event.at_ms) or day == _FIRST_DAY:
            return
        if self._closed[day] + CEILING.credits <= self._cap:
            self._problem(
                f"4: {held.id} waited on {day}: of {self._cap} only {self._closed[day]} were used",
            )


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def budgeted(number: int) -> Schedule:
    """A budget of one to three leads a day for more than that, a minute before midnight; crashes
    and lost requests.
    """
    rng = Random(f"budget/{number}")
    leads = rng.choice((3, 4, 5, 6))
    fates: tuple[Fate, ...] = rng.choice(
        (
            ("accepted",),
            ("accepted", "slow", "busy", "poison"),
            ("lost_after", "accepted", "limited"),
        ),
    )
    kinds: list[FaultKind] = rng.choices(
        ("crash", "freeze", "rebalance"),
        (5, 2, 1),
        k=rng.choice((1, 1, 2, 3)),
    )
    losses: tuple[Loss, ...] = ("lost", "unknown", "refused")
    return Schedule(
        name=f"b{number}",
        seed=number,
        setup=Setup(
            callbacks=rng.random() < 0.6,
            credits_per_day=CEILING.credits * rng.choice((1, 2, 3)),
            max_in_flight=rng.choice((1, 2, 100)),
            max_attempts=rng.choice((1, 3)),
        ),
        arrivals=tuple(
            Arrival(rng.choice((0.0, 0.0, 0.3, 58.0, 59.9, 60.1)), "acme", f"id{n}", f"p{n}")
            for n in range(leads)
        ),
        fates=tuple(rng.choices(fates, k=6)),
        faults=tuple(
            Fault(rng.randrange(1, 40 + 30 * leads), kind, _frozen_s(rng, kind)) for kind in kinds
        ),
        losses=tuple((rng.randrange(40), rng.choice(losses)) for _ in range(rng.choice((0, 0, 1)))),
        workers=rng.choice((1, 2)),
        restart_s=rng.choice((0.2, 1.0, 70.0)),
        drop_in_flight=rng.random() < 0.5,
        reopen=rng.random() < 0.3,
        checks_money=True,
    )


def _frozen_s(rng: Random, kind: str) -> float:
    return rng.choice((0.05, 8.0, 100.0)) if kind == "freeze" else 0.0
