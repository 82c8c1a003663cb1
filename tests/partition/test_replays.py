"""A lead that is replayed again and again: the lead pipeline on an in-memory Kafka."""

import asyncio
from collections import Counter

import msgspec
import pytest

from stream_app.domain.dead_letter.replay import redriven, returning
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery, delivery_key, lane_key
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Reservation, reserve
from stream_app.domain.limits.rate import Rate
from stream_app.domain.model.outcome import Refused
from stream_app.domain.model.records import Record
from stream_app.domain.plan import MAX_RETURNS
from stream_app.partition.lanes import Lanes
from tests.simulation.client import MemoryStream
from tests.simulation.schedule import Setup
from tests.support.partition.bench import LEAD, Bench, lead_value
from tests.support.partition.virtual import now_ms, virtual_time


class NeverThrough(Bench):
    """Partition 0 with one lead that never gets through."""

    def __init__(self) -> None:
        super().__init__(Setup(max_attempts=1, max_replays=2), clay_takes_s=0.0)
        self.clay.first = [Refused("connect_error", 1)] * 1_000
        breaker = self.plan.workspaces["acme"].breaker
        self.change_workspaces(breaker=msgspec.structs.replace(breaker, mode="closed"))

    async def start(self) -> None:
        await self.serve()
        self.publish("id0", "a")
        await asyncio.sleep(5)


@virtual_time
async def test_rewinds_without_end_are_a_loop_and_parked_as_one() -> None:
    bench = await NeverThrough.started()
    dead_letter = bench.dead_letters(bench.plan.topics.dlq)[0]
    for epoch in range(1, MAX_RETURNS + 4):
        await bench.come_back(
            dead_letter,
            returning(read_envelope(dead_letter), dead_letter.record_id, epoch),
        )
    parked = [read_envelope(record) for record in bench.dead_letters(bench.plan.topics.parked)]
    assert [(envelope.reason, envelope.epoch, envelope.returns) for envelope in parked] == [
        ("loop_guard", 31, 31),
        ("loop_guard", 32, 32),
        ("loop_guard", 33, 33),
    ]
    assert "31 times" in parked[0].text
    assert len(bench.clay.bodies) == 31, "once as it came, and thirty times more"
    # An operator's word begins a new count.
    last = bench.dead_letters(bench.plan.topics.parked)[-1]
    await bench.come_back(last, redriven(read_envelope(last), last.record_id))
    assert len(bench.clay.bodies) == 32
    await bench.come_back(last, redriven(read_envelope(last), last.record_id))
    assert len(bench.clay.bodies) == 32, "one word, one time"


@pytest.mark.parametrize("refused", [False, True])
@virtual_time
async def test_copies_of_another_programs_forced_dead_letter_are_one_lead(
    refused: bool,
) -> None:
    """The replay process was killed before its commit, and an operator selects the same dead letter
    once more.
    """
    bench = Bench(Setup(callbacks=False))
    topic = bench.plan.topics.dlq
    if refused:
        bench.clay.first = [Refused("http_503", 1)] * bench.plan.delivery.max_attempts
    bench.kafka.produce(0, Record(topic, b"acme", lead_value(force=True), (("someone", b"else"),)))
    await bench.serve()
    [dead_letter] = bench.dead_letters(topic)
    for _ in range(2):
        await bench.come_back(
            dead_letter,
            returning(read_envelope(dead_letter), dead_letter.record_id),
        )
    for ours in bench.dead_letters(topic)[1:]:
        await bench.come_back(ours, returning(read_envelope(ours), ours.record_id))
    await bench.come_back(dead_letter, redriven(read_envelope(dead_letter), dead_letter.record_id))
    assert Counter(bench.states())["accepted"] == 1
    assert bench.states().count("duplicate") == 2
    assert len(bench.clay.bodies) == 1 + (bench.plan.delivery.max_attempts if refused else 0)
    bench.kafka.produce(0, Record(topic, b"acme", lead_value(force=True)))
    other = bench.dead_letters(topic)[-1]
    await bench.come_back(other, returning(read_envelope(other), other.record_id))
    assert Counter(bench.states())["accepted"] == 2, "another dead letter is another lead"


