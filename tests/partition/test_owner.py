"""A partition from take-over to close on an in-memory Kafka: what it refuses, when it stops, what
it gives up.
"""

import asyncio

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery, delivery_key, lane_key
from stream_app.domain.lane.lane import LANE_VERSION, Lane
from stream_app.domain.model.errors import Fenced, RowUnreadable
from stream_app.domain.model.outcome import Refused
from stream_app.domain.model.records import Record
from stream_app.partition.in_flight import InFlight
from tests.simulation.client import MemoryStateStore
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import (
    RecordingStream,
    consumed,
    virtual_time,
)


def _row(**changes: object) -> bytes:
    row = Delivery(ROW_VERSION, "accepted", "leads/0/0", 3, 1, 1, "t")
    return msgspec.json.encode(msgspec.structs.replace(row, **changes))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (lane_key("acme"), b"{", "cannot be read"),
        (
            lane_key("acme"),
            msgspec.json.encode(Lane("acme", 0, version=LANE_VERSION + 1)),
            "run the later version that wrote it",
        ),
        (
            lane_key("beta"),
            msgspec.json.encode(Lane("beta", 0)),
            "set workspaces.beta.partition = 0",
        ),
        (b"o/no place", b"1", "the row o/no place of the state topic cannot be read"),
        (b"c/leads", b"many", "the row c/leads of the state topic cannot be read"),
    ],
)
@virtual_time
async def test_a_state_that_cannot_be_used_is_refused_at_take_over(
    key: bytes,
    value: bytes,
    says: str,
) -> None:
    bench = Bench()
    bench.kafka.produce(0, Record(bench.plan.topics.state, key, value))
    with pytest.raises(RowUnreadable, match=says):
        await bench.partition.take_over()


@pytest.mark.parametrize("value", [b"[", _row(version=ROW_VERSION + 1)])
@virtual_time
async def test_a_lead_row_that_cannot_be_used_ends_the_process_without_an_ack(value: bytes) -> None:
    bench = Bench()
    key = delivery_key("acme", "acme-main", "id0")
    bench.kafka.produce(0, Record(bench.plan.topics.state, key, value))
    bench.publish_leads(2)
    await bench.serve_for(10.0)
    assert [type(error) for error in bench.alarmed()] == [RowUnreadable]
    assert bench.stream.committed() is None
    assert bench.clay.bodies == [], "nothing goes out any more that could only be uncertain"


@virtual_time
async def test_a_lead_bought_again_after_its_freshness_window_keeps_its_new_row() -> None:
    """Its old row ends with the very step that begins the new history: the deletion must not take
    the new one.
    """
    bench = Bench()
    key = delivery_key("acme", "acme-main", "id0")
    bench.kafka.produce(
        0,
        Record(bench.plan.topics.state, key, _row(origin="leads/9/9", final=True)),
    )
    bench.publish("id0", "p0")
    await bench.serve_for(0.5)
    assert bench.states() == ["received", "sending"]
    rows = {
        record.key: record.value
        for record in bench.kafka.log(bench.plan.topics.state, 0).committed()
    }
    assert rows[key] is not None


@virtual_time
async def test_between_two_attempts_a_lead_waits_twice_as_long_as_before() -> None:
    """The clock draws one half of each pause."""
    bench = Bench(Setup(callbacks=False, max_attempts=3), clay_takes_s=0.0)
    bench.clay.first = [Refused("http_503", 1)] * 2
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    assert bench.states() == [
        "received",
        "sending",
        "refused",
        "sending",
        "refused",
        "sending",
        "accepted",
    ]
    _, _, *events = bench.events()
    base_ms = int(bench.plan.delivery.retry_base_s * 1000)
    for refused, sending, pause_ms in zip(
        events[::2],
        events[1::2],
        (base_ms, 2 * base_ms),
        strict=False,
    ):
        assert refused.due_at_ms == refused.at_ms + pause_ms <= sending.at_ms, "not before"
        assert sending.at_ms <= refused.due_at_ms + 10, "and not after"


@virtual_time
@pytest.mark.parametrize("fenced", [False, True])
async def test_a_record_that_is_done_by_the_rows_is_acked_only_by_the_owner(fenced: bool) -> None:
    """Rows that say "done" may be those of a former owner.

    A commit proves that they are the newest.
    """
    bench = Bench(Setup(callbacks=False))
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    assert bench.states()[-1] == "accepted"
    if fenced:
        await MemoryStateStore(bench.kafka, "t-0", bench.plan.topics.state, 0).take_over()
    again = RecordingStream(list(bench.kafka.log(bench.plan.topics.leads, 0).committed()))
    serving = asyncio.create_task(bench.partition.runner.serve(again, "hot"))
    await asyncio.sleep(10.0)
    assert again.acked == ([] if fenced else [0])
    assert [type(error) for error in bench.alarmed()] == [Fenced] * fenced
    again.over.set()
    await serving


@virtual_time
async def test_a_lead_under_way_is_finished_and_acked_before_the_stream_ends() -> None:
    bench = Bench()
    bench.publish("id0", "p0")
    serving = await bench.serve()
    await asyncio.sleep(0.5)
    assert len(bench.clay.bodies) == 1
    await bench.leave(serving)
    assert bench.states()[-1] == "accepted"
    assert bench.stream.committed() == 1


@virtual_time
async def test_a_record_that_comes_between_owners_does_not_hold_up_a_suspension() -> None:
    bench = Bench()
    stream = RecordingStream([consumed(0), consumed(1)])
    stream.suspended.set()
    # not taken over (again) yet
    serving = asyncio.create_task(bench.partition.runner.serve(stream, "hot"))
    await asyncio.sleep(1.0)
    assert stream.given_up == [0, 1]
    assert len(bench.partition.runner._unfinished) == 0
    stream.over.set()
    await serving


@virtual_time
async def test_four_records_for_each_lead_in_flight_are_under_way_and_the_next_waits() -> None:
    bench = Bench(Setup(max_in_flight=1))
    started = list[int]()
    may_end = asyncio.Semaphore(0)

    async def process(in_flight: InFlight) -> None:
        started.append(in_flight.consumed.offset)
        in_flight.release_next()
        await may_end.acquire()

    runner = bench.partition.runner
    runner._pipelines = {**runner._pipelines, "hot": process}
    for number in range(9):
        bench.publish(f"id{number}", f"p{number}")
    await bench.serve_for(10.0)
    assert started == [0, 1, 2, 3]
    for _ in range(3):
        may_end.release()
    await asyncio.sleep(1.0)
    assert started == [0, 1, 2, 3, 4, 5, 6]
