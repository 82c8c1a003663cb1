"""The station *seen?*: what a record is to the row of its lead and, where that would have it sent, of its person."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stream_app.domain.delivery.recorder import Reason
from stream_app.domain.delivery.state_machine import Delivery, Verdict, judge, lead_of
from stream_app.domain.lead.resolve import ResolvedLead


def seen(
    resolved: ResolvedLead,
    others: Iterable[bytes],
    find: Callable[[bytes], Delivery | None],
    now_ms: int,
    freshness_ms: int,
) -> tuple[Delivery | None, Verdict, Reason]:
    """The row of the lead, the verdict, and for a duplicate what it is one of.

    others  keys of the rows of the person's leads. `find`: see `ports.PartitionState`.
    """
    row = find(resolved.key)
    verdict = judge(row, resolved.envelope, now_ms, freshness_ms)
    if verdict == "fresh" and not resolved.lead.force:
        for other in others:
            if judge(find(other), resolved.envelope, now_ms, freshness_ms) == "duplicate":
                text = f"this person came before, as lead {lead_of(other)[2]}"
                return row, "duplicate", Reason("same_person", text)
    return row, verdict, Reason("same_lead_id", "a lead of this id was taken before")
