"""The rows of one partition in memory, as bytes, from their load to their expiry.

A final row is deleted after the freshness window, with the aliases that point to it. An open row
does not expire. Expiry does not scan the rows: their keys are in a queue, in the order in which
they were added, and each transaction looks at a few heads of the queue for each of its steps.

A marker is a row that says that a record without a delivery row is concluded. It is deleted once
the group's committed offset has passed its record. A worker that was cut off meanwhile may still
hold that record when it takes the partition over again. So the passed offset is a row, too, which
is written in the transaction of the deletions.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from stream_app.domain.delivery.resolve import ResolvedLead
from stream_app.domain.delivery.state_machine import (
    Delivery,
    Reason,
    lead_of,
    mark_key,
    marked_record,
    passed_key,
    passed_offset,
    read_delivery,
    read_row,
    read_versioned,
    unreadable,
)
from stream_app.domain.delivery.suppression import (
    Suppression,
    erased_row,
    is_erased,
    suppression_reason,
)
from stream_app.domain.lane.lane import LANE_VERSION, Lane
from stream_app.domain.lead.identity import rows_of
from stream_app.domain.model.records import ConsumedRecord, RowChanges
from stream_app.partition.open_runs import OpenRuns

_NEXT_LOOK_MS: Final = 50
_LOOKED_AT: Final = 4
"""Heads for each step. A step adds fewer, so that the queue gets shorter."""
_ALIASES: Final = (b"f/", b"p/")
_AGING: Final = (b"d/", b"k/", *_ALIASES)
_LONG_AGO_MS: Final = -(10**15)
_SUPPRESSING: Final = (b"e/", b"s/", b"x/")
_lane_decoder: Final = msgspec.json.Decoder(Lane)


class _Dated(msgspec.Struct):
    """The one field that is read of a row that expires by its own time."""

    at_ms: int


_dated: Final = msgspec.json.Decoder(_Dated)
_suppression_decoder: Final = msgspec.json.Decoder(Suppression)
_lane_version: Final = msgspec.json.Decoder(msgspec.defstruct("_LaneVersion", [("version", int)]))


class Rows:
    """The rows of one partition, by key.

    Args:
        freshness_ms: How long a final delivery row is kept.
        runs: Is told each change of a lead's row; None: nothing follows them.

    Attributes:
        suppressing: The number of suppression rows.
        parked: The number of parked leads, by workspace.
    """

    def __init__(self, number: int, freshness_ms: int, runs: OpenRuns | None = None) -> None:
        self._number = number
        self._runs = runs
        # The offsets of markers by topic, in the order in which the markers were set.
        self._marked: dict[str, deque[int]] = {}
        self._passed: dict[str, int] = {}
        self.suppressing = 0
        self.parked: Counter[str] = Counter()
        self._erased: set[bytes] = set()
        self.freshness_ms = freshness_ms
        self._values: dict[bytes, bytes] = {}
        self._aging: deque[bytes] = deque()
        self._look_again_ms = 0

    def load(self, values: dict[bytes, bytes]) -> None:
        """Replace the rows by these, oldest first.

        Raises:
            RowUnreadable: A row does not decode.
        """
        self._marked.clear()
        self._passed.clear()
        key = b""
        try:
            for key in values:
                self._note_marker(key)
            for key in [key for key in values if key.startswith(b"c/")]:
                topic, offset = passed_offset(key, values.pop(key))
                self._passed[topic] = offset
        except ValueError:
            raise unreadable(key, "it does not name the place of a record") from None
        self._values = values
        self._aging = deque(key for key in values if key[:2] in _AGING)
        self._look_again_ms = 0
        self.suppressing = sum(key[:2] in _SUPPRESSING for key in values)
        self._erased = {key for key in values if key[:2] == b"e/"}
        self.parked = Counter(
            lead_of(key)[0]
            for key, value in values.items()
            if key[:2] == b"d/" and _is_parked(value)
        )

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def __getitem__(self, key: bytes) -> bytes:
        return self._values[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._values)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def why_not_sent(self, resolved: ResolvedLead) -> Reason | None:
        """Why an operator does not let this lead be sent; None if no operator has stopped it."""
        return suppression_reason(resolved, self.suppression) if self.suppressing else None

    def leads(self) -> list[bytes]:
        """The keys of all rows of leads."""
        return [key for key in self._values if key[:2] == b"d/"]

    def delivery(self, key: bytes) -> Delivery | None:
        """A lead's row. Raises RowUnreadable."""
        raw = self._values.get(key)
        return None if raw is None else read_delivery(key, raw)

    def suppression(self, key: bytes) -> Suppression | None:
        """A suppression row. Raises RowUnreadable."""
        raw = self._values.get(key)
        return None if raw is None else read_row(_suppression_decoder, key, raw)

    def is_erased(self, workspace: str, lead_id: str, first_at_ms: int) -> bool:
        """True if a history of the lead that began at this time was erased.

        The data of such a history must not be written again.
        """
        return is_erased(self.suppression(erased_row(workspace, lead_id)), first_at_ms)

    def erasures(self) -> Iterator[tuple[str, int]]:
        """Workspace and time (epoch ms) of each erased lead."""
        for key in self._erased:
            yield key.split(b"/", 2)[1].decode(), read_row(_dated, key, self._values[key]).at_ms

    def apply(self, changes: RowChanges) -> None:
        """Change, add or delete (None) these rows in memory."""
        values = self._values
        for key, value in changes:
            kind = key[:2]
            before = values.get(key)
            if kind == b"d/":
                if change := _is_parked(value) - _is_parked(before):
                    self.parked[lead_of(key)[0]] += change
                if self._runs is not None:
                    self._runs.note(key, value)
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
                if before is None:
                    if kind in _AGING:
                        self._aging.append(key)
                    self._note_marker(key)
            if kind == b"e/":
                self._erased -= {key}
                if value is not None:
                    self._erased.add(key)
            if kind in _SUPPRESSING:
                self.suppressing += (value is not None) - (before is not None)

    def expire(self, now_ms: int, steps: int) -> RowChanges:
        """Delete a few rows that have expired for each of these steps, from the head of the queue.

        Returns:
            The deletions, which are to be written, too.
        """
        gone: RowChanges = []
        if now_ms < self._look_again_ms:
            return gone
        for _ in range(min(_LOOKED_AT * steps, len(self._aging))):
            key = self._aging[0]
            if key not in self._values:
                self._aging.popleft()
                continue
            since_ms = self._final_since_ms(key)
            if since_ms is None:
                self._aging.rotate(-1)
            elif now_ms - since_ms <= self.freshness_ms:
                self._look_again_ms = since_ms + self.freshness_ms
                break
            else:
                self._aging.popleft()
                gone.append((key, None))
        if gone:
            self.apply(gone)
        else:  # No head has expired, so they are not decoded again for each transaction.
            self._look_again_ms = max(self._look_again_ms, now_ms + _NEXT_LOOK_MS)
        return gone

    def _final_since_ms(self, key: bytes) -> int | None:
        """Since when (epoch ms) the row of an expiring key is final; None while it is open."""
        if key[:2] == b"k/":
            return read_row(_dated, key, self._values[key]).at_ms
        since_ms = _LONG_AGO_MS
        for row_key in rows_of(self._values[key]) if key[:2] in _ALIASES else (key,):
            if (row := self.delivery(row_key)) is not None:
                if not row.final:
                    return None
                since_ms = max(since_ms, row.at_ms)
        return since_ms

    # -------------------------------------------------------------------------------------- markers

    def marker(self, *record_ids: str) -> bytes | None:
        """The key of the marker that says that one of these records is concluded.

        Args:
            *record_ids: Records without a delivery row, as `topic/partition/offset`.
        """
        return next((key for key in map(mark_key, record_ids) if key in self._values), None)

    def passed(self, topic: str) -> int:
        """The group's offset when markers were last deleted.

        Every record before it is concluded.
        """
        return self._passed.get(topic, 0)

    def is_passed(self, consumed: ConsumedRecord) -> bool:
        """True if this record is concluded and its marker may be deleted."""
        return consumed.offset < self.passed(consumed.topic)

    def drop_passed(self, committed: Callable[[str], int | None]) -> RowChanges:
        """Return the rows to write now: deletions of markers, and the passed offsets.

        `committed` returns the group's committed offset of a topic.
        """
        rows: RowChanges = []
        for topic, offsets in list(self._marked.items()):
            end = committed(topic) or 0
            if offsets[0] >= end:
                continue
            while offsets and offsets[0] < end:
                rows.append((mark_key(f"{topic}/{self._number}/{offsets.popleft()}"), None))
            if not offsets:
                del self._marked[topic]
            self._passed[topic] = end
            rows.append((passed_key(topic), str(end).encode()))
        return rows

    def _note_marker(self, key: bytes) -> None:
        """Remember a new row if it is a marker of a record of this partition.

        The committed offsets of other partitions are not known here.
        """
        record_id = marked_record(key)
        if record_id is not None and record_id[1] == self._number:
            self._marked.setdefault(record_id[0], deque()).append(record_id[2])


def _is_parked(row: bytes | None) -> bool:
    """True if a lead's row is parked: its state is its first string, so it is not decoded."""
    return row is not None and row.startswith(b'parked"', row.find(b'"') + 1)


def read_lane(key: bytes, raw: bytes) -> Lane:
    """A lane's row from its bytes. Raises RowUnreadable."""
    return read_versioned(_lane_decoder, _lane_version, LANE_VERSION, key, raw)
