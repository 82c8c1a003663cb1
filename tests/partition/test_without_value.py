"""Records without a value: no lead and no dead letter, and one event for those that follow each
other.
"""

from collections import Counter

import pytest

from stream_app.domain.books.money import BooksReport
from stream_app.domain.delivery.envelope import HEADERS, read_envelope
from stream_app.domain.model.records import ConsumedRecord, LeftOut, Record
from tests.simulation.schedule import Setup
from tests.simulation.tape import tape_of
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms, virtual_time


def _empty(bench: Bench, count: int, key: bytes | None = None, topic: str = "leads") -> None:
    for _ in range(count):
        bench.kafka.produce(0, Record(topic, key, None))


def _runs(bench: Bench) -> list[tuple[int | None, int | None, int]]:
    return [
        (event.first_offset, event.last_offset, event.records)
        for event in bench.events()
        if event.status == "without_value"
    ]


@virtual_time
async def test_a_run_gets_one_event_and_no_dead_letter() -> None:
    bench = Bench(Setup(callbacks=False, max_in_flight=8))
    bench.publish("id0", "a")
    _empty(bench, 200)
    _empty(bench, 50, b"acme")
    _empty(bench, 50, b"other")
    bench.publish("id1", "b")
    await bench.serve_for(10.0)
    assert _runs(bench) == [(1, 300, 300)]
    (event,) = (event for event in bench.events() if event.status == "without_value")
    assert event.origin == "leads/0/300"
    assert event.reason == "no_value"
    assert (
        event.text == "300 records without a value, offsets 1 to 300: no lead, and no dead letter"
    )
    assert bench.dead_letters(bench.plan.topics.dlq) == []
    assert bench.states().count("accepted") == 2, "the lead behind it goes on"
    assert bench.kafka.offset("g", "leads", 0) == 302


@pytest.mark.parametrize("topic", ["leads", "leads.bulk"])
@virtual_time
async def test_a_record_with_a_value_ends_a_run(topic: str) -> None:
    bench = Bench(Setup(callbacks=False))
    _empty(bench, 2, topic=topic)
    bench.produce({"lead_id": "id0", "fields": {"email": "a@example.com"}}, topic)
    _empty(bench, 3, topic=topic)
    await bench.serve_for(10.0)
    assert _runs(bench) == [(0, 1, 2), (3, 5, 3)]


@virtual_time
async def test_every_other_record_that_is_no_lead_stays_one_dead_letter() -> None:
    bench = Bench(Setup(callbacks=False))
    for value in (b"", b"x", b"", b"null"):
        bench.kafka.produce(0, Record("leads", None, value))
    await bench.serve_for(10.0)
    reasons = [read_envelope(letter).reason for letter in bench.dead_letters(bench.plan.topics.dlq)]
    assert reasons == ["empty", "not_json", "empty", "not_an_object"]
    assert Counter(bench.states()) == {"rejected_invalid": 4}


@virtual_time
async def test_runs_do_not_suspend_a_lane() -> None:
    """The guard against a flood of dead letters does not count what gets none."""
    bench = Bench(Setup(callbacks=False))
    for _ in range(300):
        _empty(bench, 1, b"acme")
        bench.kafka.produce(0, Record("leads.bulk", b"acme", None))
    bench.publish("id0", "a")
    await bench.serve_for(20.0)
    assert bench.states().count("accepted") == 1
    assert "suspended" not in {event.reason for event in bench.events()}


@virtual_time
async def test_records_that_come_again_after_a_crash_get_no_second_event() -> None:
    bench = Bench(Setup(callbacks=False))
    _empty(bench, 10)
    await bench.serve_for(10.0)
    assert _runs(bench) == [(0, 9, 10)]
    await bench.partition.close()
    bench.kafka._offsets["g", "leads", 0] = 4  # the process ended before it committed the others
    _empty(bench, 5)
    bench.start_over()
    await bench.serve_for(10.0)
    assert _runs(bench) == [(0, 9, 10), (10, 14, 5)]


@virtual_time
async def test_the_pieces_of_a_run_that_come_again_one_by_one_get_no_second_event() -> None:
    """A consumer gets a run in other pieces after a crash, because its polls end elsewhere."""
    bench = Bench(Setup(callbacks=False))
    _empty(bench, 3)
    await bench.serve_for(10.0)
    assert _runs(bench) == [(0, 2, 3)]
    await bench.partition.close()
    bench.kafka._offsets["g", "leads", 0] = 0  # the process ended before it committed the offset
    log = bench.kafka.log("leads", 0)
    later = log.entries[1:]
    del log.entries[1:]
    bench.start_over()
    await bench.serve_for(10.0)
    await bench.partition.close()
    log.entries.extend(later)
    _empty(bench, 2)
    bench.start_over()
    await bench.serve_for(10.0)
    assert _runs(bench) == [(0, 2, 3), (3, 4, 2)]
    assert bench.kafka.offset("g", "leads", 0) == 5


