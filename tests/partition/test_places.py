"""Places of records under way, records read ahead, acks in their order, and pauses: each up to its
limit.
"""

import asyncio

import msgspec
import pytest

from stream_app.domain.plan import DeliveryPolicy
from stream_app.partition.ack_tracker import AckTracker
from stream_app.partition.in_flight import InFlight
from stream_app.partition.places import MAX_UNDER_WAY_BYTES, MAX_WAITING_BYTES, Limiter, ReadAhead
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import CommitsAtOnce, RecordingStream, consumed, virtual_time


def is_free(limiter: Limiter) -> bool:
    return limiter._some.is_set()


def test_a_record_that_waits_gives_its_place_up_and_ten_times_as_many_may() -> None:
    limiter = Limiter(2)
    limiter.enter()
    assert is_free(limiter)
    limiter.enter()
    assert not is_free(limiter)
    with limiter.released():
        assert is_free(limiter)
    with limiter.released(0):
        assert is_free(limiter)
    assert not is_free(limiter)
    limiter.leave()
    assert is_free(limiter)
    blocks = [limiter.released() for _ in range(20)]
    for number, block in enumerate(blocks, 1):
        block.__enter__()
        assert is_free(limiter) is (number < 20)
    for block in blocks:
        block.__exit__(None, None, None)
    assert is_free(limiter)


def test_records_under_way_are_bounded_by_bytes_and_one_always_goes() -> None:
    limiter = Limiter(100)
    limiter.enter(MAX_UNDER_WAY_BYTES - 1)
    assert is_free(limiter)
    limiter.enter(10)
    assert not is_free(limiter)
    with limiter.released():
        assert not is_free(limiter), "a record that waits keeps its bytes"
    limiter.leave(10)
    assert is_free(limiter)
    limiter.leave(MAX_UNDER_WAY_BYTES - 1)
    limiter.enter(2 * MAX_UNDER_WAY_BYTES)
    assert not is_free(limiter)
    limiter.leave(2 * MAX_UNDER_WAY_BYTES)
    assert is_free(limiter)


@pytest.mark.parametrize(
    ("records", "size"),
    [(8, 10), (3, MAX_WAITING_BYTES // 3 + 1), (2, MAX_WAITING_BYTES // 2)],
)
@virtual_time
async def test_records_are_taken_ahead_up_to_a_number_and_to_bytes(records: int, size: int) -> None:
    ahead = ReadAhead(msgspec.structs.replace(DeliveryPolicy(), max_waiting=2))
    taken = [
        InFlight(consumed(number, b"x" * size), "hot", asyncio.Event(), Limiter(9))
        for number in range(records)
    ]
    for number, one in enumerate(taken, 1):
        ahead.enter(one.size)
        assert ahead._some.is_set() is (number < records)
    ahead.leave(taken[0].size)
    assert ahead._some.is_set()


@virtual_time
async def test_a_partition_of_one_workspace_reads_no_lead_behind_one_that_waits() -> None:
    bench = await Bench.started()
    await bench.order("pause")
    for number in range(5):
        email = f"ada{number}@example.com"
        bench.produce({"lead_id": f"id{number}", "fields": {"email": email}})
    await asyncio.sleep(1.0)
    assert len(bench.partition.runner._unfinished) == 1


def test_a_failed_transaction_is_repeated_at_once_and_further_ones_after_longer_and_longer() -> (
    None
):
    commits = CommitsAtOnce()
    pauses = []
    for failures in (0, 1, 2, 3, 4, 6, 7, 8, 2_000):
        commits.failures = failures
        pauses.append(commits.pause_s)
    assert pauses == [0.0, 0.0, 0.5, 1.0, 2.0, 8.0, 10.0, 10.0, 10.0]


@virtual_time
async def test_only_the_finished_beginning_is_acked_and_nothing_behind_what_was_given_up() -> None:
    stream = RecordingStream(ack_s={1: 5.0})
    acks = AckTracker(stream)
    records = [
        InFlight(consumed(number), "hot", asyncio.Event(), Limiter(9)) for number in range(6)
    ]
    for record in records:
        acks.add(record)
    await acks.finish(records[2])
    assert stream.acked == []
    await acks.finish(records[0])
    assert stream.acked == [0]
    slow = asyncio.create_task(acks.finish(records[1]))
    await asyncio.sleep(1)
    await acks.finish(records[3])
    assert stream.acked == [0], "acks never overtake each other"
    await slow
    assert stream.acked == [0, 1, 2, 3]
    await acks.finish(records[5])
    acks.give_up(records[4])
    assert stream.given_up == [4, 5], "what was finished behind it is delivered again, too"
    late = InFlight(consumed(6), "hot", asyncio.Event(), Limiter(9))
    acks.add(late)
    await acks.finish(late)
    assert stream.acked == [0, 1, 2, 3]
    assert stream.given_up == [4, 5, 6]