@virtual_time
async def test_the_reservation_of_a_returned_lead_is_booked_once_when_it_is_processed_again() -> (
    None
):
    """It was parked while its workspace was not configured; now its lane holds it through three
    rebalances.
    """
    bench = Bench()
    topics = bench.plan.topics
    destination = bench.plan.destinations["acme-main"]
    held = reserve(BudgetPolicy(), Budget(), destination.ceiling, now_ms())
    assert isinstance(held, tuple)
    lane = Lane(
        "acme",
        0,
        budget=held[0],
        rate=Rate(blocked_until_ms=now_ms() + 60_000, at_ms=now_ms()),
    )
    row = Delivery(
        ROW_VERSION,
        "parked",
        "leads/0/77",
        5,
        now_ms(),
        now_ms(),
        "t",
        sends=1,
        reservation=held[1],
    )
    bench.kafka.produce(0, Record(topics.state, lane_key("acme"), msgspec.json.encode(lane)))
    key = delivery_key("acme", "acme-main", "id0")
    bench.kafka.produce(0, Record(topics.state, key, msgspec.json.encode(row)))
    back = Envelope(
        origin="leads/0/77",
        seq=5,
        way="redriven",
        lead_id="id0",
        destination="acme-main",
        replay=1,
    )
    bench.kafka.produce(0, Record(topics.retry, b"acme", lead_value(), back.to_headers()))
    await bench.partition.take_over()
    for _ in range(3):
        stream = MemoryStream(bench.kafka, "g", 0, topics.retry, 0)
        serving = asyncio.create_task(bench.partition.runner.serve(stream, "retry"))
        await asyncio.sleep(5)
        stream.suspend()
        await stream.drained()
        await stream.end()
        await serving
    spent = bench.partition.state.lanes["acme"].budget.days[-1]
    assert spent.credits_spent == destination.ceiling.credits
    assert spent.credits_reserved == 0
    assert bench.states() == ["replayed"]


@virtual_time
async def test_a_returned_lead_gives_its_reservation_away_in_one_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step of another lead could otherwise commit the lane that has booked the reservation
    beside the row that still has it, and a recovery would book it twice.
    """
    bench = Bench()
    bench.leave_row("parked", sends=1)
    back = Envelope(
        origin=LEAD,
        seq=3,
        way="redriven",
        lead_id="id0",
        destination="acme-main",
        replay=1,
    )
    bench.put(bench.plan.topics.retry, lead_value(), envelope=back)
    rows = bench.partition.state.rows
    charge = Lanes.charge
    behind: list[Delivery | None] = []

    def charged(self: Lanes, workspace: str, reserved: Reservation | None) -> Reservation | None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: behind.append(rows.delivery(bench.key)))
        return charge(self, workspace, reserved)

    monkeypatch.setattr(Lanes, "charge", charged)
    await bench.serve_for(10.0)
    [row] = behind
    assert row is not None
    assert row.state == "replayed"
    assert row.reservation is None


@virtual_time
async def test_a_bulk_lead_stays_bulk_to_the_budget_after_a_replay() -> None:
    """20 credits are reserved for a lead, and 19.5 is what hot_share leaves to bulk."""
    bench = Bench()
    bench.change_workspaces(budget=BudgetPolicy(credits_per_day=39, hot_share=0.5))
    envelope = Envelope("leads.bulk/0/0", way="deferred")
    bench.kafka.produce(0, Record("leads.retry", b"acme", lead_value(), envelope.to_headers()))
    await bench.serve_for(5.0)
    assert bench.clay.bodies == []
    assert bench.states()[-1] == "deferred"
    (copy,) = bench.dead_letters("leads.deferred")
    assert read_envelope(copy).origin == envelope.origin
