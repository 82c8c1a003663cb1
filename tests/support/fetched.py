"""Batches as a broker returns them, and what our consumer makes of them, without a broker."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import ManualSubscription
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from stream_app.kafka.consumer import Consumer

PLACE: Final = TopicPartition("leads", 0)
CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
Headers = Sequence[tuple[str, bytes | None]]


def batch_of(
    records: Iterable[tuple[bytes | None, bytes | None, Headers]],
    *,
    codec: str = "zstd",
    base: int = 0,
) -> bytes:
    """Return a batch of these records (key, value, headers) whose first offset is `base`."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, 0, 1 << 30)
    for number, (key, value, headers) in enumerate(records):
        assert builder.append(number, 1_000, key, value, list(headers)) is not None
    return at_offset(bytes(builder.build()), base)


def at_offset(batch: bytes, base: int) -> bytes:
    """Return the batch with this first offset, which the broker sets: the checksum does not cover
    it.
    """
    return base.to_bytes(8, "big") + batch[8:]


def fetch_result(
    consumer: Consumer,
    raw: bytes,
    at: int = 0,
    place: TopicPartition = PLACE,
) -> FetchResult:
    """Return what the consumer reads of a fetch from offset `at` on."""
    assignment = ManualSubscription([place]).assignment
    assignment.state_value(place).reset_to(at)
    records = PartitionRecords(place, MemoryRecords(raw), [], at, None, None, True, READ_COMMITTED)
    result = FetchResult(place, assignment=assignment, partition_records=records, backoff=0)
    consumer._raw[place] = raw
    consumer._guard(place, result)
    return result


def fetched(
    consumer: Consumer,
    raw: bytes,
    at: int = 0,
    place: TopicPartition = PLACE,
) -> list[Any]:
    """Return all records of a fetch."""
    return list(fetch_result(consumer, raw, at, place)._partition_records)
