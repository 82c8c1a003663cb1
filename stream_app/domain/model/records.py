"""A record of Kafka, read or to be written.

It comes with what follows from it: the hash of its key, its place, the ids of its trace.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Final, Literal, Protocol, Self

import msgspec

Headers = tuple[tuple[str, bytes], ...]
RowChanges = list[tuple[bytes, bytes | None]]
"""Keys of rows with their new values. None deletes a row."""
_PLACE: Final = re.compile(r"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})", re.ASCII)


class KafkaRecord(Protocol):
    """A record as aiokafka provides it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Iterable[tuple[str, bytes | None]]: ...
    @property
    def timestamp(self) -> int: ...


class LeftOut(msgspec.Struct, frozen=True, gc=False):
    """What a reader has left out of a record.

    A producer may write more than a process can hold.

    Attributes:
        why: `too_many_headers`: its headers, `key_too_long`: its key and its headers,
            `batch_too_large`: all records of a batch, whose bytes are the value of this record,
            `no_value`: the keys and headers of a run of records without a value. "": no more than
            the end of its value.
        cut_bytes: How many bytes are missing at the end of its value.
        first: The first offset of the batch or the run, whose last offset this record has.
        records: How many records this one stands for; 0 if only for itself.
    """

    why: Literal["", "too_many_headers", "key_too_long", "batch_too_large", "no_value"] = ""
    cut_bytes: int = 0
    first: int | None = None
    records: int = 0


class Reduced(tuple[tuple[str, bytes | None], ...]):
    """The headers of a record of which something was left out.

    No bytes of a producer can have this type.
    """

    left_out: LeftOut

    def __new__(cls, left_out: LeftOut, headers: Iterable[tuple[str, bytes | None]] = ()) -> Self:
        reduced = super().__new__(cls, headers)
        reduced.left_out = left_out
        return reduced


def records_of(headers: Iterable[object]) -> int:
    """Return how many records the one with these headers stands for."""
    return headers.left_out.records or 1 if isinstance(headers, Reduced) else 1


class ConsumedRecord(msgspec.Struct, frozen=True, gc=False):
    """A record as Kafka returned it, with its bytes unchanged but for what was `left_out`.

    `timestamp_ms` is when the broker appended it.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0
    left_out: LeftOut | None = None

    @property
    def record_id(self) -> str:
        """`topic/partition/offset`: the record's name as an origin and in messages to people."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def first(self) -> int:
        """The first offset that it stands for."""
        left_out = self.left_out
        return self.offset if left_out is None or left_out.first is None else left_out.first

    @property
    def records(self) -> int:
        """How many records it stands for."""
        return 1 if self.left_out is None else self.left_out.records or 1

    def header(self, name: str) -> str | None:
        """Return the last header of that name as text, or None.

        Bytes that are not UTF-8 are replaced.
        """
        for key, value in reversed(self.headers):
            if key == name:
                return (value or b"").decode("utf-8", "replace")
        return None


def consumed_record(
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]] | None,
    timestamp_ms: int,
) -> ConsumedRecord:
    """Return a record from what a consumer of Kafka has read.

    A header without a value gets an empty one.
    """
    return ConsumedRecord(
        topic,
        partition,
        offset,
        key,
        value,
        tuple((name, content or b"") for name, content in headers) if headers else (),
        timestamp_ms,
        headers.left_out if isinstance(headers, Reduced) else None,
    )


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record to write. It goes to the writer's partition unless `partition` names another one."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


@lru_cache(4096)
def murmur2(key: bytes) -> int:
    """Return Kafka's hash of a key, unsigned 32 bits.

    It is that of org.apache.kafka.common.utils.Utils.murmur2.
    """
    mix = 0x5BD1E995
    mask = 0xFFFFFFFF
    body = len(key) & ~3
    value = 0x9747B28C ^ len(key)
    for at in range(0, body, 4):
        word = int.from_bytes(key[at : at + 4], "little") * mix & mask
        word = (word ^ word >> 24) * mix & mask
        value = value * mix & mask ^ word
    if tail := key[body:]:
        value = (value ^ int.from_bytes(tail, "little")) * mix & mask
    value = (value ^ value >> 13) * mix & mask
    return value ^ value >> 15


def trace_of(origin: str) -> str:
    """Return a W3C trace id for a record without one.

    It is the same for every copy of the record.
    """
    return blake2b(origin.encode(), digest_size=16).hexdigest()


def span_id(origin: str, seq: int) -> str:
    """Return the id of the span that an event begins; 0 is the root."""
    return sha256(f"{origin}#{seq}".encode()).hexdigest()[:16]


def traceparent(trace_id: str, origin: str) -> str:
    """Return the `traceparent` of whatever continues the trace of a lead.

    The lead's root span is the parent.
    """
    return f"00-{trace_id}-{span_id(origin, 0)}-01"


def parse_record_id(text: str) -> tuple[str, int, int] | None:
    """Return topic, partition and offset of `topic/partition/offset`.

    It is None if the text has another form.
    """
    match = _PLACE.fullmatch(text)
    return (match[1], int(match[2]), int(match[3])) if match else None


def read_number(text: str) -> int:
    """Return the number in a header; 0 if it is no number or has more digits than any of ours."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
