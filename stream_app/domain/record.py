"""A record that was read from Kafka, and a record to write."""

from __future__ import annotations

import msgspec

Headers = tuple[tuple[str, bytes], ...]


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
