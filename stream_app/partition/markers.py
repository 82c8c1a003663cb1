"""Markers: rows that say that a record without a delivery row is concluded.

A marker is deleted once the group's committed offset has passed its record. A worker that was cut off meanwhile may
still hold that record when it takes the partition over again. So the passed offset is a row too, written in the same
transaction as the deletions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from stream_app.domain.delivery.recorder import Rows
from stream_app.domain.delivery.state_machine import mark_key, marked_record, passed_key, passed_offset
from stream_app.domain.record import ConsumedRecord
from stream_app.partition.state import unreadable


class ProcessedMarkers:
    """The markers of one partition, by topic, in the order in which they were set."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._offsets: dict[str, deque[int]] = {}
        self._passed: dict[str, int] = {}

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Replace the markers by those in `rows`, and remove the passed offsets from `rows`.

        Raises:
            RowUnreadable: A row does not decode.
        """
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
            raise unreadable(key, "it does not name the place of a record") from None

    def note(self, key: bytes) -> None:
        """Remember a new row if it is a marker of this partition. The offsets of other partitions are unknown here."""
        record_id = marked_record(key)
        if record_id is not None and record_id[1] == self._partition:
            self._offsets.setdefault(record_id[0], deque()).append(record_id[2])

    def drop_passed(self, committed: Callable[[str], int | None]) -> Rows:
        """The rows to write now: deletions of markers, and the passed offsets.

        `committed` returns the group's committed offset of a topic.
        """
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
        """The group's offset when markers were last deleted: every record before it is concluded."""
        return self._passed.get(topic, 0)

    def is_passed(self, consumed: ConsumedRecord) -> bool:
        """True if this record is concluded and its marker may be deleted."""
        return consumed.offset < self.passed(consumed.topic)
