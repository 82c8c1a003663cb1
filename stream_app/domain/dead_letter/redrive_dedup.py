"""Knows which dead letters were sent back, so that none is sent twice, by whichever operator or run.

The pipeline accepts a dead letter that continues its history once, as long as there is a row. One that starts a new
history has none. So a row in the replay state is committed with it.

    leads.retry                              the place of the dead letter in a header, kept for a week
    sent/<place>         ->  its append time, kept as long as the dead letter
    dlq/<partition>/...  ->  replay.Came: earlier dead letters of other programs were replayed automatically
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from stream_app.domain.dead_letter.causes import Headers, Kind
from stream_app.domain.dead_letter.headers import parse_record_id
from stream_app.domain.dead_letter.replay import Came
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.model.records import ConsumedRecord

_SENT: Final = b"sent/"
_came: Final = msgspec.json.Decoder(Came)


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
