"""Previews a replay: which leads would be sent, their cost, the remaining budget and the duration."""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import msgspec

from stream_app.domain.dead_letter.causes import Kind
from stream_app.domain.delivery.state_machine import SETTLED, Delivery
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.price import Quote
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


def pace(policy: Workspace, lane: Lane, share: float, asked_per_s: float | None) -> float:
    """Return how many dead letters are sent back per second: the requested rate, else `share` of the lane's rate."""
    return asked_per_s or in_force(policy, lane.changes).rate.rate_per_s * share


class PricedPlan(msgspec.Struct):
    """The whole preview.

    Attributes:
        dead_letters: How many dead letters were selected.
        fates: How many there are of each fate.
        causes: Of those that would be sent, by reason and status.
        quotes: By workspace.
        paces: Dead letters sent back per second, by workspace.
    """

    dead_letters: int
    fates: Counter[Fate]
    causes: Counter[str]
    quotes: list[Quote]
    paces: dict[str, float] = {}

    @property
    def go(self) -> int:
        """How many would be published."""
        return self.fates["goes"] + self.fates["as_input"]

    @property
    def credits_at_most(self) -> int:
        """The cost of all in credits, at the ceilings."""
        return sum(part.credits_at_most for quoted in self.quotes for part in quoted.parts)

    @property
    def actions_at_most(self) -> int:
        """The cost of all in Actions, at the ceilings."""
        return sum(part.actions_at_most for quoted in self.quotes for part in quoted.parts)
