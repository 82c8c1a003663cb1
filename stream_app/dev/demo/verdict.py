"""Whether it all went right: the books, and beside them the ledger of the simulated Clay, which knows nothing of us."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

_REFUSALS: Final = frozenset({"422", "429", "503"})
"""Answers after which a lead is provably not there (clay-facts)."""


class Verdict(msgspec.Struct, frozen=True):
    """The ledger's side. A lead is named by its id.

    posts         requests that Clay got. accepted: leads that it took.
    doubles       leads that were POSTed again although an earlier POST was not refused.
    missing       leads that the system says are accepted and Clay never got.
    unknown       leads that Clay took and the system neither calls accepted nor has parked as uncertain.
    uncertain     leads that were parked because nobody could tell, and that did reach Clay.
    """

    posts: int
    accepted: int
    doubles: list[str]
    missing: list[str]
    unknown: list[str]
    uncertain: int

    @property
    def agrees(self) -> bool:
        """Every accepted lead is at Clay exactly once, and nothing else is."""
        return not (self.doubles or self.missing or self.unknown)


def compare(requests: Iterable[Mapping[str, Any]], accepted: Collection[str], parked: Collection[str]) -> Verdict:
    """The ledger's requests, in order, against the leads that the system says are accepted, and those it has parked."""
    posts = 0
    maybe_there: set[str] = set()
    there: set[str] = set()
    doubles: set[str] = set()
    for request in requests:
        posts += 1
        lead = str(request["lead_id"])
        if lead in maybe_there:
            doubles.add(lead)
        if request["accepted"]:
            there.add(lead)
        if str(request["status"]) not in _REFUSALS:
            maybe_there.add(lead)
    return Verdict(
        posts=posts,
        accepted=len(there),
        doubles=sorted(doubles),
        missing=sorted(set(accepted) - there),
        unknown=sorted(there - set(accepted) - set(parked)),
        uncertain=len(there & set(parked)),
    )
