"""The buffer of a topic and partition: bounded by records and by bytes, and open again when it has
emptied.
"""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from stream_app.config import Kafka
from stream_app.faust_app.app import build_app
from stream_app.faust_app.buffers import BoundedBuffer, size_of
from stream_app.kafka.connection import KafkaConnection
from tests.support.partition.virtual import virtual_time

BYTES = 10_000
RECORDS = 100


def event(value_bytes: int, *headers: tuple[str, bytes | None]) -> Any:
    message = SimpleNamespace(key=b"acme", value=b"x" * value_bytes, headers=headers)
    return SimpleNamespace(message=message)


def a_buffer() -> BoundedBuffer:
    app = build_app(
        "group",
        KafkaConnection("127.0.0.1:1"),
        Kafka(partitions=1),
        buffer_bytes=BYTES,
    )
    app.flow_control.resume()
    buffer = app.FlowControlQueue(RECORDS, clear_on_resume=True)
    assert isinstance(buffer, BoundedBuffer)
    return buffer


def filled(buffer: BoundedBuffer, value_bytes: int) -> tuple[int, Mock, Mock]:
    """Put records until the pressure is high. Returns how many went in."""
    high = Mock()
    drop = Mock()
    count = 0
    while not high.called:
        buffer.put_nowait_enhanced(event(value_bytes), on_pressure_high=high, on_pressure_drop=drop)
        count += 1
        assert count <= RECORDS
    return count, high, drop


@pytest.mark.parametrize(
    ("value_bytes", "count"),
    # the one that finds it full is kept: it was fetched
    [(0, 18), (1_396, 6), (9_396, 2), (900_000, 2)],
)
@virtual_time
async def test_a_partition_leaves_the_fetch_when_its_records_have_so_many_bytes(
    value_bytes: int,
    count: int,
) -> None:
    buffer = a_buffer()
    got, high, drop = filled(buffer, value_bytes)
    assert got == count
    buffer.put_nowait_enhanced(event(value_bytes), on_pressure_high=high, on_pressure_drop=drop)
    assert high.call_count == 1, "it is asked to stop once"
    assert not drop.called


@virtual_time
async def test_it_comes_back_when_two_fifths_of_the_bytes_are_left() -> None:
    buffer = a_buffer()
    count, _, drop = filled(buffer, 396)  # 1,000 bytes each with their objects
    assert count == 11
    left = []
    while not drop.called:
        await buffer.get()
        left.append(buffer.qsize())
    assert left[-1] == 3, "asked before the next one is taken, when four were left"
    _, high, again = filled(buffer, 396)
    assert high.called, "and it may fill again"
    assert not again.called


@virtual_time
async def test_a_buffer_of_one_large_record_opens_when_it_is_taken() -> None:
    buffer = a_buffer()
    count, _, drop = filled(buffer, 900_000)
    for _ in range(count):
        await buffer.get()
    assert drop.called or buffer.empty()
    buffer.maybe_endorse_pressure_drop()  # as the next get does
    assert drop.call_count == 1


@virtual_time
async def test_many_small_records_are_bounded_by_their_number() -> None:
    app = build_app(
        "group",
        KafkaConnection("127.0.0.1:1"),
        Kafka(partitions=1),
        buffer_bytes=2**30,
    )
    app.flow_control.resume()
    count, _, _ = filled(app.FlowControlQueue(RECORDS), 0)
    assert count == 0.8 * RECORDS + 1


@virtual_time
async def test_what_a_rebalance_clears_has_no_bytes() -> None:
    buffer = a_buffer()
    filled(buffer, 900_000)
    buffer.clear()
    assert filled(buffer, 0)[0] == 18


def test_the_size_of_a_record_counts_its_headers_and_the_objects() -> None:
    assert size_of(event(100)) == 600 + 4 + 100
    assert (
        size_of(event(100, ("name", b"value"), ("empty", None))) == 600 + 4 + 100 + 2 * 200 + 9 + 5
    )
    assert (
        size_of(SimpleNamespace(message=SimpleNamespace(key=None, value=None, headers=None))) == 600
    )
    assert size_of(object()) == 0
