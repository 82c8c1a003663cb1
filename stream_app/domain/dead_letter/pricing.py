"""Previews a replay: which leads would be sent, their cost, the remaining budget and the duration."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from stream_app.domain.dead_letter.causes import Kind
from stream_app.domain.delivery.state_machine import SETTLED, Delivery
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits import rate
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Cost
from stream_app.domain.limits.meters import Estimate, meters
from stream_app.domain.model.text import count
from stream_app.domain.plan import Workspace, in_force

Fate = Literal[
    "goes",  # it would be sent
    "as_input",  # refused for good, or another program's: it would begin a history of its own
    "suppressed",  # of a person on the suppression list
    "delivered",  # delivered to Clay since
    "ended",  # its history has ended otherwise since
    "under_way",  # it is on its way already
    "later_dead_letter",  # the lead has a later dead letter
    "may_be_at_clay",  # parked as uncertain: only with --uncertain
    "sent_back",  # an operator sent it back before
    "replaced",  # its lead was published again since
    "no_row",  # its row has expired: publish it as a new lead
    "waits_for_ask",  # refused for good: only when its disposition is asked for
    "cannot_go",  # its value is no lead that can be sent: unreadable, without an identity, too old, no destination
    "over_limit",  # it would be sent without --limit
]

MEANING: Final[dict[Fate, str]] = {
    "goes": "would be sent to Clay",
    "as_input": "would go down the line as new leads",
    "suppressed": "are of people on the suppression list (erased, or they objected) and never go",
    "delivered": "were delivered since",
    "ended": "have ended since (expired, suppressed or refused for good)",
    "under_way": "are on their way already",
    "later_dead_letter": "have a later dead letter, which counts (perhaps in leads.parked)",
    "may_be_at_clay": "may have reached Clay: only with --uncertain",
    "sent_back": "were sent back before",
    "replaced": "were replaced: their leads were published again",
    "no_row": "are not known any more: publish them as new leads",
    "waits_for_ask": "were refused for good: only with --disposition poison, policy or foreign",
    "cannot_go": "can never be sent as they are (no lead, no identity, too old, or no such destination)",
    "over_limit": "would go, too, but for --limit",
}


def fate(kind: Kind, seq: int, row: Delivery | None, *, uncertain: bool) -> Fate:
    """Return what would happen to a dead letter, by the rules of `state_machine.classify_record`.

    `row` is that of its lead. `uncertain`: the operator also wants leads that may have reached Clay.
    """
    if kind not in ("failed", "deferred"):
        return "as_input"
    if row is None:
        return "no_row"
    if row.state in SETTLED:
        return "delivered"
    if row.final:
        return "ended"
    if kind == "deferred":
        return "goes" if (row.state, row.seq) == ("deferred", seq) else "under_way"
    if row.state not in ("dead_lettered", "parked"):
        return "under_way"
    if row.state == "parked" and row.sends and not uncertain:
        return "may_be_at_clay"
    return "goes" if seq == row.seq else "later_dead_letter"


class Price(msgspec.Struct):
    """The cost of the leads of one destination.

    Attributes:
        credits: The estimated cost in credits.
        actions: The estimated cost in Actions.
        credits_at_most: The cost at the ceiling.
        credits_left: The smaller rest of the workspace's day and month; None: no limit.
        actions_left: As `credits_left`, in Actions.
        seconds: How long they take.
    """

    workspace: str
    destination: str
    leads: int
    credits: int
    actions: int
    credits_at_most: int
    actions_at_most: int
    credits_left: int | None
    actions_left: int | None
    seconds: float


def price_text(cost: Price) -> str:
    """Say what the leads of a destination cost, what is left, and how long they take."""
    where = f"{cost.destination or 'no destination'} ({cost.workspace or 'no workspace'})"
    return (
        f"{where}: {count(cost.leads, 'lead')}, about "
        f"{count(cost.credits, 'credit')} (at most {cost.credits_at_most:,}) of {left_text(cost.credits_left)}, about "
        f"{count(cost.actions, 'action')} (at most {cost.actions_at_most:,}) of {left_text(cost.actions_left)}, about "
        f"{cost.seconds:.0f} s"
    )


class TooDear(msgspec.Struct, frozen=True):
    """A workspace whose leads of all destinations cost more than its budget has left; None: no limit."""

    workspace: str
    leads: int
    credits: int
    actions: int
    credits_left: int | None
    actions_left: int | None


def too_dear(prices: Iterable[Price]) -> list[TooDear]:
    """Return the workspaces whose estimated cost exceeds their budget."""
    sums: dict[str, TooDear] = {}
    for cost in prices:
        before = sums.get(cost.workspace)
        sums[cost.workspace] = TooDear(
            cost.workspace,
            cost.leads + (before.leads if before else 0),
            cost.credits + (before.credits if before else 0),
            cost.actions + (before.actions if before else 0),
            cost.credits_left,
            cost.actions_left,
        )
    return [
        total
        for total in sums.values()
        if (total.credits_left is not None and total.credits > total.credits_left)
        or (total.actions_left is not None and total.actions > total.actions_left)
    ]


def too_dear_text(total: TooDear) -> str:
    """Say what the leads cost and what is left."""
    cost = f"{count(total.credits, 'credit')} and {count(total.actions, 'action')}"
    return (
        f"{total.workspace}: {count(total.leads, 'lead costs', 'leads cost')} about {cost}, there are "
        f"{left_text(total.credits_left)} and {left_text(total.actions_left)}"
    )


def left_text(amount: int | None) -> str:
    """Say what is left of a budget; None: it has no limit."""
    return "no limit" if amount is None else f"{amount:,} left"


def left(policy: BudgetPolicy, state: Budget, now_ms: int) -> tuple[int | None, int | None]:
    """Return the credits and Actions that may still be spent now; None: no limit."""
    now = meters(policy, state, now_ms)
    return (
        _least(now["credits_day"].left, now["credits_month"].left),
        _least(now["actions_day"].left, now["actions_month"].left),
    )


def pace(policy: Workspace, lane: Lane, share: float, asked_per_s: float | None) -> float:
    """Return how many dead letters are sent back per second: the requested rate, else `share` of the lane's rate."""
    return asked_per_s or in_force(policy, lane.changes).rate.rate_per_s * share


