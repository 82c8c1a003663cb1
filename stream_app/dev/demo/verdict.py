"""Whether it all went right: the books, and beside them the ledger of the simulated Clay, which knows nothing of us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

_REFUSALS = frozenset({"422", "503"})


class Verdict(msgspec.Struct, frozen=True):
    """The ledger's side. A lead is named by its id.

    posts         requests that Clay got. accepted: leads that it took.
    doubles       leads that Clay took twice, or was asked for again although the first POST was not refused.
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
    """The ledger's requests against the leads that the system says are accepted, and those that it has parked."""
    posts = 0
    taken: Counter[str] = Counter()
    not_refused: Counter[str] = Counter()
    for request in requests:
        posts += 1
        lead = str(request["lead_id"])
        taken[lead] += request["accepted"]
        not_refused[lead] += str(request["status"]) not in _REFUSALS
    there = {lead for lead, times in taken.items() if times}
    return Verdict(
        posts=posts,
        accepted=len(there),
        doubles=sorted(lead for lead in taken if taken[lead] > 1 or not_refused[lead] > 1),
        missing=sorted(set(accepted) - there),
        unknown=sorted(there - set(accepted) - set(parked)),
        uncertain=len(there & set(parked)),
    )
