"""What the pipeline writes about a record that gets no row: one event, a marker, and a copy.

The marker makes a redelivery of the record do nothing. The value of a copy is that of the record,
byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stream_app.domain.delivery.envelope import (
    Envelope,
    input_envelope,
    named_workspace,
    pseudonymous_key,
)
from stream_app.domain.delivery.recorder import NO_IMPORT, CommitStep, event_record
from stream_app.domain.delivery.resolve import LeadRef
from stream_app.domain.delivery.state_machine import CONCLUDED, Read, Reason, mark_key
from stream_app.domain.lead.identity import identify
from stream_app.domain.lead.read import Unreadable, import_of
from stream_app.domain.model.messages import Lead, Status, StatusEvent
from stream_app.domain.model.records import ConsumedRecord, LeftOut, Record, trace_of
from stream_app.domain.model.text import count
from stream_app.domain.plan import Destination, Plan


def rejection(
    plan: Plan,
    consumed: ConsumedRecord,
    envelope: Envelope,
    lead: Lead | Unreadable,
    bad: Unreadable,
    now_ms: int,
    read: Read,
) -> CommitStep:
    """Return the step that concludes a record that is no valid lead, with a dead letter.

    The record has no row, so the step has one event and a marker. It has no event if a marker says
    that the record is concluded already.

    Args:
        plan: The configuration.
        consumed: The record.
        envelope: What its headers say.
        lead: What could be read of it.
        bad: Why it is no valid lead.
        now_ms: The time, epoch ms.
        read: Returns the row of a key as it is now.
    """
    for marker in mark_key(consumed.record_id), mark_key(envelope.origin):
        if read(marker) is not None:
            return CommitStep([(marker, CONCLUDED)], [], [])
    name = lead.workspace or (consumed.key or b"").decode("utf-8", "replace")
    name = named_workspace(name, plan.workspaces, bad.reason)
    why = Reason(bad.reason, bad.text)
    lead_id = _id_of(lead)
    table = Destination("", name, ())
    record = rejected_copy(plan, consumed, envelope, bad, name, lead_id, now_ms)
    return step_without_row(
        plan,
        consumed,
        envelope,
        "rejected_invalid",
        now_ms,
        why,
        lead_id,
        record,
        destination=table,
        lead=lead,
    )


def _id_of(lead: Lead | Unreadable) -> str:
    """Return the lead id by which its sender may search for it; '' if none can be read."""
    if isinstance(lead, Unreadable):
        return lead.lead_id
    identity = identify(lead, cleaned=True)
    return identity.lead_id if identity is not None else ""


def without_value(plan: Plan, run: Sequence[ConsumedRecord], now_ms: int) -> CommitStep:
    """Return the step that concludes a run of records without a value: one event for all.

    Each record gets a marker of its own. After a crash they come again in other pieces, because
    polls of Kafka end elsewhere, so the marker of the last record alone would not show that the
    first is concluded.

    Args:
        plan: The configuration.
        run: The records as they were consumed, in the order of their offsets. Each may stand for
            several on Kafka.
        now_ms: The time, epoch ms.
    """
    first = run[0].first
    last = run[-1]
    records = sum(consumed.records for consumed in run)
    text = (
        f"{count(records, 'record')} without a value, offsets {first} to {last.offset}: no lead, "
        "and no dead letter"
    )
    why = Reason("no_value", text)
    step = step_without_row(plan, last, input_envelope(last), "without_value", now_ms, why, "")
    event = msgspec.structs.replace(step.events[0], **_several(first, last.offset, records))
    return msgspec.structs.replace(
        step,
        rows=[(mark_key(consumed.record_id), CONCLUDED) for consumed in run],
        records=[event_record(plan, event)],
        events=[event],
    )


def _several(first: int, last: int, records: int) -> dict[str, Any]:
    """Return the fields of an event that is about several records."""
    return {"first_offset": first, "last_offset": last, "records": records}


def step_without_row(
    plan: Plan,
    consumed: ConsumedRecord,
    envelope: Envelope,
    status: Status,
    now_ms: int,
    why: Reason,
    lead_id: str,
    *records: Record,
    destination: Destination | None = None,
    lead: Lead | Unreadable | None = None,
) -> CommitStep:
    """Return the step of a record that has no row.

    The step has one event, and a marker that makes a redelivery do nothing. `records` are written
    in the same transaction. The event names `destination` if it is given. `lead` is what could be
    read, and the event names its import.
    """
    import_id, summary = NO_IMPORT if lead is None else import_of(lead)
    left_out = consumed.left_out
    is_batch = left_out is not None and left_out.why == "batch_too_large"
    several = _several(consumed.first, consumed.offset, consumed.records) if is_batch else {}
    event = StatusEvent(
        id=f"{envelope.origin}#{envelope.seq + 1}",
        lead_id=lead_id or f"record:{envelope.origin}",
        status=status,
        seq=envelope.seq + 1,
        at_ms=now_ms,
        origin=envelope.origin,
        workspace=destination.workspace if destination else "",
        destination=destination.alias if destination else "",
        replay=envelope.replay,
        epoch=envelope.epoch,
        reason=why.reason,
        text=why.text,
        trace_id=envelope.trace_id or trace_of(envelope.origin),
        app=plan.app,
        parent_id=envelope.parent_id,
        sampled=envelope.sampled,
        import_id=import_id,
        import_summary=summary,
        dead_letter=envelope.dead_letter,
        **several,
    )
    return CommitStep(
        [(mark_key(consumed.record_id), CONCLUDED)],
        [event_record(plan, event), *records],
        [event],
    )


def rejected_copy(
    plan: Plan,
    consumed: ConsumedRecord,
    envelope: Envelope,
    bad: Unreadable,
    workspace: str,
    lead_id: str,
    now_ms: int,
) -> Record:
    """Return the dead letter of a record that is no valid lead for this configuration.

    Args:
        plan: The configuration.
        consumed: The record.
        envelope: The record's envelope.
        bad: Why it is no valid lead.
        workspace: The workspace that it names; '' if that must not be shown.
        lead_id: The lead's id as in its event; '' if it is not known.
        now_ms: The present time, epoch ms.
    """
    value = consumed.value
    most = plan.sizes.dead_letter
    # A compressed batch may hold a value that exceeds the limit of the dead letters' topic.
    cut_bytes = max(0, len(value or b"") - most)
    left_out = consumed.left_out or LeftOut()
    is_batch = left_out.why == "batch_too_large"
    dead_letter = envelope.onward(
        way="",
        cut_bytes=cut_bytes + left_out.cut_bytes,
        batch_first=f"{consumed.topic}/{consumed.partition}/{consumed.first}" if is_batch else "",
        batch_records=left_out.records if is_batch else 0,
        seq=envelope.seq + 1,
        lead_id=lead_id or envelope.lead_id,
        disposition="policy" if bad.reason.startswith("unknown_") else "poison",
        reason=bad.reason,
        text=bad.text,
        first_failure_ms=envelope.first_failure_ms or now_ms,
        last_failure_ms=now_ms,
        app=plan.app,
    )
    key = workspace.encode() if workspace else pseudonymous_key(consumed.key, plan.workspaces)
    return Record(plan.topics.dlq, key, value and value[:most], dead_letter.to_headers())


def rerouted_copy(
    plan: Plan,
    resolved: LeadRef,
    home: int,
    lost: bool,
    now_ms: int,
    why: Reason,
) -> Record:
    """Return the copy of a record that arrived in the wrong partition.

    The copy goes to the home partition of the record's workspace on `leads.retry`, because headers
    on an input topic are not trusted. If the record is `lost`, it goes to `leads.parked` instead.
    """
    failed_ms = now_ms if lost else 0
    onward = resolved.envelope.onward(
        way=resolved.envelope.way or "rerouted",
        seq=resolved.envelope.seq + 1,
        lead_id=resolved.lead_id if lost else resolved.envelope.lead_id,
        destination=resolved.destination.alias if lost else resolved.envelope.destination,
        hops=resolved.envelope.hops + 1,
        disposition="policy" if lost else "",
        reason=why.reason,
        text=why.text,
        first_failure_ms=resolved.envelope.first_failure_ms or failed_ms,
        last_failure_ms=failed_ms or resolved.envelope.last_failure_ms,
        app=plan.app,
    )
    if lost:
        topic = plan.topics.parked
        partition = None
    else:
        topic = plan.topics.retry
        partition = home
    headers = onward.to_headers()
    return Record(
        topic,
        resolved.destination.workspace.encode(),
        resolved.consumed.value,
        headers,
        partition,
    )
