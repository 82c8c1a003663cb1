"""What is written about a record: each field of its events, copies and dead letters."""

from typing import Any

import pytest
from msgspec.structs import replace

from stream_app.domain.delivery.envelope import HEADERS, Envelope, Way, read_envelope
from stream_app.domain.delivery.recorder import DeliveryRecorder, Duration, failure
from stream_app.domain.delivery.resolve import LeadRef
from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery, Reason, mark_key
from stream_app.domain.delivery.without_row import rejected_copy, rejection, rerouted_copy
from stream_app.domain.lead.read import Unreadable
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.outcome import Poison
from stream_app.domain.model.records import ConsumedRecord, Record, trace_of
from tests.simulation.schedule import Setup, plan_of

NOW_MS = 1_796_083_140_000
PLAN = plan_of(Setup())
PLACE = PLAN.destinations["acme-main"]
ENVELOPE = Envelope(
    "leads/0/1",
    NOW_MS - 5_000,
    3,
    hops=2,
    dead_letter="leads.dlq/0/9",
    first_failure_ms=7,
)
ROW = Delivery(
    ROW_VERSION,
    "received",
    "leads/0/1",
    3,
    NOW_MS,
    1,
    "t",
    replay=3,
    epoch=2,
    attempt=1,
    returns=4,
)
VALUE = b'{"lead_id":"crm-1"}'
CONSUMED = ConsumedRecord("leads.retry", 0, 8, b"acme", VALUE)
PAID = Reservation("2026-11-30", "2026-11", 7, 2)


def recorder(row: Delivery = ROW, **envelope: Any) -> DeliveryRecorder[LeadRef]:
    came = replace(ENVELOPE, **envelope)
    return DeliveryRecorder(PLAN, LeadRef(CONSUMED, came, "crm-1", PLACE, b"d/1"), row)


def envelope_of(record: Record) -> Envelope:
    return read_envelope(
        ConsumedRecord(record.topic, 0, 0, record.key, record.value, tuple(record.headers)),
    )


def event(status: Any, seq: int, **more: Any) -> StatusEvent:
    about: dict[str, Any] = {
        "workspace": "acme",
        "destination": "acme-main",
        "attempt": 1,
        "replay": 3,
        "epoch": 2,
    }
    return StatusEvent(
        f"leads/0/1#{seq}",
        "crm-1",
        status,
        seq,
        NOW_MS,
        "leads/0/1",
        trace_id="t",
        app=PLAN.app,
        **about | more,
    )


def test_an_event_has_each_field_of_its_step() -> None:
    of_lead = recorder(replace(ROW, state="sending"))
    why = failure(Poison(422, 9, "bad column", "said"), due_at_ms=77)
    of_lead.go("dead_lettered", NOW_MS + 1_500, why, PAID)
    expected = event(
        "dead_lettered",
        4,
        reason="http_422",
        text="bad column",
        http_status=422,
        due_at_ms=77,
        credits=7,
        actions=2,
        day=PAID.day,
        month=PAID.month,
        waited_ms=1_500,
        waited_as="sending",
        dead_letter="leads.dlq/0/9",
    )
    batch = of_lead.step()
    assert batch.events == [replace(expected, at_ms=NOW_MS + 1_500)]
    assert batch.workspace == "acme"
    assert list(batch.durations) == []
    assert of_lead.step().events == [], "once"


def test_the_step_that_ends_a_lead_says_how_long_it_took_and_clay_with_it() -> None:
    of_lead = recorder(replace(ROW, state="accepted", accepted_at_ms=NOW_MS + 400))
    of_lead.go("partial", NOW_MS + 1_500, final=True)
    assert list(of_lead.step().durations) == [
        Duration("done", "acme-main", NOW_MS + 1_500 - ROW.first_at_ms),
        Duration("callback", "acme-main", 1_100),
    ]
    of_lead.go("enriched", NOW_MS + 9_000, final=True)
    assert list(of_lead.step().durations) == [], "it had ended before"


@pytest.mark.parametrize(
    ("after_ms", "waited"),
    [(999, {}), (1_000, {"waited_ms": 1_000, "waited_as": "received"})],
)
def test_a_wait_of_a_second_is_noted(after_ms: int, waited: dict[str, Any]) -> None:
    of_lead = recorder(seq=4)
    of_lead.go("held_budget", NOW_MS + after_ms)
    assert of_lead.step().events == [
        replace(event("held_budget", 4, **waited), at_ms=NOW_MS + after_ms),
    ]


@pytest.mark.parametrize(
    ("origin_ms", "queued_ms"),
    [(0, None), (NOW_MS - 999, None), (NOW_MS - 1_000, 1_000), (NOW_MS + 1, None)],
)
def test_the_first_event_says_how_long_the_record_was_on_kafka_and_whose_span_it_continues(
    origin_ms: int,
    queued_ms: int | None,
) -> None:
    for seq in (1, 2):
        row = replace(ROW, seq=seq)
        of_lead = recorder(row, seq=9, origin_ms=origin_ms, parent_id="ab", sampled=True)
        of_lead.emit()
        first: dict[str, Any] = {"parent_id": "ab", "sampled": True}
        first |= {"queued_ms": queued_ms} if queued_ms else {}
        assert of_lead.step().events == [event("received", seq, **first if seq == 1 else {})]


