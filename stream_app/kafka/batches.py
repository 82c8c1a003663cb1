"""Decodes the batches of a fetch, with a bound on what any of their bytes can make of this process.

A producer decides how many headers a record has and how long its key and its value are, and
compression makes them cheap: 330 bytes on Kafka become a million headers. aiokafka makes objects of
all of them before anyone can look (docs/reference/upstream/no-bound-on-headers.md). Here a record
has at most `MAX_HEADERS` headers of at most `MAX_HEADER_BYTES`. One that has more comes without
any, and `LeftOut` says why. On the topics to which producers write, keys and values are bounded as
well, and two kinds of records come as one that stands for all of them:

- The records of a batch that is too large once it is decompressed. The value is the batch as it is
  on Kafka. It is whole, so that no other replica has a better one, and nothing behind it has to
  wait for a person.
- Records without a value that follow each other, because none of them says anything.

A small batch is decoded by aiokafka's extension in C, and its headers are counted afterwards: it
cannot have many. The records of a large one are read here one by one, with their lengths before
their contents. Decompressed batches that wait for their next poll are dropped when there are too
many of them, and decompressed again.

Tests: tests/unit/kafka/test_batches.py and tests/e2e/test_hostile.py.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, ClassVar, Final, Literal

import msgspec
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.records import LeftOut, Reduced, records_of
from stream_app.domain.model.topics import MAX_INPUT_BYTES, MAX_UNPACKED_BYTES
from stream_app.domain.model.untrusted import MAX_HEADER_BYTES, MAX_HEADERS, MAX_KEY_BYTES
from stream_app.kafka import codecs

MAX_VALUE_BYTES: Final = MAX_INPUT_BYTES
"""The most bytes of a producer's value that are kept: a dead letter takes no more."""

_SMALL_BYTES: Final = 262_144
"""A batch of this size has at most as many headers as fit into 20 MB, so that they can be counted
afterwards.
"""
_MAX_KEPT_BYTES: Final = 2 * MAX_UNPACKED_BYTES
_MAX_OPENED_BYTES: Final = 16 * MAX_UNPACKED_BYTES
"""The most bytes of a batch that an operator opens. A producer of leads is far from that."""
_OBJECT_BYTES: Final = 150
_MAX_RUN_RECORDS: Final = 10_000
_HEADER_BYTES: Final = 10
"""The most bytes that the two lengths of a header take."""

_BATCH_BYTES: Final = 61
_LENGTH: Final = struct.Struct(">i")
_MAGIC_AT: Final = 16
_ATTRIBUTES_AT: Final = 21
_LAST_DELTA_AT: Final = 23
_MAX_TIMESTAMP_AT: Final = 35
_COUNT_AT: Final = 57
_CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 1


class PlainRecord(msgspec.Struct, gc=False):
    """What the readers of topics and Faust need of a record. `headers` may be `Reduced`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    # Faust copies these into its message, and reads none of them.
    timestamp_type: ClassVar[int] = _LOG_APPEND_TIME
    checksum: ClassVar[None] = None
    serialized_key_size: ClassVar[int] = -1
    serialized_value_size: ClassVar[int] = -1

    @property
    def memory_bytes(self) -> int:
        """About how many bytes of memory it takes."""
        # One that stands for many counts as these do: to read them takes the time that a poll has.
        size = _OBJECT_BYTES * records_of(self.headers)
        size += len(self.key or b"") + len(self.value or b"")
        for _, value in self.headers:
            size += _OBJECT_BYTES + len(value or b"")
        return size


class Unpacked:
    """The decompressed bytes of the large batches that a consumer is reading.

    It keeps only those that were used last.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def of(self, batch: _Batch) -> bytes:
        """Return the decompressed bytes of a batch.

        Raises what its codec raises, BatchTooLarge among them.
        """
        number = id(batch)
        kept = self._kept.get(number)
        if kept is None:
            kept = codecs.decompress(batch.codec, batch.payload)
            self._kept[number] = kept
            self._bytes += len(kept)
            while self._bytes > _MAX_KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        elif len(self._kept) > 1:
            self._kept.move_to_end(number)
        return kept

    def drop(self, batch: _Batch) -> None:
        """Forget the bytes of a batch that is read to its end, or that nobody reads on."""
        self._bytes -= len(self._kept.pop(id(batch), b""))


