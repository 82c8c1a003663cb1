"""What a replay would do before it is done: which leads would go, what it costs, what is left, how long it takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from stream_app.domain.dead_letter.causes import Kind
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.lane import rate
from stream_app.domain.lane.budget import Budget, BudgetPolicy, Cost
from stream_app.domain.lane.estimate import Estimate
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.meters import meters
from stream_app.domain.policy import Workspace, in_force

Fate = Literal[
    "goes",  # it would be sent
    "as_input",  # refused for good, or another program's: it would begin a story of its own
    "suppressed",  # of a person on the suppression list
    "delivered",  # Clay has it since
    "ended",  # its story has ended otherwise since
    "under_way",  # it is on its way already
    "later_letter",  # another letter of the lead is the last word on it
    "may_be_at_clay",  # parked as uncertain: only with --uncertain
    "sent_back",  # an operator sent this letter back before
    "no_row",  # nothing is known of it any more: publish it as a new lead
    "waits_for_ask",  # refused for good: only when its disposition is asked for
    "cannot_go",  # its value is no lead that can be sent: unreadable, without an identity, too old, no destination
    "same_lead",  # a rewind brings the lead back once, by another of its letters
    "over_limit",  # it would go, were it not for --limit
]

MEANING: Final[dict[Fate, str]] = {
    "goes": "would be sent to Clay",
    "as_input": "would go down the line as new leads",
    "suppressed": "are of people on the suppression list (erased, or they objected) and never go",
    "delivered": "were delivered since",
    "ended": "have ended since (expired, suppressed or refused for good)",
    "under_way": "are on their way already",
    "later_letter": "have a later dead letter, which counts (perhaps in leads.parked)",
    "may_be_at_clay": "may have reached Clay: only with --uncertain",
    "sent_back": "were sent back before",
    "no_row": "are not known any more: publish them as new leads",
    "waits_for_ask": "were refused for good: only with --disposition poison, policy or foreign",
    "cannot_go": "can never be sent unless edited (no lead, no identity, too old, or no such destination)",
    "same_lead": "are more dead letters of the same leads: a lead goes once",
    "over_limit": "would go, too, but for --limit",
}

_DELIVERED: Final = frozenset({"accepted", "enriched", "partial", "no_data", "enrich_error", "served_from_cache"})


def fate(kind: Kind, seq: int, row: Delivery | None, *, uncertain: bool, rewind: bool) -> Fate:
    """What would become of a letter whose `seq` and lead's row these are; `rewind`: by resetting offsets.

    The same rules as `delivery.judge`, which has the last word.
    """
    if kind not in ("failed", "deferred"):
        return "as_input" if not rewind else "waits_for_ask"
    if row is None:
        return "no_row"
    if row.state in _DELIVERED:
        return "delivered"
    if row.final:
        return "ended"
    if kind == "deferred":
        return "goes" if (row.state, row.seq) == ("deferred", seq) else "under_way"
    if row.state not in ("dead_lettered", "parked"):
        return "under_way"
    if row.state == "parked" and row.sends and not (uncertain and not rewind):
        return "may_be_at_clay"
    return "goes" if rewind or seq == row.seq else "later_letter"


class Price(msgspec.Struct):
    """Of one destination's part. `*_left`: of its workspace's day and month, whichever is less; None: no limit."""

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


class TooDear(msgspec.Struct, frozen=True):
    """A workspace whose leads, of all destinations together, cost more than its budget has left; None: no limit."""

    workspace: str
    leads: int
    credits: int
    actions: int
    credits_left: int | None
    actions_left: int | None


def too_dear(prices: Iterable[Price]) -> list[TooDear]:
    """The workspaces that cannot pay for all of it, by the estimate."""
    sums: dict[str, TooDear] = {}
    for each in prices:
        before = sums.get(each.workspace)
        sums[each.workspace] = TooDear(
            each.workspace,
            each.leads + (before.leads if before else 0),
            each.credits + (before.credits if before else 0),
            each.actions + (before.actions if before else 0),
            each.credits_left,
            each.actions_left,
        )
    return [
        each
        for each in sums.values()
        if (each.credits_left is not None and each.credits > each.credits_left)
        or (each.actions_left is not None and each.actions > each.actions_left)
    ]


def left(policy: BudgetPolicy, state: Budget, now_ms: int) -> tuple[int | None, int | None]:
    """Credits and Actions that may still be spent now; None: no limit."""
    now = meters(policy, state, now_ms)
    return (
        _least(now["credits_day"].left, now["credits_month"].left),
        _least(now["actions_day"].left, now["actions_month"].left),
    )


def pace(policy: Workspace, lane: Lane, share: float, asked_per_s: float | None) -> float:
    """Letters a second that are sent back: so many as were asked for, else `share` of what the lane takes at best."""
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
    """What `leads` more leads cost there, as the lane stands now: with what an operator changed live, and no faster
    than it takes them at present. The estimate is rounded up.
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
    """The whole answer. `causes`: of those that would go, by reason (and status).

    paces  letters a second that are sent back, by workspace.
    """

    letters: int
    fates: Counter[Fate]
    causes: Counter[str]
    prices: list[Price]
    paces: dict[str, float] = {}

    @property
    def go(self) -> int:
        """How many would be published."""
        return self.fates["goes"] + self.fates["as_input"]


def _least(*rests: int | None) -> int | None:
    known = [rest for rest in rests if rest is not None]
    return min(known) if known else None
