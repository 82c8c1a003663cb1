"""The read model: a SQLite file that is built from Kafka and may be deleted at any time.

It holds the events, the ids of people, the positions of results on Kafka, the lanes, and the counts of dead letters. It
holds ids and hashes only: results stay on Kafka and are fetched on request. Records and positions are written in one
transaction, so a crash neither loses nor duplicates anything.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from stream_app.board.read_model.project import DAY_MS, Projector
from stream_app.board.read_model.schema import TABLES
from stream_app.domain.record import KafkaRecord
from stream_app.domain.topics import Retention, TopicNames
from stream_app.ops.file_lock import lock_for_writing

_LOOKED_AT: Final = 5_000  # records per sweep: a million take 200 sweeps
_CACHE_KIB: Final = 65_536
_WAL_PAGES: Final = 8_192  # 32 MiB between checkpoints


class Position(msgspec.Struct, frozen=True):
    """The position in a log: the `next` offset to read, and the last record's offset (-1: none yet) and mark."""

    next: int
    last: int = -1
    mark: int = 0


class Sources(msgspec.Struct, frozen=True):
    """The sources of the model.

    Attributes:
        kept: How long Kafka keeps some of them.
        workspaces: The configured workspaces.
    """

    names: TopicNames
    partitions: int
    kept: Retention
    workspaces: frozenset[str]

    @property
    def topics(self) -> tuple[str, ...]:
        names = self.names
        return (
            names.status,
            names.enriched,
            names.lanes,
            names.state,
            names.dlq,
            names.parked,
            names.audit,
            names.replay_state,
        )


Log = tuple[str, int]
"""Topic and partition."""


def mark(record: KafkaRecord) -> int:
    """A checksum of a record. A different one at the same offset means that the topic was created again."""
    return zlib.crc32(record.value or b"", zlib.crc32(record.key or b"", record.timestamp & 0xFFFFFFFF))


class ReadModel:
    """The only writer of the file; use it from one thread at a time. Every method may raise sqlite3.Error.

    Raises:
        StreamAppError: Another process writes to the file, or the folder cannot be used.
    """

    def __init__(self, path: Path, sources: Sources) -> None:
        self._sources = sources
        self._made_of = msgspec.json.encode((TABLES, sources.topics, sources.partitions)).decode()
        self._swept = -1
        self._swept_minute = -1
        self._own = lock_for_writing(
            path,
            "the read model",
            "board.read_model_path",
            "another process writes to this read model: only one board runs, or each has its own board.read_model_path",
        )
        try:
            self._db = _open(path)
            self._projector = Projector(self._db, sources.names, sources.workspaces)
            if self._fact("made_of") == self._made_of:
                self._projector.load()
            else:
                self.wipe()
        except BaseException:
            self._own.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._own.close()

    def wipe(self) -> None:
        """Delete everything, to rebuild it."""
        with self._transaction() as db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                db.execute(f'DROP TABLE "{table}"')
            for statement in TABLES:
                db.execute(statement)
            db.execute("INSERT INTO facts VALUES ('made_of', ?)", (self._made_of,))
        self._projector.load()

    def as_of_ms(self) -> int | None:
        """The model holds everything that was on Kafka then. None: it was never complete."""
        fact = self._fact("as_of_ms")
        return None if fact is None else int(fact)

    def positions(self) -> dict[Log, Position]:
        """The position in each log."""
        rows = self._db.execute("SELECT topic, partition, next, last, mark FROM positions").fetchall()
        return {(topic, partition): Position(*rest) for topic, partition, *rest in rows}

    def apply(
        self, batch: Mapping[str, Iterable[KafkaRecord]], positions: Mapping[Log, Position], as_of_ms: int | None
    ) -> None:
        """Write records by topic, in the order of each partition, and the positions after them, in one transaction."""
        try:
            with self._transaction() as db:
                for topic, records in batch.items():
                    self._projector.write(topic, records)
                db.executemany(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?)",
                    [(*log, at.next, at.last, at.mark) for log, at in positions.items()],
                )
                if as_of_ms is not None:
                    db.execute("INSERT OR REPLACE INTO facts VALUES ('as_of_ms', ?)", (str(as_of_ms),))
        except BaseException:
            self._projector.load()  # the transaction rolled back, and its cached names with it
            raise

    def sweep(self, now_ms: int) -> None:
        """Check the next records, and delete those without an event for as long as Kafka keeps events.

        Once a minute, delete what else is older than it is kept.
        """
        kept, names = self._sources.kept, self._sources.names
        oldest_ms = now_ms - kept.status_days * DAY_MS
        with self._transaction() as db:
            found = db.execute(
                "SELECT id, at_ms FROM records WHERE id > ? ORDER BY id LIMIT ?", (self._swept, _LOOKED_AT)
            ).fetchall()
            old = [(number,) for number, at_ms in found if at_ms < oldest_ms]
            db.executemany("DELETE FROM events WHERE record = ?", old)
            db.executemany("DELETE FROM records WHERE id = ?", old)
            self._swept = found[-1][0] if len(found) == _LOOKED_AT else -1
            for topic, days in ((names.dlq, kept.dlq_days), (names.parked, kept.parked_days)):
                db.execute("DELETE FROM dead_letters WHERE topic = ? AND day < ?", (topic, now_ms // DAY_MS - days))
            if (minute := now_ms // 60_000) != self._swept_minute:
                self._swept_minute = minute
                self._projector.history.sweep(now_ms, kept.audit_days)
                self._projector.imports.sweep(oldest_ms)

    def _fact(self, name: str) -> str | None:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            return None  # a new file
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite rolls back by itself when the disk is full
                self._db.execute("ROLLBACK")
            raise


def discard(path: Path) -> None:
    """Remove the file and SQLite's files beside it."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    """Open the file for writing. A file that is not SQLite is replaced."""
    if not path.exists():
        discard(path)  # a log without its file would be applied to the new file
        path.touch(mode=0o600)
    try:
        return _connect(path)
    except sqlite3.OperationalError:
        raise  # the disk or the permissions are at fault, not the file
    except sqlite3.DatabaseError:
        discard(path)
        path.touch(mode=0o600)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for setting in (
            "journal_mode = WAL",
            "synchronous = NORMAL",  # a power cut may lose the last transactions, which are read again
            f"cache_size = -{_CACHE_KIB}",
            f"wal_autocheckpoint = {_WAL_PAGES}",
            f"journal_size_limit = {2 * _WAL_PAGES * 4096}",
        ):
            db.execute(f"PRAGMA {setting}")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db