class _Batch:
    """The bytes of one batch of a fetch, in the format that Kafka has written since 0.11."""

    def __init__(self, raw: memoryview) -> None:
        self.raw = raw
        self.codec = raw[_ATTRIBUTES_AT + 1] & _CODEC
        (self.base,) = struct.unpack_from(">q", raw)
        (delta,) = struct.unpack_from(">i", raw, _LAST_DELTA_AT)
        self.last = self.base + delta
        (self.count,) = struct.unpack_from(">i", raw, _COUNT_AT)
        self.first_timestamp, self.max_timestamp = struct.unpack_from(
            ">qq",
            raw,
            _MAX_TIMESTAMP_AT - 8,
        )
        self.has_append_time = bool(raw[_ATTRIBUTES_AT + 1] & 0x08)

    @property
    def payload(self) -> memoryview:
        return self.raw[_BATCH_BYTES:]


def unpack(
    tp: TopicPartition,
    records: Any,
    raw: bytes,
    inputs: Container[str],
    unpacked: Unpacked,
) -> Iterator[PlainRecord]:
    """Yield the committed records of a fetch, within the bounds on what a producer may write.

    It replaces `PartitionRecords._unpack_records` of aiokafka, which has no bounds.
    `records.next_fetch_offset` is past each record as soon as it is yielded.

    Args:
        tp: The partition.
        records: aiokafka's PartitionRecords.
        raw: The bytes of the fetch that they are made from.
        inputs: The topics to which producers write.
        unpacked: What the consumer keeps decompressed.

    Raises:
        CorruptRecordException: A checksum does not match, or a record is no record.
        Exception: Errors of all kinds that decoders raise.
    """
    batches = records._records
    is_input = tp.topic in inputs
    at = 0
    while batches.has_next():
        batch = batches.next_batch()
        piece = memoryview(raw)[at : at + 12 + _LENGTH.unpack_from(raw, at + 8)[0]]
        at += len(piece)
        if records._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {tp}")
        if _is_left_out(records, batch):
            records.next_fetch_offset = batch.next_offset
            continue
        if piece[_MAGIC_AT] < 2:
            decoded = _in_c(tp, batch)  # formats without headers
        else:
            decoded = _records_of(tp, _Batch(piece), batch, is_input=is_input, unpacked=unpacked)
        for record in _unread(tp, decoded, records.next_fetch_offset, merges_runs=is_input):
            records.next_fetch_offset = record.offset + 1
            yield record
        # The last offset of a batch stays when compaction has removed its last record.
        records.next_fetch_offset = batch.next_offset


def _unread(
    tp: TopicPartition,
    records: Iterable[PlainRecord],
    next_offset: int,
    *,
    merges_runs: bool,
) -> Iterator[PlainRecord]:
    """Yield the records of a batch from `next_offset` on, each offset once.

    With `merges_runs`, each run of records without a value comes as one, which has the offset of
    the run's last record. A run ends before every offset that is a multiple of `_MAX_RUN_RECORDS`,
    so it has the same end wherever reading began.
    """
    first = 0
    count = 0
    last: PlainRecord | None = None
    for record in records:
        if record.offset < next_offset:
            continue
        next_offset = record.offset + 1
        is_of_run = merges_runs and record.value is None
        if is_of_run:
            if last is None:
                first = record.offset
                count = 0
            last = record
            count += 1
            if next_offset % _MAX_RUN_RECORDS:
                continue
        if last is not None:
            yield _run(tp, first, last, count)
            last = None
        if not is_of_run:
            yield record
    if last is not None:
        yield _run(tp, first, last, count)


