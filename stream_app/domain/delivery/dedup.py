"""Duplicate detection: compares a record with the row of its lead and with the rows of the same person."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from stream_app.domain.delivery.recorder import Reason
from stream_app.domain.delivery.state_machine import Delivery, Verdict, classify_record, lead_of
from stream_app.domain.lead.resolve import ResolvedLead

_SAME_LEAD: Final = Reason("same_lead_id", "a lead with this id was accepted before")


def dedup(
    resolved: ResolvedLead,
    others: Iterable[bytes],
    find: Callable[[bytes], Delivery | None],
    now_ms: int,
    freshness_ms: int,
) -> tuple[Delivery | None, Verdict, Reason]:
    """Return the row of the lead, the verdict on the record, and the reason in case of a duplicate.

    `others` are the keys of the rows of the same person's other leads. A final row blocks the same lead for
    `freshness_ms`.
    """
    row = find(resolved.key)
    verdict = classify_record(row, resolved.envelope, now_ms, freshness_ms)
    if verdict == "fresh" and not resolved.lead.force:
        for other in others:
            if classify_record(find(other), resolved.envelope, now_ms, freshness_ms) == "duplicate":
                text = f"the same person was accepted before, as lead {lead_of(other)[2]}"
                return row, "duplicate", Reason("same_person", text)
    return row, verdict, _SAME_LEAD