@pytest.mark.parametrize("failed_ms", [0, 50])
@pytest.mark.parametrize("is_dead_letter", [False, True])
def test_a_copy_has_everything_in_its_headers(is_dead_letter: bool, failed_ms: int) -> None:
    of_lead = recorder(replace(ROW, failed_at_ms=failed_ms))
    why = Reason("http_503", "busy", 503, 88, excerpt="said")
    copy = of_lead.copy(
        "t",
        NOW_MS,
        why,
        way="replayed",
        disposition="failed" if is_dead_letter else "",
    )
    assert copy.topic == "t"
    assert copy.key == b"acme"
    assert copy.value == VALUE
    first_ms = failed_ms or NOW_MS * is_dead_letter
    assert envelope_of(copy) == Envelope(
        "leads/0/1",
        NOW_MS - 5_000,
        3,
        "replayed",
        "crm-1",
        "acme-main",
        "failed" if is_dead_letter else "",
        "http_503",
        "busy",
        503,
        "said",
        1,
        3,
        2,
        4,
        2,
        first_failure_ms=first_ms,
        last_failure_ms=NOW_MS * is_dead_letter,
        not_before_ms=88,
        dead_letter="leads.dlq/0/9",
        trace_id="t",
        app=PLAN.app,
    )


@pytest.mark.parametrize(
    ("reason", "disposition"),
    [("not_json", "poison"), ("unknown_workspace", "policy")],
)
@pytest.mark.parametrize("size", [0, 1_048_587, 1_048_588, 1_048_589])
def test_a_dead_letter_of_no_lead_is_cut_to_what_its_topic_takes(
    size: int,
    reason: str,
    disposition: str,
) -> None:
    consumed = replace(CONSUMED, value=b"x" * size)
    bad = Unreadable(reason, "in words")
    most = PLAN.sizes.dead_letter
    record = rejected_copy(PLAN, consumed, ENVELOPE, bad, "acme", "crm-9", NOW_MS)
    assert record.topic == PLAN.topics.dlq
    assert record.key == b"acme"
    assert record.value == b"x" * min(size, most)
    assert envelope_of(record) == replace(
        ENVELOPE,
        seq=4,
        way="",
        cut_bytes=max(0, size - most),
        disposition=disposition,
        reason=reason,
        text="in words",
        last_failure_ms=NOW_MS,
        app=PLAN.app,
        lead_id="crm-9",
    )
    assert (HEADERS["cut_bytes"] in dict(record.headers)) is (size > most)
    never = replace(ENVELOPE, first_failure_ms=0)
    record = rejected_copy(PLAN, consumed, never, bad, "", "", NOW_MS)
    assert envelope_of(record).first_failure_ms == NOW_MS
    empty = rejected_copy(PLAN, replace(consumed, value=None), never, bad, "", "", NOW_MS)
    assert empty.value is None


@pytest.mark.parametrize("way", ["", "replayed"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_record_in_the_wrong_partition_goes_home_or_is_parked(lost: bool, way: Way) -> None:
    came = replace(ENVELOPE, way=way, last_failure_ms=8)
    record = rerouted_copy(
        PLAN,
        LeadRef(CONSUMED, came, "crm-1", PLACE, b"d/1"),
        5,
        lost,
        NOW_MS,
        Reason("astray", "words"),
    )
    if lost:
        topic = PLAN.topics.parked
        partition = None
    else:
        topic = PLAN.topics.retry
        partition = 5
    assert record.topic == topic
    assert record.partition == partition
    assert record.key == b"acme"
    assert record.value == VALUE
    assert envelope_of(record) == replace(
        came,
        seq=4,
        hops=3,
        way=way or "rerouted",
        disposition="policy" if lost else "",
        reason="astray",
        text="words",
        last_failure_ms=NOW_MS if lost else 8,
        app=PLAN.app,
        **({"lead_id": "crm-1", "destination": PLACE.alias} if lost else {}),
    )


@pytest.mark.parametrize("trace_id", ["", "ab" * 16])
@pytest.mark.parametrize("lead_id", ["", "crm-1"])
def test_what_is_no_lead_has_one_event_and_a_marker(lead_id: str, trace_id: str) -> None:
    consumed = ConsumedRecord("leads", 0, 1, b"acme", VALUE)
    bad = Unreadable("not_json", "in words", "acme", lead_id)
    envelope = Envelope("leads/0/1", trace_id=trace_id, parent_id="cd", sampled=True)
    rows: dict[bytes, bytes] = {}
    batch = rejection(PLAN, consumed, envelope, bad, bad, NOW_MS, rows.get)
    assert batch.events == [
        StatusEvent(
            "leads/0/1#1",
            lead_id or "record:leads/0/1",
            "rejected_invalid",
            1,
            NOW_MS,
            "leads/0/1",
            workspace="acme",
            reason="not_json",
            text="in words",
            trace_id=trace_id or trace_of("leads/0/1"),
            app=PLAN.app,
            parent_id="cd",
            sampled=True,
        ),
    ]
    assert batch.rows == [(mark_key("leads/0/1"), b"1")]
    assert [record.topic for record in batch.records] == [PLAN.topics.status, PLAN.topics.dlq]
    concluded = {mark_key("leads/0/1"): b"1"}
    again = rejection(PLAN, consumed, envelope, bad, bad, NOW_MS, concluded.get)
    assert again.events == [], "a redelivery has no effect"