def _run(tp: TopicPartition, first: int, last: PlainRecord, count: int) -> PlainRecord:
    headers = Reduced(LeftOut("no_value", first=first, records=count))
    return PlainRecord(tp.topic, tp.partition, last.offset, last.timestamp, None, None, headers)


def _is_left_out(records: Any, batch: Any) -> bool:
    """Return True for the marker of a transaction, and for a batch of one that was aborted."""
    if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        records._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and records._contains_abort_marker(batch):
            records._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in records._aborted_producers:
            return True
    return bool(batch.is_control_batch)


def _records_of(
    tp: TopicPartition,
    batch: _Batch,
    in_c: Any,
    *,
    is_input: bool,
    unpacked: Unpacked,
) -> Iterator[PlainRecord]:
    """Yield the records of a batch. `in_c` is the same batch for aiokafka's decoder."""

    def data_of() -> bytes | memoryview:
        return unpacked.of(batch) if batch.codec else batch.payload

    try:
        data = data_of()
        if len(data) > _SMALL_BYTES:
            yield from _one_by_one(tp, batch, data_of, is_input=is_input)
            return
        if batch.codec:
            in_c = DefaultRecordBatch(_uncompressed(batch, data))
        try:
            yield from _in_c(tp, in_c)
        # A header's name may hold any bytes: Kafka takes them, and Java's client replaces them.
        except UnicodeDecodeError:
            # The records before that one come a second time, and `_unread` leaves them out.
            yield from _one_by_one(tp, batch, data_of, is_input=is_input)
    except codecs.BatchTooLarge:
        if not is_input:
            raise
        yield _whole(tp, batch)
    finally:
        unpacked.drop(batch)


def _uncompressed(batch: _Batch, data: bytes | memoryview) -> bytes:
    """Return the batch as if its producer had not compressed it. Its checksum no longer matches."""
    head = bytearray(batch.raw[:_BATCH_BYTES])
    head[_ATTRIBUTES_AT + 1] &= ~_CODEC
    return bytes(head) + data


def _in_c(tp: TopicPartition, batch: Any) -> Iterator[PlainRecord]:
    topic, partition = tp
    for record in batch:
        headers = tuple(record.headers)
        if headers:
            header_bytes = sum(len(name.encode()) + len(value or b"") for name, value in headers)
            if _is_too_much(len(headers), header_bytes):
                headers = Reduced(LeftOut("too_many_headers"))
        yield PlainRecord(
            topic,
            partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            headers,
        )


def _is_too_much(count: int, size: int) -> bool:
    """Return True if a record has too many headers. `size`: of their names and values, in bytes."""
    return count > MAX_HEADERS or size > MAX_HEADER_BYTES


def _whole(tp: TopicPartition, batch: _Batch) -> PlainRecord:
    """Return the record that stands for a whole batch.

    It has the batch's last offset, so that what follows the batch is read next.
    """
    headers = Reduced(LeftOut("batch_too_large", first=batch.base, records=batch.count))
    raw = bytes(batch.raw)
    return PlainRecord(tp.topic, tp.partition, batch.last, batch.max_timestamp, None, raw, headers)


def opened(tp: TopicPartition, raw: bytes) -> Iterator[PlainRecord]:
    """Yield the records of a batch that came as one record because it was too large.

    Args:
        tp: The partition of the batch.
        raw: The bytes of the batch, which are the value of that one record.

    Raises:
        StreamAppError: It has more than `_MAX_OPENED_BYTES`, or cannot be read.
    """
    try:
        batch = _Batch(memoryview(raw))
        data = (
            codecs.decompress(batch.codec, batch.payload, _MAX_OPENED_BYTES)
            if batch.codec
            else batch.payload
        )
        yield from _one_by_one(tp, batch, lambda: data, is_input=True)
    except Exception as error:
        raise StreamAppError(
            f"the batch from {tp.topic}/{tp.partition} cannot be opened: {error}",
        ) from error


