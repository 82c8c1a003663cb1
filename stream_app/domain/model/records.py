"""A record that was read from Kafka, a record to write, and Kafka's hash of a key."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

import msgspec

Headers = tuple[tuple[str, bytes], ...]


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


class ConsumedRecord(msgspec.Struct, frozen=True, gc=False):
    """A record as Kafka returned it, with its bytes unchanged. `timestamp_ms` is when the broker appended it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def record_id(self) -> str:
        """`topic/partition/offset`: identifies the record as an origin and in messages to people."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def header(self, name: str) -> str | None:
        """Return the last header of that name as text, or None. Bytes that are not UTF-8 are replaced."""
        for key, value in reversed(self.headers):
            if key == name:
                return (value or b"").decode("utf-8", "replace")
        return None


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record to write. It goes to the writer's partition unless `partition` names another one."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


@lru_cache(4096)
def murmur2(key: bytes) -> int:
    """Return Kafka's hash of a key, unsigned 32 bits (org.apache.kafka.common.utils.Utils.murmur2)."""
    mix, mask = 0x5BD1E995, 0xFFFFFFFF
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
