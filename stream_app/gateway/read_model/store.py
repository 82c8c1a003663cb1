"""What the gateway knows of leads: a SQLite file made from Kafka, which may be deleted at any time.

It holds every step of every story, who is known by which id, where each result stands on Kafka, the lanes, and the
counts of dead letters. It holds ids and hashes only: results stay on Kafka and are fetched when somebody asks.
What was read of Kafka and how far is one transaction, so a crash neither loses nor doubles anything.
"""

from __future__ import annotations

import fcntl
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec

from stream_app.domain.errors import StreamAppError
from stream_app.domain.topics import Retention, TopicNames
from stream_app.gateway.read_model.project import DAY_MS, Consumed, Projector
from stream_app.gateway.read_model.schema import TABLES

_LOOKED_AT: Final = 5_000  # stories a sweep: a million are looked at in 200 sweeps
_CACHE_KIB: Final = 65_536
_WAL_PAGES: Final = 8_192  # 32 MiB between checkpoints


class Position(msgspec.Struct, frozen=True):
    """How far a log was read: `next` offset to read; the last record's offset (-1: none yet) and its mark."""

    next: int
    last: int = -1
    mark: int = 0


class Sources(msgspec.Struct, frozen=True):
    """The topics that it is made from, their number of partitions, how many days Kafka keeps some of them, and the
    configured workspaces.
    """

    names: TopicNames
    partitions: int
    kept: Retention
    workspaces: frozenset[str]

    @property
    def topics(self) -> tuple[str, ...]:
        names = self.names
        return (names.status, names.enriched, names.lanes, names.state, names.dlq, names.parked)


Log = tuple[str, int]
"""Topic and partition."""


def mark(record: Consumed) -> int:
    """A number by which a record is known again; another record at its offset means another topic of that name."""
    return zlib.crc32(record.value or b"", zlib.crc32(record.key or b"", record.timestamp & 0xFFFFFFFF))


class ReadModel:
    """The file's one writer, used by one thread at a time. Everything may raise sqlite3.Error.

    Raises StreamAppError when another process writes to the file, or the folder cannot be used.
    """

    def __init__(self, path: Path, sources: Sources) -> None:
        self._sources = sources
        self._made_of = msgspec.json.encode((TABLES, sources.topics, sources.partitions)).decode()
        self._swept = -1
        self._own = _own(path)
        try:
            self._db = _open(path)
            self._takers = Projector(self._db, sources.names, sources.workspaces)
            if self._fact("made_of") == self._made_of:
                self._takers.load()
            else:
                self.wipe()
        except BaseException:
            self._own.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        self._own.close()

    def wipe(self) -> None:
        """Forget everything, to be made anew."""
        with self._transaction() as db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                db.execute(f'DROP TABLE "{table}"')
            for statement in TABLES:
                db.execute(statement)
            db.execute("INSERT INTO facts VALUES ('made_of', ?)", (self._made_of,))
        self._takers.load()

    def as_of_ms(self) -> int | None:
        """All that was on Kafka then is in it; None: it was never complete."""
        fact = self._fact("as_of_ms")
        return None if fact is None else int(fact)

    def positions(self) -> dict[Log, Position]:
        """How far each log was read."""
        rows = self._db.execute("SELECT topic, partition, next, last, mark FROM positions").fetchall()
        return {(topic, partition): Position(*rest) for topic, partition, *rest in rows}

    def apply(
        self, batch: Mapping[str, Iterable[Consumed]], positions: Mapping[Log, Position], as_of_ms: int | None
    ) -> None:
        """Take records by topic, in the order of each partition, and how far that comes: all or nothing."""
        try:
            with self._transaction() as db:
                for topic, records in batch.items():
                    self._takers.take(topic, records)
                db.executemany(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?)",
                    [(*log, at.next, at.last, at.mark) for log, at in positions.items()],
                )
                if as_of_ms is not None:
                    db.execute("INSERT OR REPLACE INTO facts VALUES ('as_of_ms', ?)", (str(as_of_ms),))
        except BaseException:
            self._takers.load()  # names that were given in the transaction are not there
            raise

    def sweep(self, now_ms: int) -> None:
        """Look at some more stories, and forget those that nothing was heard of for as long as Kafka keeps events."""
        kept, names = self._sources.kept, self._sources.names
        oldest_ms = now_ms - kept.status_days * DAY_MS
        with self._transaction() as db:
            found = db.execute(
                "SELECT id, at_ms FROM stories WHERE id > ? ORDER BY id LIMIT ?", (self._swept, _LOOKED_AT)
            ).fetchall()
            old = [(story,) for story, at_ms in found if at_ms < oldest_ms]
            db.executemany("DELETE FROM events WHERE story = ?", old)
            db.executemany("DELETE FROM stories WHERE id = ?", old)
            self._swept = found[-1][0] if len(found) == _LOOKED_AT else -1
            for topic, days in ((names.dlq, kept.dlq_days), (names.parked, kept.parked_days)):
                db.execute("DELETE FROM letters WHERE topic = ? AND day < ?", (topic, now_ms // DAY_MS - days))

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
            if self._db.in_transaction:  # a full disk ends it by itself
                self._db.execute("ROLLBACK")
            raise


def discard(path: Path) -> None:
    """Remove the file and what SQLite keeps beside it."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _own(path: Path) -> IO[bytes]:
    """The right to write to the file, until it is closed. Raises StreamAppError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("wb")
    except OSError as error:
        raise StreamAppError(
            f"{path}: the read model cannot be written there ({error.strerror}): set gateway.read_model_path"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StreamAppError(
            f"{path}: another process writes to this read model: give each gateway a gateway.read_model_path of its own"
        ) from None
    return lock


def _open(path: Path) -> sqlite3.Connection:
    """The file, to write to; one that is no SQLite file is removed first."""
    if not path.exists():
        discard(path)  # a log that outlived its file would be applied to the next one
        path.touch(mode=0o600)
    try:
        return _connect(path)
    except sqlite3.OperationalError:
        raise  # the disk's or the rights' fault, not the file's
    except sqlite3.DatabaseError:
        discard(path)
        path.touch(mode=0o600)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for setting in (
            "journal_mode = WAL",
            "synchronous = NORMAL",  # after a power cut the last transactions may be gone, and are read again
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