# --------------------------------------------------------------------------------- record by record


def _one_by_one(
    tp: TopicPartition,
    batch: _Batch,
    data_of: Callable[[], bytes | memoryview],
    *,
    is_input: bool,
) -> Iterator[PlainRecord]:
    """Yield the records of a batch, each decoded when its turn has come."""
    at = 0
    data: bytes | memoryview = b""
    for _ in range(batch.count):
        # Fetched again each time: other batches may have taken its place since the last record.
        data = data_of()
        try:
            record, at = _read(tp, batch, data, at, is_input=is_input)
        except (IndexError, ValueError) as error:
            raise CorruptRecordException(f"Found invalid record structure: {error!r}") from error
        yield record
    if at != len(data):
        raise CorruptRecordException(
            f"{len(data) - at} unconsumed bytes after all records consumed",
        )


def _read(
    tp: TopicPartition,
    batch: _Batch,
    data: bytes | memoryview,
    at: int,
    *,
    is_input: bool,
) -> tuple[PlainRecord, int]:
    """Return the record that begins at `at`, and where it ends. Raises IndexError, ValueError."""
    length, at = _varint(data, at)
    end = at + length
    if length < 0 or end > len(data):
        raise ValueError("a record ends outside its batch")
    at += 1  # attributes, which no version of Kafka uses
    timestamp_delta, at = _varint(data, at)
    offset_delta, at = _varint(data, at)
    why: Literal["", "too_many_headers", "key_too_long"] = ""
    key_bytes, key_at = _varint(data, at)
    at = key_at + max(0, key_bytes)
    if is_input and key_bytes > MAX_KEY_BYTES:
        why = "key_too_long"
        key_bytes = -1
    value_bytes, value_at = _varint(data, at)
    at = value_at + max(0, value_bytes)
    cut_bytes = max(0, value_bytes - MAX_VALUE_BYTES) if is_input else 0
    header_count, at = _varint(data, at)
    if header_count < 0 or at > end:
        raise ValueError("a record is longer than it says")
    # The lengths come first: no object is made of what is too much.
    if header_count > MAX_HEADERS or end - at > MAX_HEADER_BYTES + header_count * _HEADER_BYTES:
        why = why or "too_many_headers"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    if not why:
        headers = _read_headers(data, at, end, header_count)
        size = sum(len(name.encode()) + len(value or b"") for name, value in headers)
        if _is_too_much(header_count, size):
            why = "too_many_headers"
    if why or cut_bytes:
        headers = Reduced(LeftOut(why, cut_bytes), () if why else headers)
    record = PlainRecord(
        tp.topic,
        tp.partition,
        batch.base + offset_delta,
        batch.max_timestamp if batch.has_append_time else batch.first_timestamp + timestamp_delta,
        bytes(data[key_at : key_at + key_bytes]) if key_bytes >= 0 else None,
        bytes(data[value_at : value_at + value_bytes - cut_bytes]) if value_bytes >= 0 else None,
        headers,
    )
    return record, end


def _read_headers(
    data: bytes | memoryview,
    at: int,
    end: int,
    count: int,
) -> tuple[tuple[str, bytes | None], ...]:
    """Return the headers of a record.

    Bytes in a name that are not UTF-8 are replaced, as Java's client does.
    """
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, at = _varint(data, at)
        if size < 0:
            raise ValueError("a header has no name")
        name = str(data[at : at + size], "utf-8", "replace")
        size, at = _varint(data, at + size)
        headers.append((name, bytes(data[at : at + size]) if size >= 0 else None))
        at += max(0, size)
    if at != end:
        raise ValueError("a record has another length than it says")
    return tuple(headers)


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the number at `at`, and where it ends.

    Raises IndexError at the end of the bytes, and ValueError.
    """
    byte = data[at]
    at += 1
    value = byte & 0x7F
    shift = 7
    while byte & 0x80:
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    return (value >> 1) ^ -(value & 1), at
