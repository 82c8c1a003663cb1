"""Duplicate detection: compares a record with the row of its lead and with the rows of the same person."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import Reason
from stream_app.domain.delivery.resolve import ResolvedLead
from stream_app.domain.delivery.state_machine import Delivery, Verdict, classify_record, lead_of, may_be_at_clay

_SAME_LEAD: Final = Reason("same_lead_id", "a lead with this id was accepted before")
_MAY_BE_AT_CLAY: Final = Reason(
    "may_be_at_clay",
    "the lead with this id is a dead letter that may have reached Clay: look for it in Clay's table, then send it back "
    "with `stream-app replay redrive --uncertain`, or publish it with force",
)


def dedup(
    resolved: ResolvedLead,
    others: Iterable[bytes],
    find: Callable[[bytes], Delivery | None],
    now_ms: int,
    freshness_ms: int,
) -> tuple[Delivery | None, Verdict, Reason]:
    """Return the row of the lead, the verdict on the record, and the reason in case of a duplicate.

    `others` are the keys of the rows of the same person's leads. A final row blocks the same lead for `freshness_ms`.
    A dead letter that Clay never had blocks the person's other leads, not its own: that one begins a new history.
    """
    row = find(resolved.key)
    verdict = classify_record(row, resolved.envelope, now_ms, freshness_ms)
    if verdict in ("fresh", "replaces"):
        for other in () if resolved.lead.force else others:
            if other != resolved.key and (why := _blocks(other, find(other), resolved.envelope, now_ms, freshness_ms)):
                return row, "duplicate", why
        return row, "fresh", _SAME_LEAD
    return row, verdict, _MAY_BE_AT_CLAY if may_be_at_clay(row) else _SAME_LEAD


def _blocks(key: bytes, row: Delivery | None, envelope: Envelope, now_ms: int, freshness_ms: int) -> Reason | None:
    """Return why another lead of the person makes this record a duplicate; None if it does not."""
    match classify_record(row, envelope, now_ms, freshness_ms):
        case "duplicate":
            return Reason("same_person", f"the same person was accepted before, as lead {lead_of(key)[2]}")
        case "replaces":
            text = f"the same person has a dead letter, as lead {lead_of(key)[2]}: publish it again under that id"
            return Reason("same_person", text)
    return None
