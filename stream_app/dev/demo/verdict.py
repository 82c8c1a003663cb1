"""Whether it all went right: the books, and beside them the ledger of the simulated Clay, which knows nothing of us."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

_REFUSALS: Final = frozenset({"422", "429", "503"})
"""Answers after which a lead is provably not there (clay-facts)."""
_SIGNS: Final = {"charge": 1, "refund": -1}


class Verdict(msgspec.Struct, frozen=True):
    """The ledger's side. A lead is named by its id.

    posts         requests that Clay got. accepted: leads that it took.
    doubles       leads that were POSTed again although an earlier POST was not refused.
    missing       leads that the system says are answered and Clay never got.
    unknown       leads that Clay took and the system neither calls answered nor has parked.
    uncertain     leads that were parked because nobody could tell, and that did reach Clay.
    charged       credits that Clay took for the answered leads; `booked`: those that the system says they did cost.
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
        """Every answered lead is at Clay exactly once, at the price that is in the books, and nothing else is."""
        return not (self.doubles or self.missing or self.unknown) and self.charged == self.booked


def compare(ledger: Iterable[Mapping[str, Any]], answered: Mapping[str, int], parked: Collection[str]) -> Verdict:
    """The ledger's lines, in order, against what the system says.

    answered  the leads that Clay has called back about, with the credits that were booked for each.
    parked    those that wait for a human.
    """
    posts = charged = 0
    maybe_there: set[str] = set()
    there: set[str] = set()
    doubles: set[str] = set()
    for line in ledger:
        lead = str(line.get("lead_id"))
        if line["kind"] in _SIGNS and lead in answered:
            charged += _SIGNS[line["kind"]] * line.get("credits", 0)
        if line["kind"] != "request":
            continue
        posts += 1
        if lead in maybe_there:
            doubles.add(lead)
        if line["accepted"]:
            there.add(lead)
        if str(line["status"]) not in _REFUSALS:
            maybe_there.add(lead)
    return Verdict(
        posts=posts,
        accepted=len(there),
        doubles=sorted(doubles),
        missing=sorted(answered.keys() - there),
        unknown=sorted(there - answered.keys() - set(parked)),
        uncertain=len(there & set(parked)),
        charged=charged,
        booked=sum(answered.values()),
    )
