"""Turns the records of each topic into rows of the read model."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from operator import attrgetter
from typing import Final

import msgspec

from stream_app.board.read_model.account import AccountWriter, Letter
from stream_app.board.read_model.history import History, Imports, write_events
from stream_app.domain.books.records import BookEvent, RecordNumbers, decode_event
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.dead_letter.causes import (
    HeaderValues,
    headers_of,
    kind_of,
    number,
    shown_key,
    text,
)
from stream_app.domain.dead_letter.orders import PAUSE, PROGRESS, read_progress
from stream_app.domain.delivery.envelope import HEADERS, WorkspaceKeys
from stream_app.domain.lead.identity import rows_of
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.records import KafkaRecord
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.views.lane import LaneView

_HOUR_MS: Final = 3_600_000
SAME_CAUSE: Final = (
    "topic = ? AND kind = ? AND workspace = ? "
    "AND reason = ? AND http_status = ? AND destination = ?"
)

_WORDS: Final = tuple(HEADERS[field] for field in ("reason", "http_status", "destination"))
_ORIGIN = HEADERS["origin"]
_SEQ = HEADERS["seq"]
_MAX_CAUSES: Final = 10_000
_PEOPLE: Final = b"p/"


class _Result(msgspec.Struct, gc=False):
    """A Result without personal data."""

    source: str
    version: Whole
    at_ms: TimeMs


_result: Final = msgspec.json.Decoder(_Result)
_lane: Final = msgspec.json.Decoder(LaneView)
_answer: Final = msgspec.json.Decoder(CommandAnswer)
_audited: Final = attrgetter(
    "id",
    "kind",
    "workspace",
    "who",
    "why",
    "applied",
    "reason",
    "text",
    "asked_at_ms",
    "under_way",
)


Columns = Callable[[KafkaRecord], tuple[object, ...]]
"""Returns columns of a record's row. Raises ValueError if the record is unreadable."""


