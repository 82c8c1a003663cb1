"""Compares the system's results with the ledger of the simulated Clay, which is independent of the system."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

_REFUSALS: Final = frozenset({"422", "429", "503"})
"""Answers that prove that Clay did not take the lead (docs/reference/clay.md)."""
_SIGNS: Final = {"charge": 1, "refund": -1}


class Comparison(msgspec.Struct, frozen=True):
    """The comparison. Leads appear by their ids.

    Attributes:
        posts: Requests that Clay received.
        accepted: Leads that Clay took.
        doubles: Leads that were POSTed again although an earlier POST was not refused.
        missing: Leads that count as answered but that Clay never received.
        unknown: Leads that Clay took and that are neither answered nor parked.
        uncertain: Leads that were parked as uncertain and that did reach Clay.
        charged: Credits that Clay charged for the answered leads.
        booked: Credits that the system booked for them.
    """

    posts: int
    accepted: int
    doubles: list[str]
    missing: list[str]
    unknown: list[str]
    uncertain: int
    charged: int
    booked: int

    @property
    def agrees(self) -> bool:
        """True if Clay took every answered lead exactly once, at the booked price, and no other lead."""
        return not (self.doubles or self.missing or self.unknown) and self.charged == self.booked


def compare(ledger: Iterable[Mapping[str, Any]], answered: Mapping[str, int], parked: Collection[str]) -> Comparison:
    """Compare the ledger with the system.

    Args:
        ledger: Its lines, in order.
        answered: The leads that Clay has called back about, with the credits booked for each.
        parked: The leads that wait for a human.
    """
    posts = charged = 0
    maybe_at_clay: set[str] = set()
    at_clay: set[str] = set()
    doubles: set[str] = set()
    for line in ledger:
        lead = str(line.get("lead_id"))
        if line["kind"] in _SIGNS and lead in answered:
            charged += _SIGNS[line["kind"]] * line.get("credits", 0)
        if line["kind"] != "request":
            continue
        posts += 1
        if lead in maybe_at_clay:
            doubles.add(lead)
        if line["accepted"]:
            at_clay.add(lead)
        if str(line["status"]) not in _REFUSALS:
            maybe_at_clay.add(lead)
    return Comparison(
        posts=posts,
        accepted=len(at_clay),
        doubles=sorted(doubles),
        missing=sorted(answered.keys() - at_clay),
        unknown=sorted(at_clay - answered.keys() - set(parked)),
        uncertain=len(at_clay & set(parked)),
        charged=charged,
        booked=sum(answered.values()),
    )
