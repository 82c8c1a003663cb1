"""Which dead letters went back already, so that none goes twice, whoever sends them and however often he asks.

One that goes on with its lead's story is taken once by the line, for as long as there is a row. One that goes as an
input of its own could be mended into another lead the second time: a row in the replay's state is committed with it.

    leads.retry                              the letter's place in a header, as long as it is kept: a week
    sent/<place>         ->  its append time, as long as the letter is kept
    dlq/<partition>/...  ->  core.replay.Came: what other programs wrote before that, the replay app has brought back
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from stream_app.domain.dead_letter.causes import Headers, Kind
from stream_app.domain.dead_letter.headers import read_place
from stream_app.domain.dead_letter.replay import Came
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.record import ConsumedRecord

_SENT: Final = b"sent/"
_came: Final = msgspec.json.Decoder(Came)


def sent_row(letter: ConsumedRecord) -> tuple[bytes, bytes]:
    """Key and value of the row that says that this letter went as an input of its own."""
    return _SENT + letter.place.encode(), b"%d" % letter.timestamp_ms


def outlived(rows: Mapping[bytes, bytes], oldest_ms: int) -> Iterable[bytes]:
    """The keys of such rows whose letters came before that time."""
    return [key for key, value in rows.items() if key.startswith(_SENT) and int(value) < oldest_ms]


class RedriveDedup:
    """Hears the replay's state and `leads.retry`, and then knows. `dlq`: the name of that topic."""

    def __init__(self, dlq: str) -> None:
        self._dlq = dlq
        self._places: set[str] = set()
        self._passed: defaultdict[int, int] = defaultdict(int)

    def hear_state(self, key: bytes, value: bytes | None) -> None:
        """A row of the replay's state; None: it is gone."""
        if key.startswith(_SENT):
            place = key.removeprefix(_SENT).decode()
            if value is None:
                self._places.discard(place)
            else:
                self._places.add(place)
        elif key.startswith(b"dlq/") and value is not None:
            partition, came = int(key.split(b"/")[1]), _came.decode(value)
            self._passed[partition] = max(self._passed[partition], came.offset, came.skip_to)

    def hear_retry(self, headers: Headers) -> None:
        """A record of `leads.retry`."""
        if (place := headers.get(HEADERS["redriven_from"])) is not None:
            self._places.add(place.decode("utf-8", "replace"))

    def has(self, place: str, kind: Kind) -> bool:
        """Whether the letter at this place went."""
        if place in self._places:
            return True
        topic, partition, offset = read_place(place) or ("", 0, 0)
        return kind == "foreign" and topic == self._dlq and offset < self._passed[partition]