class Projector:
    """Writes to `db` in the caller's open transaction.

    Attributes:
        writers: What writes the records of each topic, in the order of each partition.
        catches_up: Kafka has not been read to its end yet. The rows of people wait in
            `people_unsorted` until then.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        names: TopicNames,
        workspaces: frozenset[str],
        final: Set[str],
    ) -> None:
        self._db = db
        self._workspaces = workspaces
        self._keys = WorkspaceKeys(workspaces)
        self._dlq = names.dlq
        self.history = History(db)
        self.imports = Imports(db)
        self.account = AccountWriter(db, self.imports, final)
        self.writers: dict[str, Callable[[Iterable[KafkaRecord]], None]] = {
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
        self.catches_up = not self._db.execute(
            "SELECT 1 FROM facts WHERE name = 'as_of_ms'",
        ).fetchone()
        self._numbers = record_numbers(self._db)
        self._logs_written = len(self._numbers.logs)
        self.account.load()
        causes = "SELECT topic, kind, workspace, reason, http_status, destination FROM causes"
        self._causes: set[tuple[str, ...]] = set(self._db.execute(causes))

    def _write_events(self, records: Iterable[KafkaRecord]) -> None:
        by_origin: defaultdict[str, list[tuple[BookEvent, KafkaRecord]]] = defaultdict(list)
        for record in records:
            try:
                event = decode_event(record.value or b"")
            except UNREADABLE:
                self._unreadable(record)
            else:
                by_origin[event.origin].append((event, record))
        by_record: dict[int, list[tuple[BookEvent, KafkaRecord]]] = {}
        for origin, events in by_origin.items():
            try:
                by_record.setdefault(self._numbers.number(origin), []).extend(events)
            except ValueError:
                for _, record in events:
                    self._unreadable(record)
        new = self.account.write_events(by_record, self._numbers)
        self._write_logs()
        write_events(self._db, new)
        self.history.count(new)

    def _write_logs(self) -> None:
        """Write the logs whose records were numbered for the first time."""
        logs = self._numbers.logs
        self._db.executemany(
            "INSERT INTO logs VALUES (?, ?)",
            list(enumerate(logs, 1))[self._logs_written :],
        )
        self._logs_written = len(logs)

    def _write_results(self, records: Iterable[KafkaRecord]) -> None:
        def columns(record: KafkaRecord) -> tuple[object, ...]:
            result = _result.decode(record.value or b"")
            return (record.partition, record.offset, result.source, result.version, result.at_ms)

        self._keep_last("results", ("workspace", "destination", "lead_id"), records, columns)

    def _write_lanes(self, records: Iterable[KafkaRecord]) -> None:
        lanes = list(records)
        self._keep_last("lanes", ("workspace",), lanes, lambda record: (record.value,))
        views = []
        for record in lanes:
            # A lane that this version cannot read is reported when it is shown.
            with suppress(*UNREADABLE):
                views.append(_lane.decode(record.value or b""))
        self.history.lanes(views)

    def _write_audit(self, records: Iterable[KafkaRecord]) -> None:
        rows = []
        for record in records:
            try:
                answer = _answer.decode(record.value or b"")
            except UNREADABLE:
                self._unreadable(record)
            else:
                rows.append((answer.at_ms, record.partition, record.offset, *_audited(answer)))
        self._db.executemany(f"INSERT OR IGNORE INTO audit VALUES ({', '.join('?' * 13)})", rows)

    def _write_replays(self, records: Iterable[KafkaRecord]) -> None:
        """Write the replays that operators ordered, and their pause of all replays.

        domain/dead_letter/orders.py has the format.
        """

        def columns(record: KafkaRecord) -> tuple[object, ...]:
            progress = read_progress(record.key, record.value)
            if progress is None:
                raise ValueError("no progress of a replay")
            return (progress.at_ms, record.value)

        rows = list(records)
        progress = (row for row in rows if (row.key or b"").startswith(PROGRESS))
        self._keep_last("replays", ("id",), progress, columns, begin=len(PROGRESS))
        for pause in (row.value for row in rows if row.key == PAUSE):
            self._db.execute("DELETE FROM facts WHERE name = 'pause'")
            if pause is not None:
                self._db.execute(
                    "INSERT INTO facts VALUES ('pause', ?)",
                    (pause.decode("utf-8", "replace"),),
                )

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
        people = (record for record in records if (record.key or b"").startswith(_PEOPLE))
        self._keep_last("people", names, people, leads, begin=len(_PEOPLE))

    def _keep_last(
        self,
        table: str,
        names: tuple[str, ...],
        records: Iterable[KafkaRecord],
        rest: Columns,
        begin: int = 0,
    ) -> None:
        """Write a table like a compacted topic, with the last value of each key.

        Args:
            table: The table.
            names: The columns of the key's parts.
            records: The records, in the order of each partition.
            rest: Returns the other columns.
            begin: The index in the record's key of the first part that is a column.
        """
        last: dict[tuple[str, ...], tuple[object, ...] | None] = {}
        for record in records:
            try:
                name = _split((record.key or b"")[begin:], len(names))
                last[name] = None if record.value is None else rest(record)
            except UNREADABLE:
                self._unreadable(record)
        if table == "people" and self.catches_up:  # store.py sorts them at the end
            rows = [(*name, *(row or (None,))) for name, row in last.items()]
            self._db.executemany("INSERT INTO people_unsorted VALUES (?, ?, ?, ?)", rows)
            return
        where = " AND ".join(f"{name} = ?" for name in names)
        self._db.executemany(
            f"DELETE FROM {table} WHERE {where}",
            [name for name, row in last.items() if row is None],
        )
        rows = [(*name, *row) for name, row in last.items() if row is not None]
        if rows:
            self._db.executemany(
                f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})",
                rows,
            )

    def _write_dead_letters(self, records: Iterable[KafkaRecord]) -> None:
        hours: Counter[tuple[int, int]] = Counter()
        letters: list[Letter] = []
        classified = [(record, *self._cause_of(record)) for record in records]
        causes = self._write_causes((name, record.timestamp) for record, name, _ in classified)
        for record, name, headers in classified:
            cause = causes[name]
            origin = 0
            hours[cause, record.timestamp // _HOUR_MS] += 1
            with suppress(ValueError):  # of other programs, which name none
                origin = self._numbers.number(text(headers, _ORIGIN))
            own = self._numbers.number(_record_id(record))
            seq = number(headers, _SEQ)
            returns = record.topic == self._dlq and kind_of(headers) == "failed"
            letters.append(Letter(own, cause, record.timestamp, origin, seq, returns))
        self._write_logs()
        self._db.executemany(
            """INSERT INTO dead_letter_hours VALUES (?, ?, ?)
               ON CONFLICT DO UPDATE SET letters = letters + excluded.letters""",
            [(*slot, many) for slot, many in hours.items()],
        )
        self.account.write_letters(letters)

    def _cause_of(self, record: KafkaRecord) -> tuple[tuple[str, ...], HeaderValues]:
        """Return the name of a dead letter's cause, and its headers.

        Foreign programs may write any key and reason.
        """
        headers = headers_of(record.headers)
        workspace = (
            shown_key(headers, self._keys.restore(record.key), self._workspaces) or b""
        ).decode()
        words = [text(headers, name)[:100] for name in _WORDS]
        cause = (record.topic, kind_of(headers), workspace, *words)
        if cause not in self._causes and len(self._causes) >= _MAX_CAUSES:
            cause = (record.topic, "foreign", "", "(others)", "", "")
        self._causes.add(cause)
        return cause, headers

    def _write_causes(
        self,
        arrivals: Iterable[tuple[tuple[str, ...], int]],
    ) -> dict[tuple[str, ...], int]:
        """Note when dead letters of these causes came. Returns the numbers of the causes."""
        times: dict[tuple[str, ...], tuple[int, int]] = {}
        for name, at_ms in arrivals:
            first_ms, last_ms = times.get(name, (at_ms, at_ms))
            times[name] = min(first_ms, at_ms), max(last_ms, at_ms)
        upsert = """INSERT INTO causes (
                        topic, kind, workspace, reason, http_status, destination, first_ms, last_ms
                    )
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                    ON CONFLICT DO UPDATE SET
                        first_ms = min(first_ms, excluded.first_ms),
                        last_ms = max(last_ms, excluded.last_ms)
                    RETURNING id"""
        return {
            name: int(self._db.execute(upsert, (*name, *at)).fetchone()[0])
            for name, at in times.items()
        }

    def _unreadable(self, record: KafkaRecord) -> None:
        self._db.execute(
            """INSERT INTO unreadable VALUES (?, 1, ?, ?)
               ON CONFLICT DO UPDATE SET
                   records = records + 1,
                   last = excluded.last,
                   last_ms = excluded.last_ms""",
            (record.topic, _record_id(record), record.timestamp),
        )


def _record_id(record: KafkaRecord) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def record_numbers(db: sqlite3.Connection) -> RecordNumbers:
    """Return the numbers of all records in the model."""
    return RecordNumbers([name for (name,) in db.execute("SELECT name FROM logs ORDER BY id")])


def _split(key: bytes, parts: int) -> tuple[str, ...]:
    """Split a key; the last part may contain slashes.

    Raises ValueError if there are too few parts.
    """
    names = key.decode().split("/", parts - 1)
    if len(names) < parts:
        raise ValueError("too few parts")
    return tuple(names)
