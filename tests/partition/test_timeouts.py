"""Leads without a callback: reported once, parked with their record, and a lane that gets no
callbacks.
"""

import asyncio

import msgspec

from stream_app.domain.dead_letter.orders import fate
from stream_app.domain.dead_letter.replay import redriven, returning
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.delivery.state_machine import delivery_key, lane_key
from stream_app.domain.model.outcome import Refused
from tests.support.narrow import present
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.virtual import now_ms, virtual_time


@virtual_time
async def test_a_lead_is_overdue_once_then_parked_with_its_bytes_and_charged() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.publish("id0", "p0")
    await bench.serve_for(49.0)
    assert bench.states(LEAD) == ["received", "sending", "accepted"]
    accepted = bench.events(LEAD)[-1]
    deadline_s = bench.plan.destinations["acme-main"].callback_deadline_s
    assert accepted.due_at_ms == accepted.at_ms + int(deadline_s * 1000)
    await asyncio.sleep(10.0)
    assert bench.states(LEAD)[3:] == ["callback_overdue"]
    assert bench.parked() == []
    await asyncio.sleep(100.0)
    assert bench.states(LEAD)[4:] == ["parked"]
    event = bench.events(LEAD)[-1]
    assert event.reason == "no_callback"
    assert event.credits == 20
    assert event.actions == 2
    row = bench.partition.state.rows.delivery(delivery_key("acme", "acme-main", "id0"))
    assert present(row).state == "parked", "it may be at Clay"
    assert present(row).sends == 1, "it may be at Clay"
    [dead_letter] = bench.parked()
    assert dead_letter.value == bench.kafka.log(bench.plan.topics.leads, 0).committed()[0].value
    envelope = read_envelope(dead_letter)
    assert envelope.origin == "leads/0/0"
    assert envelope.seq == 5
    assert envelope.disposition == "failed"
    assert bench.day().credits_reserved == 0
    assert bench.day().credits_spent == 20
    bench.call_back(credits=6)
    await asyncio.sleep(10.0)
    assert bench.states(LEAD)[5:] == ["accepted", "enriched"]
    assert bench.day().credits_spent == 6
    assert len(bench.clay.bodies) == 1


@virtual_time
async def test_a_lead_that_clay_took_and_that_was_parked_unanswered_is_not_sent_by_a_rewind() -> (
    None
):
    bench = Bench(clay_takes_s=0.1)
    bench.clay.first = [Refused("http_503", 1)] * (sent := bench.plan.delivery.max_attempts)
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    [dead_letter] = bench.dead_letters(bench.plan.topics.dlq)
    await bench.come_back(dead_letter, returning(read_envelope(dead_letter), dead_letter.record_id))
    await asyncio.sleep(200.0)
    assert bench.states(LEAD)[-5:] == [
        "replayed",
        "sending",
        "accepted",
        "callback_overdue",
        "parked",
    ]
    for epoch in (1, 2):
        await bench.come_back(
            dead_letter,
            returning(read_envelope(dead_letter), dead_letter.record_id, epoch),
        )
    assert len(bench.clay.bodies) == sent + 1
    assert bench.states(LEAD)[-1] == "parked"
    [parked] = map(read_envelope, bench.parked())
    row = bench.partition.state.rows.delivery(bench.key)
    assert fate("failed", parked.seq, row, uncertain=False) == "may_be_at_clay"
    # Only who names it sends it again.
    [parked_dead_letter] = bench.parked()
    await bench.come_back(parked_dead_letter, redriven(parked, parked_dead_letter.record_id))
    assert len(bench.clay.bodies) == sent + 2
    assert bench.events(LEAD)[-3].reason == "resend_ordered"


@virtual_time
async def test_a_dead_letter_says_that_its_record_is_gone() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.leave_row("callback_overdue", origin="leads/0/77", at_ms=now_ms())
    bench.store.away = 2
    await bench.serve_for(120.0)
    [event] = bench.events("leads/0/77")
    assert event.status == "parked"
    assert "no longer in Kafka" in event.text
    [dead_letter] = bench.parked()
    assert dead_letter.value is None
    assert read_envelope(dead_letter).reason == "no_callback"
    assert bench.store.away == 0


@virtual_time
async def test_a_successor_finds_waiting_leads_and_time_without_an_owner_does_not_count() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    await bench.partition.close()
    await asyncio.sleep(1_000.0)
    bench.partition = bench.owner()
    await bench.partition.take_over()
    await asyncio.sleep(30.0)
    assert bench.states(LEAD)[-1] == "accepted"
    await asyncio.sleep(35.0)
    assert bench.states(LEAD)[-1] == "callback_overdue"


@virtual_time
async def test_pending_callbacks_are_processed_before_any_lead_is_overdue() -> None:
    """In batches."""
    bench = Bench(clay_takes_s=0.1)
    many = 2_500
    for number in range(many):
        bench.call_back(lead_id=f"unknown{number}")
    bench.leave_row("accepted")  # since 1970
    bench.call_back()
    await bench.partition.take_over()
    await asyncio.sleep(30.0)
    assert len(bench.unmatched(0)) == len(bench.unmatched(many - 1)) == 1
    assert [event.status for event in bench.events(LEAD)] == ["enriched"]


@virtual_time
async def test_callback_health_is_written_once_a_minute_while_leads_wait() -> None:
    bench = Bench(clay_takes_s=0.1)
    destination = bench.plan.destinations["acme-main"]
    bench.plan.destinations["acme-main"] = msgspec.structs.replace(
        destination,
        callback_deadline_s=3_600.0,
    )
    bench.leave_row("accepted", at_ms=now_ms())
    await bench.partition.take_over()
    for _ in range(5):
        await asyncio.sleep(59.0)
        assert now_ms() - bench.partition.state.lanes["acme"].callback_health.owned_ms <= 60_000
    rows = bench.kafka.log(bench.plan.topics.state, 0).committed()
    assert 5 <= sum(record.key == lane_key("acme") for record in rows) <= 6