@virtual_time
async def test_records_without_a_value_on_leads_retry_are_copies_of_leads() -> None:
    """An erased lead comes back without its value: it keeps its history."""
    bench = Bench(Setup(callbacks=False))
    _empty(bench, 2, b"acme", "leads.retry")
    await bench.serve_for(10.0)
    assert Counter(bench.states()) == {"rejected_invalid": 2}


def _taken(bench: Bench, left_out: LeftOut, value: bytes, offset: int) -> ConsumedRecord:
    """What a consumer returns in place of too much (kafka/batches.py)."""
    record = bench.kafka.produce(0, Record("leads", b"acme", value))
    log = bench.kafka.log("leads", 0)
    taken = ConsumedRecord(
        "leads",
        0,
        record.offset,
        b"acme",
        value,
        (),
        record.timestamp_ms,
        left_out,
    )
    log.entries[record.offset] = log.entries[record.offset]._replace(consumed=taken)
    assert record.offset == offset
    return taken


LEAD = b'{"lead_id":"id0","fields":{"email":"a@example.com"}}'


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        (
            LeftOut("too_many_headers"),
            "The record has more than 100 headers or 16384 bytes of them",
        ),
        (LeftOut("key_too_long"), "The record's key has more than 16384 bytes"),
    ],
)
@virtual_time
async def test_a_lead_with_too_many_headers_is_a_dead_letter_that_can_be_sent(
    left_out: LeftOut,
    says: str,
) -> None:
    bench = Bench(Setup(callbacks=False))
    _taken(bench, left_out, LEAD, 0)
    await bench.serve_for(10.0)
    (event,) = bench.events()
    assert event.status == "rejected_invalid"
    assert event.reason == left_out.why
    assert event.lead_id == "id0"
    assert says in event.text
    (letter,) = bench.dead_letters(bench.plan.topics.dlq)
    assert letter.value == LEAD
    assert {name for name, _ in letter.headers} <= set(HEADERS.values())
    assert read_envelope(letter).disposition == "poison"
    assert bench.clay.bodies == []


@virtual_time
async def test_the_end_of_a_value_that_was_left_out_counts() -> None:
    bench = Bench(Setup(callbacks=False))
    _taken(bench, LeftOut(cut_bytes=1_000), bytes(200_000), 0)
    await bench.serve_for(10.0)
    (event,) = bench.events()
    assert event.reason == "oversize"
    assert "has 201000 bytes" in event.text
    (letter,) = bench.dead_letters(bench.plan.topics.dlq)
    assert read_envelope(letter).cut_bytes == 1_000


@virtual_time
async def test_a_batch_that_is_too_large_is_one_dead_letter_with_its_bytes() -> None:
    bench = Bench(Setup(callbacks=False))
    _empty(bench, 30)
    _taken(bench, LeftOut("batch_too_large", first=31, records=30_000), b"the bytes of a batch", 30)
    bench.publish("id1", "b")
    await bench.serve_for(10.0)
    (event,) = (event for event in bench.events() if event.status == "rejected_invalid")
    assert event.reason == "batch_too_large"
    assert event.first_offset == 31
    assert event.last_offset == 30
    assert event.records == 30_000
    (letter,) = bench.dead_letters(bench.plan.topics.dlq)
    envelope = read_envelope(letter)
    assert letter.value == b"the bytes of a batch"
    assert envelope.origin == "leads/0/30"
    assert envelope.batch_first == "leads/0/31"
    assert envelope.batch_records == 30_000
    assert bench.states()[-1] == "accepted", "the lead behind it goes on"


def _books(bench: Bench, passed: int) -> BooksReport:
    tape = tape_of(bench.plan, bench.kafka, now_ms())
    tape.passed["leads", 0] = passed
    return tape.close()


@virtual_time
async def test_the_books_compare_the_records_of_runs_with_their_events() -> None:
    bench = Bench(Setup(callbacks=False))
    bench.publish("id0", "a")
    _empty(bench, 20)
    bench.publish("id1", "b")
    _taken(bench, LeftOut("batch_too_large", first=22, records=400), b"the bytes of a batch", 22)
    _empty(bench, 10)
    await bench.serve_for(10.0)
    report = _books(bench, 33)
    assert report.balanced, report.problems
    assert report.records == 3
    assert report.leads == 3
    assert report.without_value == 30
    assert report.batches == 1
    assert report.in_batches == 400
    assert report.not_leads == {"without_value": 2}
    assert report.columns["rejected"].records == 1

    _empty(bench, 3)
    await bench.partition.close()
    assert _books(bench, 33).balanced, "no worker has taken the last three yet"
    (problem,) = _books(bench, 36).problems
    assert problem.where == "leads/0/23"
    assert problem.what == "13 records without a value, 13 of them passed: their events count 10"
    tape = tape_of(bench.plan, bench.kafka, now_ms())
    del tape.logs["leads", 0][:5]
    tape.begins["leads", 0] = 5
    tape.passed["leads", 0] = 33
    assert tape.close().balanced, "retention has deleted the beginning of the first run"
