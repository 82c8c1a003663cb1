"""What goes in and out of a partition: a record that was taken, and a record that is to be written."""

from __future__ import annotations

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class ConsumedRecord(msgspec.Struct, frozen=True, gc=False):
    """A record as Kafka gave it, bytes untouched. `timestamp_ms`: when the broker appended it (our topics' setting)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def place(self) -> str:
        """`topic/partition/offset`: the record's own name, used as origin and in messages to people."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def header(self, name: str) -> str | None:
        """The last header of that name as text, or None; undecodable bytes are replaced, never raised."""
        for key, value in reversed(self.headers):
            if key == name:
                return (value or b"").decode("utf-8", "replace")
        return None


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record to write. Its partition is its writer's, unless `partition` names another (strays go home)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
