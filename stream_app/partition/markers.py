"""Marks: rows of records that are concluded and have no delivery row. They go when no redelivery can ask any more.

A mark is dropped once the group's committed offset has passed its record. A worker that was cut off meanwhile may
still hold that record when it takes the partition over again: so how far the group has come is a row too, written in
the same transaction as the deletions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from stream_app.domain.delivery.recorder import Rows
from stream_app.domain.delivery.state_machine import mark_key, marked_place, passed_key, passed_offset
from stream_app.domain.record import ConsumedRecord
from stream_app.partition.state import unreadable


class ProcessedMarkers:
    """The marks of one partition, by topic, in the order in which they were set."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._offsets: dict[str, deque[int]] = {}
        self._passed: dict[str, int] = {}

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Begin again with what a take-over has read."""
        self._offsets.clear()
        self._passed.clear()
        key = b""
        try:
            for key in rows:
                self.note(key)
            for key in [key for key in rows if key.startswith(b"c/")]:
                topic, offset = passed_offset(key, rows.pop(key))
                self._passed[topic] = offset
        except ValueError:
            raise unreadable(key, "it does not tell a record's place") from None

    def note(self, key: bytes) -> None:
        """A row is set; remember it if it is a mark. A stray's stays: how far its partition is, nobody here knows."""
        place = marked_place(key)
        if place is not None and place[1] == self._partition:
            self._offsets.setdefault(place[0], deque()).append(place[2])

    def drop_passed(self, committed: Callable[[str], int | None]) -> Rows:
        """The rows to write now: deletions, and how far the group has come. `committed` gives a topic's offset."""
        rows: Rows = []
        for topic, offsets in list(self._offsets.items()):
            end = committed(topic) or 0
            if offsets[0] >= end:
                continue
            while offsets and offsets[0] < end:
                rows.append((mark_key(f"{topic}/{self._partition}/{offsets.popleft()}"), None))
            if not offsets:
                del self._offsets[topic]
            self._passed[topic] = end
            rows.append((passed_key(topic), str(end).encode()))
        return rows

    def passed(self, topic: str) -> int:
        """How far the group had come when marks were last dropped: all before it is concluded."""
        return self._passed.get(topic, 0)

    def is_passed(self, consumed: ConsumedRecord) -> bool:
        """Whether another owner has concluded this record and dropped the mark that said so."""
        return consumed.offset < self.passed(consumed.topic)
