"""Turns the records of each topic into rows of the read model."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import attrgetter
from typing import Final

import msgspec

from stream_app.board.read_model.history import History, Imports
from stream_app.client.answers import Event as ShownEvent
from stream_app.domain.books.records import Event, Number, RecordHistory, RecordNumbers, advance, decode_event
from stream_app.domain.dead_letter.causes import headers_of, kind_of, text
from stream_app.domain.dead_letter.headers import pseudonymous_key
from stream_app.domain.dead_letter.orders import PROGRESS, read_progress
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.lane_messages import LaneView
from stream_app.domain.lead.identity import rows_of
from stream_app.domain.record import KafkaRecord
from stream_app.domain.topics import TopicNames

DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
SAME_CAUSE: Final = "topic = ? AND kind = ? AND workspace = ? AND reason = ? AND http_status = ? AND destination = ?"

_WORDS: Final = tuple(HEADERS[field] for field in ("reason", "http_status", "destination"))
_ORIGIN: Final = HEADERS["origin"]
_MOST_CAUSES: Final = 10_000
_FIELDS: Final = RecordHistory.__struct_fields__
_HISTORY: Final = ", ".join(_FIELDS)
EVENT_COLUMNS: Final = ShownEvent.__struct_fields__
"""The columns of an event, beside the number of its record."""
_event_row: Final = attrgetter(*EVENT_COLUMNS)
_PEOPLE: Final = b"p/"


class _Result(msgspec.Struct, gc=False):
    """A Result without personal data."""

    source: str
    version: Number
    at_ms: Number


_result: Final = msgspec.json.Decoder(_Result)
_lane: Final = msgspec.json.Decoder(LaneView)


class Projector:
    """Writes to `db` in the caller's open transaction."""

    def __init__(self, db: sqlite3.Connection, names: TopicNames, workspaces: frozenset[str]) -> None:
        self._db = db
        self._workspaces = workspaces
        self.history = History(db)
        self.imports = Imports(db)
        self._writers: dict[str, Callable[[Iterable[KafkaRecord]], None]] = {
            names.status: self._write_events,
            names.enriched: self._write_results,
            names.lanes: self._write_lanes,
            names.state: self._write_state,
            names.dlq: self._write_dead_letters,
            names.parked: self._write_dead_letters,
            names.audit: self._write_audit,
            names.replay_state: self._write_replays,
        }

    def load(self) -> None:
        """Load the cached names from the tables, after other code has changed them."""
        self.imports.load()
        self._numbers = record_numbers(self._db)
        self._logs_written = len(self._numbers.logs)
        causes = "SELECT DISTINCT kind, workspace, reason, http_status, destination FROM dead_letters"
        self._causes: set[tuple[object, ...]] = set(self._db.execute(causes))

    def write(self, topic: str, records: Iterable[KafkaRecord]) -> None:
        """Write records of one topic, in the order of each partition."""
        self._writers[topic](records)

    def _write_events(self, records: Iterable[KafkaRecord]) -> None:
        found: list[tuple[int, Event]] = []
        for record in records:
            try:
                event = decode_event(record.value or b"")
                found.append((self._numbers.number(event.origin), event))
            except ValueError:  # msgspec's errors are ValueErrors, too
                self._unreadable(record)
        known = self._db.execute(
            f"SELECT id, import, {_HISTORY} FROM records WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode([number for number, _ in found]).decode(),),
        )
        imports: dict[int, int] = {}
        histories: dict[int, RecordHistory] = {}
        for number, imports[number], *row in known:
            histories[number] = RecordHistory(*row)
        # Retention may have deleted any event, so a history may begin anywhere.
        new = [
            (number, event)
            for number, event in found
            if advance(histories.setdefault(number, RecordHistory()), event, kept=False)[0]
        ]
        self._write_logs()
        imports |= self.imports.numbers_of(new, imports.values())
        self._db.executemany(
            f"INSERT OR IGNORE INTO events VALUES (?, {', '.join('?' * len(EVENT_COLUMNS))})",
            [(number, *_event_row(event)) for number, event in new],
        )
        self._db.executemany(
            f"""INSERT INTO records (id, import, {_HISTORY}) VALUES (?, ?, {", ".join("?" * len(_FIELDS))})
                ON CONFLICT (id) DO UPDATE SET
                    {", ".join(f"{name} = excluded.{name}" for name in ("import", *_FIELDS))}""",
            [
                (number, imports.get(number, 0), *msgspec.structs.astuple(history))
                for number, history in histories.items()
            ],
        )
        self.imports.count(new, imports)
        self.history.count(new)

    def _write_logs(self) -> None:
        """Write the logs whose records were numbered for the first time."""
        logs = self._numbers.logs
        self._db.executemany("INSERT INTO logs VALUES (?, ?)", list(enumerate(logs, 1))[self._logs_written :])
        self._logs_written = len(logs)

    def _write_results(self, records: Iterable[KafkaRecord]) -> None:
        def columns(record: KafkaRecord) -> tuple[object, ...]:
            result = _result.decode(record.value or b"")
            return (record.partition, record.offset, result.source, result.version, result.at_ms)

        self._keep_last("results", ("workspace", "destination", "lead_id"), records, columns)

    def _write_lanes(self, records: Iterable[KafkaRecord]) -> None:
        found = list(records)
        self._keep_last("lanes", ("workspace",), found, lambda record: (record.value,))
        views = []
        for record in found:
            with suppress(msgspec.DecodeError):  # a version that cannot read a lane reports it when it is shown
                views.append(_lane.decode(record.value or b""))
        self.history.lanes(views)

    def _write_audit(self, records: Iterable[KafkaRecord]) -> None:
        for unreadable in self.history.audit(records):
            self._unreadable(unreadable)

    def _write_replays(self, records: Iterable[KafkaRecord]) -> None:
        """Write the replays that operators ordered (domain/dead_letter/orders.py). Other rows are ignored."""

        def columns(record: KafkaRecord) -> tuple[object, ...]:
            progress = read_progress(record.key, record.value)
            if progress is None:
                raise ValueError("no progress of a replay")
            return (progress.at_ms, record.value)

        found = (each for each in records if (each.key or b"").startswith(PROGRESS))
        self._keep_last("replays", ("id",), found, columns, begin=len(PROGRESS))

    def _write_state(self, records: Iterable[KafkaRecord]) -> None:
        """Write the rows that map an identifier to the person's leads (domain/lead/identity.py).

        Other rows of the state are ignored.
        """

        def leads(record: KafkaRecord) -> tuple[object, ...]:
            ids = [_split(row, 4)[3].partition("!")[0] for row in rows_of(record.value or b"")]
            if not ids:
                raise ValueError("the row names no lead")
            return (" ".join(dict.fromkeys(ids)),)

        names = ("workspace", "destination", "person")
        found = (each for each in records if (each.key or b"").startswith(_PEOPLE))
        self._keep_last("people", names, found, leads, begin=len(_PEOPLE))

    def _keep_last(
        self,
        table: str,
        names: tuple[str, ...],
        records: Iterable[KafkaRecord],
        rest: Callable[[KafkaRecord], tuple[object, ...]],
        begin: int = 0,
    ) -> None:
        """Write a table like a compacted topic: the last value of a key, whose parts are the columns `names`.

        Args:
            table: The table.
            names: The columns of the key's parts.
            records: The records.
            rest: Returns the other columns. Raises ValueError for an unreadable record.
            begin: Index of the key's first part in the record's key.
        """
        last: dict[tuple[str, ...], tuple[object, ...] | None] = {}
        for record in records:
            try:
                name = _split((record.key or b"")[begin:], len(names))
                last[name] = None if record.value is None else rest(record)
            except ValueError:  # msgspec's errors are ValueErrors, too
                self._unreadable(record)
        where = " AND ".join(f"{name} = ?" for name in names)
        gone = [name for name, row in last.items() if row is None]
        self._db.executemany(f"DELETE FROM {table} WHERE {where}", gone)
        rows = [(*name, *row) for name, row in last.items() if row is not None]
        if rows:
            self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)

    def _write_dead_letters(self, records: Iterable[KafkaRecord]) -> None:
        counts: Counter[tuple[object, ...]] = Counter()
        hours: Counter[tuple[object, ...]] = Counter()
        times: dict[tuple[object, ...], tuple[int, int]] = {}
        found: list[tuple[tuple[object, ...], int, int, int]] = []
        for record in records:
            headers = headers_of(record.headers)
            words = [text(headers, name)[:100] for name in _WORDS]
            workspace = (pseudonymous_key(record.key, self._workspaces) or b"").decode()
            cause = (record.topic, record.timestamp // DAY_MS, kind_of(headers), workspace, *words)
            if cause[2:] not in self._causes:
                if len(self._causes) >= _MOST_CAUSES:  # foreign programs may write any number of keys and reasons
                    cause = (*cause[:2], "foreign", "", "(others)", "", "")
                self._causes.add(cause[2:])
            counts[cause] += 1
            hours[record.topic, record.timestamp // _HOUR_MS, *cause[2:]] += 1
            first_ms, last_ms = times.get(cause, (record.timestamp, record.timestamp))
            times[cause] = min(first_ms, record.timestamp), max(last_ms, record.timestamp)
            origin = 0
            with suppress(ValueError):  # of other programs, which name none
                origin = self._numbers.number(text(headers, _ORIGIN))
            own = self._numbers.number(_record_id(record))
            found.append(((record.topic, *cause[2:]), record.timestamp, own, origin))
        self._write_logs()
        self._db.executemany(
            """INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                   count = count + excluded.count, first_ms = min(first_ms, excluded.first_ms),
                   last_ms = max(last_ms, excluded.last_ms)""",
            [(*cause, count, *times[cause]) for cause, count in counts.items()],
        )
        self._db.executemany(
            """INSERT INTO dead_letter_hours VALUES (?, ?, ?, ?, ?, ?, ?, ?)
               ON CONFLICT DO UPDATE SET count = count + excluded.count""",
            [(*cause, count) for cause, count in hours.items()],
        )
        numbers = {
            cause: self._db.execute(f"SELECT id FROM causes WHERE {SAME_CAUSE}", cause).fetchone()[0]
            for cause in {cause for cause, *_ in found}
        }
        self._db.executemany(
            "INSERT OR IGNORE INTO dead_letter_records VALUES (?, ?, ?, ?)",
            [(numbers[cause], *rest) for cause, *rest in found],
        )

    def _unreadable(self, record: KafkaRecord) -> None:
        self._db.execute(
            """INSERT INTO unreadable VALUES (?, 1, ?, ?) ON CONFLICT DO UPDATE SET
                   records = records + 1, last = excluded.last, last_ms = excluded.last_ms""",
            (record.topic, _record_id(record), record.timestamp),
        )


def _record_id(record: KafkaRecord) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def record_numbers(db: sqlite3.Connection) -> RecordNumbers:
    """Return the numbers of all records in the model."""
    return RecordNumbers([name for (name,) in db.execute("SELECT name FROM logs ORDER BY id")])


def _split(key: bytes, parts: int) -> tuple[str, ...]:
    """Split a key; the last part may contain slashes. Raises ValueError if there are too few parts."""
    found = key.decode().split("/", parts - 1)
    if len(found) < parts:
        raise ValueError("too few parts")
    return tuple(found)
