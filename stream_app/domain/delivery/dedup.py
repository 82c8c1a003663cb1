"""The station *seen?*: what a record is to the row of its lead and, where that would have it sent, of its person."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stream_app.domain.delivery.recorder import Why
from stream_app.domain.delivery.state_machine import Delivery, Verdict, judge, lead_of
from stream_app.domain.lead.resolve import Case


def seen(
    case: Case,
    others: Iterable[bytes],
    find: Callable[[bytes], Delivery | None],
    now_ms: int,
    freshness_ms: int,
) -> tuple[Delivery | None, Verdict, Why]:
    """The row of the lead, the verdict, and for a duplicate what it is one of.

    others  keys of the rows of the person's leads. `find`: see `ports.Desk`.
    """
    row = find(case.key)
    verdict = judge(row, case.envelope, now_ms, freshness_ms)
    if verdict == "fresh" and not case.lead.force:
        for other in others:
            if judge(find(other), case.envelope, now_ms, freshness_ms) == "duplicate":
                text = f"this person came before, as lead {lead_of(other)[2]}"
                return row, "duplicate", Why("same_person", text)
    return row, verdict, Why("same_lead_id", "a lead of this id was taken before")
