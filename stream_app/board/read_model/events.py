"""The events of each record, packed in one row for a record and batch, because a rebuilt model writes millions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Final

import msgspec

from stream_app.client.answers import Event as ShownEvent
from stream_app.domain.books.records import Event

COLUMNS: Final = ShownEvent.__struct_fields__
"""What is kept of an event, in this order."""
_OF_ANOTHER_PARTITION: Final = 0
"""The place of the event `rerouted`, which has sequence number 1 and may come after the later ones."""

_columns: Final = attrgetter(*COLUMNS)
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[tuple[object, ...]]).decode


def write_events(db: sqlite3.Connection, events: Iterable[tuple[int, Event]]) -> None:
    """Add events that were not known, each with the number of its record. Those of a record come together."""
    rows: list[tuple[int, int, bytes]] = []
    for number, of_record in groupby(events, key=itemgetter(0)):
        steps = [event for _, event in of_record]
        if elsewhere := [event for event in steps if event.seq == 1 and event.status == "rerouted"]:
            rows.append((number, _OF_ANOTHER_PARTITION, _packed(elsewhere)))
            steps = [event for event in steps if event not in elsewhere]
        if steps:
            rows.append((number, steps[0].seq, _packed(steps)))
    db.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?)", rows)


def _packed(steps: list[Event]) -> bytes:
    return _encode([_columns(event) for event in steps])


def events_of(db: sqlite3.Connection, number: int) -> list[ShownEvent]:
    """Return the events of a record, in their order."""
    rows = db.execute("SELECT steps FROM events WHERE record = ? ORDER BY place", (number,))
    return [ShownEvent(*step) for (steps,) in rows for step in _decode(steps)]  # type: ignore[arg-type]