def price(
    destination: str,
    leads: int,
    estimate: Estimate,
    ceiling: Cost,
    policy: Workspace,
    lane: Lane,
    pace_per_s: float,
    now_ms: int,
) -> Price:
    """Return the price of `leads` more leads, with operators' live changes and at the lane's present rate.

    `estimate` is the learned cost of a lead, and the sum is rounded up; `ceiling` is the highest cost of a lead.
    """
    policy = in_force(policy, lane.changes)
    return Price(
        policy.name,
        destination,
        leads,
        math.ceil(leads * estimate.credits),
        math.ceil(leads * estimate.actions),
        leads * ceiling.credits,
        leads * ceiling.actions,
        *left(policy.budget, lane.budget, now_ms),
        leads / min(pace_per_s, rate.current(policy.rate, lane.rate)),
    )


class PricedPlan(msgspec.Struct):
    """The whole preview.

    Attributes:
        dead_letters: How many dead letters were selected.
        fates: How many there are of each fate.
        causes: Of those that would be sent, by reason and status.
        prices: By destination.
        paces: Dead letters sent back per second, by workspace.
    """

    dead_letters: int
    fates: Counter[Fate]
    causes: Counter[str]
    prices: list[Price]
    paces: dict[str, float] = {}

    @property
    def go(self) -> int:
        """How many would be published."""
        return self.fates["goes"] + self.fates["as_input"]

    @property
    def credits_at_most(self) -> int:
        """The cost of all in credits, at the ceilings."""
        return sum(cost.credits_at_most for cost in self.prices)

    @property
    def actions_at_most(self) -> int:
        """The cost of all in Actions, at the ceilings."""
        return sum(cost.actions_at_most for cost in self.prices)


def _least(*rests: int | None) -> int | None:
    known = [rest for rest in rests if rest is not None]
    return min(known) if known else None
