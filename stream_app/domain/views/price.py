"""Quotes the cost and time of leads before they are published or sent back.

A quote compares the cost with the remaining budget.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

import msgspec

from stream_app.domain.lane.holds import lifts
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits import rate
from stream_app.domain.limits.budget import METERS, Budget, Cost, MeterName
from stream_app.domain.limits.meters import Estimate, Meter, first_estimate, meters
from stream_app.domain.model.text import count
from stream_app.domain.plan import InForce, Workspace, in_force
from stream_app.domain.views.lane import LaneView

# Names of meters for people, such as "credits of today".
_METERS: Final = {name: words.replace(" ", " of ", 1) for name, words in METERS.items()}


class Part(msgspec.Struct, frozen=True):
    """The leads of one destination.

    `credits_each` is their learned cost, or the configured estimate before that.
    """

    destination: str
    leads: int
    credits_each: float
    credits: int
    credits_at_most: int
    actions: int
    actions_at_most: int


class Quote(msgspec.Struct, frozen=True):
    """The leads of one workspace."""

    workspace: str
    parts: list[Part]  # one entry per destination
    # What is left of each capped budget. A budget that is absent has no limit.
    left: dict[MeterName, int]
    # The lane was asked: `left` and the rate are its own, and not only those of the configuration.
    known: bool
    seconds: float  # how long the leads take at the lane's rate, or at that of replays
    holds: str = ""  # what holds the lane now and what lifts it, in words; '' if it moves
    holds_part: str = ""  # the same of leads of some of these destinations only

    @property
    def leads(self) -> int:
        """The leads of all destinations."""
        return sum(part.leads for part in self.parts)

    @property
    def credits(self) -> int:
        """The estimated cost in credits."""
        return sum(part.credits for part in self.parts)

    @property
    def actions(self) -> int:
        """The estimated cost in Actions."""
        return sum(part.actions for part in self.parts)

    @property
    def short(self) -> list[MeterName]:
        """The budgets that have less left than the estimated cost."""
        costs = {"credits": self.credits, "actions": self.actions}
        return [name for name, left in self.left.items() if costs[name.partition("_")[0]] > left]

    @property
    def left_text(self) -> str:
        """What is left of the budgets, in words, with the verb."""
        return f"{self.budget_text} {'is' if list(self.left.values()) == [1] else 'are'} left"

    @property
    def budget_text(self) -> str:
        """What is left of the budgets, in words."""
        return ", ".join(_left_of(name, rest) for name, rest in self.left.items())


def _left_of(name: MeterName, rest: int) -> str:
    meter, _, period = METERS[name].partition(" ")
    return f"{count(rest, meter.removesuffix('s'))} of {period}"


def part(
    destination: str,
    leads: int,
    usual: Cost,
    most: Cost,
    learned: Mapping[str, Estimate],
) -> Part:
    """Return the cost of a number of leads of one destination.

    `usual` and `most` are as configured, `learned` is what the lane knows by destination.
    """
    estimate = learned.get(destination) or first_estimate(usual)
    return Part(
        destination,
        leads,
        round(estimate.credits, 1),
        math.ceil(leads * estimate.credits),
        leads * most.credits,
        math.ceil(leads * estimate.actions),
        leads * most.actions,
    )


def quote(
    configured: Workspace,
    view: LaneView | None,
    parts: Iterable[Part],
    now_ms: int,
    *,
    asked: bool = True,
) -> Quote:
    """Return the quote for one workspace. Without a `view` it is made from the configuration.

    `asked` says that a missing view means that nothing was ever sent, and not that the lane was not
    asked.
    """
    if view is None:
        return _quote(in_force(configured, ()), parts, {}, math.inf, now_ms, known=asked)
    view = view.at(now_ms)
    rate_per_s = view.rate_per_s or math.inf
    return _quote(view.in_force(configured), parts, view.meters, rate_per_s, now_ms, view=view)


def _holds(view: LaneView) -> str:
    if not view.holds:
        return ""
    return _lifted(view.says or view.holds, view.lifts)


def _holds_part(view: LaneView, destinations: Set[str]) -> str:
    if view.holds:
        return ""
    return "; ".join(
        _lifted(
            f"leads of {', '.join(part.destinations)}: {part.says}",
            lifts(part.holds, view.workspace),
        )
        for part in view.partly
        if not part.bulk and not destinations.isdisjoint(part.destinations)
    )


def _lifted(what: str, by: str) -> str:
    return f"{what}; lifted by: {by}" if by else what


def quote_of_replay(
    policy: InForce,
    lane: Lane,
    parts: Iterable[Part],
    pace_per_s: float,
    now_ms: int,
    view: LaneView | None = None,
) -> Quote:
    """Return the quote for leads of one workspace that are sent back.

    At most `pace_per_s` of them are sent back per second. `view`: that of the lane, which says what
    holds it; None: nothing does.
    """
    pace_per_s = min(pace_per_s, rate.current(policy.rate, lane.rate))
    shown = meters(policy.budget, lane.budget, now_ms)
    return _quote(policy, parts, shown, pace_per_s, now_ms, view=view)


def quote_lines(
    quotes: Iterable[Quote],
    rest: str = "the rest of the leads waits on Kafka",
    at: str = "the lane's rate",
) -> Iterator[str]:
    """Yield one line for each destination, then those for its workspace.

    `rest`: what becomes of leads beyond it.
    """
    for quoted in quotes:
        name = quoted.workspace or "no workspace"
        for some in quoted.parts:
            yield (
                f"{name}/{some.destination or 'no destination'}: {count(some.leads, 'lead')} "
                f"at about {count(some.credits_each, 'credit')} each: "
                f"about {count(some.credits, 'credit')} and "
                f"{count(some.actions, 'action')}, at most "
                f"{count(some.credits_at_most, 'credit')} and "
                f"{count(some.actions_at_most, 'action')}"
            )
        yield f"{name}: {_budget(quoted)}; {_time(quoted.seconds)} at {at}"
        for meter in quoted.short:
            yield f"{name}: the {_METERS[meter]} do not suffice: {rest}"
        if quoted.holds:
            yield f"{name}: its lane is held now: {quoted.holds}"
        if quoted.holds_part:
            yield f"{name}: its lane is held in part now: {quoted.holds_part}"


def too_dear(quotes: Iterable[Quote]) -> list[str]:
    """Say of each workspace whose budget does not suffice what its leads cost and what is left."""
    return [
        f"{quoted.workspace}: {count(quoted.leads, 'lead costs', 'leads cost')} about "
        f"{count(quoted.credits, 'credit')} and {count(quoted.actions, 'action')}, "
        f"and {quoted.left_text}"
        for quoted in quotes
        if quoted.short
    ]


def _quote(
    policy: InForce,
    parts: Iterable[Part],
    shown: Mapping[MeterName, Meter],
    most_per_s: float,
    now_ms: int,
    *,
    known: bool = True,
    view: LaneView | None = None,
) -> Quote:
    priced = list(parts)
    left = dict[MeterName, int]()
    for name, fresh in meters(policy.budget, Budget(), now_ms).items():
        meter = shown.get(name, fresh)
        if now_ms >= meter.ends_ms:  # the lane published its state in an earlier day or month
            meter = fresh
        if fresh.cap is not None:
            left[name] = max(0, fresh.cap - meter.used)
    seconds = sum(price.leads for price in priced) / min(policy.rate.rate_per_s, most_per_s)
    return Quote(
        policy.name,
        priced,
        left,
        known,
        seconds,
        holds=_holds(view) if view is not None else "",
        holds_part=_holds_part(view, {price.destination for price in priced})
        if view is not None
        else "",
    )


def _budget(quoted: Quote) -> str:
    if quoted.known:
        return quoted.left_text if quoted.left else "no budget limits it"
    given = f"gives it {quoted.budget_text}" if quoted.left else "sets no budget for it"
    return f"its lane was not asked, and the configuration {given}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5_400 else f"about {seconds / 3_600:.1f} h"
