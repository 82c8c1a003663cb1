"""Knows which dead letters must not be sent back: they were sent before, or their person is on the suppression list.

The pipeline accepts a dead letter that continues its history once, as long as there is a row. One that starts a new
history has none. So a row in the replay state is committed with it, and no operator or run sends it twice.

    leads.retry                              the place of the dead letter in a header, kept for a week
    sent/<place>         ->  its append time, kept as long as the dead letter
    dlq/<partition>/...  ->  replay.Came: earlier dead letters of other programs were replayed automatically
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from stream_app.domain.dead_letter.causes import Headers, Kind, addressed_to, lead_id_of, number
from stream_app.domain.dead_letter.replay import Came
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.suppression import erased_row, people_in, read_suppression, suppressed_person
from stream_app.domain.model.records import ConsumedRecord, parse_record_id

_SENT: Final = b"sent/"

_came: Final = msgspec.json.Decoder(Came)


class SuppressionList:
    """The suppression list and all erased leads of all partitions, for programs that only read the state topic."""

    def __init__(self) -> None:
        self._partitions: dict[str, int] = {}  # a bit each
        self._erased: dict[bytes, int] = {}  # row key -> until when it was published, epoch ms

    def __bool__(self) -> bool:
        return bool(self._partitions or self._erased)

    def apply(self, row_key: bytes, value: bytes | None, partition: int) -> None:
        """Apply a record of the state topic, of any kind of row. One without a value deletes the row."""
        if row_key.startswith(b"e/"):
            if value is None:
                self._erased.pop(row_key, None)
            else:
                self._erased[row_key] = read_suppression(value).at_ms
            return
        person = suppressed_person(row_key)
        if person is None:
            return
        bits, bit = self._partitions.pop(person, 0), 1 << partition
        if bits := bits & ~bit if value is None else bits | bit:
            self._partitions[person] = bits

    def names(self, headers: Headers, key: bytes | None, value: bytes | None, at_ms: int) -> bool:
        """Return True if a dead letter belongs to a suppressed person or an erased lead, even if its value is broken.

        `at_ms` (its append, epoch ms) is used if it does not say when its lead was published.
        """
        if self._partitions and any(person in self._partitions for person in people_in(value)):
            return True
        if not self._erased:
            return False
        workspace, _ = addressed_to(headers, key, value)
        until_ms = self._erased.get(erased_row(workspace, lead_id_of(headers, value)))
        return until_ms is not None and (number(headers, HEADERS["origin_ms"]) or at_ms) <= until_ms


def sent_row(dead_letter: ConsumedRecord) -> tuple[bytes, bytes]:
    """Return key and value of the row that records that this dead letter was sent back as a new input."""
    return _SENT + dead_letter.record_id.encode(), b"%d" % dead_letter.timestamp_ms


def outlived(rows: Mapping[bytes, bytes], oldest_ms: int) -> Iterable[bytes]:
    """Return the keys of such rows whose dead letters are older than `oldest_ms`."""
    return [key for key, value in rows.items() if key.startswith(_SENT) and int(value) < oldest_ms]


class RedriveDedup:
    """Reads the replay state and `leads.retry`, then answers. `dlq`: the name of that topic."""

    def __init__(self, dlq: str) -> None:
        self._dlq = dlq
        self._sent: set[str] = set()
        self._passed: defaultdict[int, int] = defaultdict(int)

    def apply_state(self, key: bytes, value: bytes | None) -> None:
        """Apply a row of the replay state; None deletes it."""
        if key.startswith(_SENT):
            record_id = key.removeprefix(_SENT).decode()
            if value is None:
                self._sent.discard(record_id)
            else:
                self._sent.add(record_id)
        elif key.startswith(b"dlq/") and value is not None:
            partition, came = int(key.split(b"/")[1]), _came.decode(value)
            self._passed[partition] = max(self._passed[partition], came.offset, came.skip_to)

    def apply_retry(self, headers: Headers) -> None:
        """Apply a record of `leads.retry`."""
        if (record_id := headers.get(HEADERS["redriven_from"])) is not None:
            self._sent.add(record_id.decode("utf-8", "replace"))

    def has(self, record_id: str, kind: Kind) -> bool:
        """Return True if the dead letter at this place was sent back."""
        if record_id in self._sent:
            return True
        topic, partition, offset = parse_record_id(record_id) or ("", 0, 0)
        return kind == "foreign" and topic == self._dlq and offset < self._passed[partition]
