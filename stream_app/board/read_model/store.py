"""The read model: a SQLite file that is built from Kafka and may be deleted at any time.

It holds the events, the ids of people, the positions of results on Kafka, the lanes, and the counts
of dead letters. It holds ids and hashes only: results stay on Kafka and are fetched on request.
Records and positions are written in one transaction, so a crash neither loses nor duplicates
anything. read_model/tables.py has its tables.
"""

import fcntl
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import IO, Final

import msgspec

from stream_app.board.read_model.history import EVENT_COLUMNS
from stream_app.board.read_model.project import Projector
from stream_app.board.read_model.tables import PEOPLE_INDEXES, TABLES
from stream_app.domain.cached_results import DAY_MS
from stream_app.domain.delivery.envelope import WorkspaceKeys
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.records import KafkaRecord
from stream_app.domain.model.topics import Retention, TopicNames

_LOOKED_AT: Final = 5_000  # records per sweep: a million take 200 sweeps
_CACHE_KIB: Final = 65_536
_SORTED_KIB: Final = 16_384  # SQLite takes as much again for a sort
_WAL_PAGES: Final = 8_192  # 32 MiB between checkpoints


class LogPosition(msgspec.Struct, frozen=True):
    """The position in a log.

    Attributes:
        next: The offset to read next.
        last: The offset of the last record read; -1 if there is none yet.
        mark: The `mark` of that record.
    """

    next: int
    last: int = -1
    mark: int = 0


_topics: Final = attrgetter(
    "status",
    "enriched",
    "lanes",
    "state",
    "dlq",
    "parked",
    "audit",
    "replay_state",
)


class Sources(msgspec.Struct, frozen=True):
    """The sources of the model.

    Attributes:
        kept: How long Kafka keeps some of them.
        workspaces: The configured workspaces.
        final: The destinations without callbacks.
    """

    names: TopicNames
    partitions: int
    kept: Retention
    workspaces: frozenset[str]
    final: frozenset[str] = frozenset()

    @property
    def topics(self) -> tuple[str, ...]:
        return _topics(self.names)


TopicLog = tuple[str, int]
"""Topic and partition."""


def mark(record: KafkaRecord) -> int:
    """A checksum of a record.

    A different one at the same offset means that the topic was created again.
    """
    return zlib.crc32(
        record.value or b"",
        zlib.crc32(record.key or b"", record.timestamp & 0xFFFFFFFF),
    )


class ReadModel:
    """The only writer of the file; use it from one thread at a time.

    Every method may raise sqlite3.Error.

    Raises:
        StreamAppError: Another process writes to the file, or the folder cannot be used.
    """

    def __init__(self, path: Path, sources: Sources) -> None:
        self._sources = sources
        made_of = (TABLES, EVENT_COLUMNS, sources.topics, sources.partitions, sorted(sources.final))
        self._made_of = msgspec.json.encode(made_of).decode()
        self._swept = -1
        self._swept_minute = -1
        self._own = _lock_for_writing(path)
        try:
            self._db = _open(path)
            self._projector = Projector(self._db, sources.names, sources.workspaces, sources.final)
            if self._fact("made_of") == self._made_of and not self._is_renamed():
                self._projector.load()
            else:
                self.wipe()
        except BaseException:
            self._own.close()
            raise

    def _is_renamed(self) -> bool:
        """Return True if dead letters name a workspace by its hash that is configured now."""
        hashed = msgspec.json.encode(WorkspaceKeys(self._sources.workspaces).hashed).decode()
        sql = "SELECT 1 FROM causes WHERE workspace IN (SELECT value FROM json_each(?)) LIMIT 1"
        return self._db.execute(sql, (hashed,)).fetchone() is not None

    def close(self) -> None:
        self._db.close()
        self._own.close()

    def wipe(self) -> None:
        """Delete everything, to rebuild it."""
        with self._transaction() as db:
            for (table,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'",
            ).fetchall():
                db.execute(f'DROP TABLE "{table}"')
            for statement in TABLES:
                db.execute(statement)
            db.execute("INSERT INTO facts VALUES ('made_of', ?)", (self._made_of,))
        self._projector.load()

    def as_of_ms(self) -> int | None:
        """The model holds everything that was on Kafka then. None: it was never complete."""
        fact = self._fact("as_of_ms")
        return None if fact is None else int(fact)

    def positions(self) -> dict[TopicLog, LogPosition]:
        rows = self._db.execute(
            "SELECT topic, partition, next, last, mark FROM positions",
        ).fetchall()
        return {(topic, partition): LogPosition(*rest) for topic, partition, *rest in rows}

    def apply(
        self,
        batch: Mapping[str, Iterable[KafkaRecord]],
        positions: Mapping[TopicLog, LogPosition],
        as_of_ms: int | None,
    ) -> None:
        """Write records and the positions after them in one transaction.

        Args:
            batch: The records by topic, in the order of each partition.
            positions: The positions after them.
            as_of_ms: The moment whose records on Kafka the model then holds all, in epoch ms. None
                if it does not hold them all.
        """
        try:
            with self._transaction() as db:
                for topic, records in batch.items():
                    self._projector.writers[topic](records)
                db.executemany(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?)",
                    [(*log, at.next, at.last, at.mark) for log, at in positions.items()],
                )
                if as_of_ms is not None:
                    if self._projector.catches_up:
                        self._sort_people(db)
                    db.execute(
                        "INSERT OR REPLACE INTO facts VALUES ('as_of_ms', ?)",
                        (str(as_of_ms),),
                    )
        except BaseException:
            self._projector.load()  # the transaction rolled back, and its cached names with it
            raise

    def _sort_people(self, db: sqlite3.Connection) -> None:
        """Put the rows of people in their places, now that all of Kafka has been read.

        The last one of a key counts.
        """
        db.execute(f"PRAGMA cache_size = -{_SORTED_KIB}")
        for name in PEOPLE_INDEXES:
            db.execute(f"DROP INDEX {name}")
        db.execute(
            """INSERT INTO people
               SELECT workspace, destination, person, lead_ids
               FROM (
                   SELECT *, max(rowid)
                   FROM people_unsorted
                   GROUP BY person, workspace, destination
               )
               WHERE lead_ids IS NOT NULL""",
        )
        db.execute("DELETE FROM people_unsorted")
        for statement in PEOPLE_INDEXES.values():
            db.execute(statement)
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._projector.catches_up = False

    def sweep(self, now_ms: int) -> None:
        """Delete what is older than it is kept.

        Each call checks the next records, and deletes those without an event for as long as Kafka
        keeps events. Everything else is deleted once a minute.
        """
        kept = self._sources.kept
        names = self._sources.names
        oldest_ms = now_ms - kept.status_days * DAY_MS
        with self._transaction() as db:
            sql = "SELECT id, at_ms FROM records WHERE id > ? ORDER BY id LIMIT ?"
            rows = db.execute(sql, (self._swept, _LOOKED_AT)).fetchall()
            self._projector.account.forget(
                [number for number, at_ms in rows if at_ms < oldest_ms],
                oldest_ms,
            )
            self._swept = rows[-1][0] if len(rows) == _LOOKED_AT else -1
            for topic, days in ((names.dlq, kept.dlq_days), (names.parked, kept.parked_days)):
                self._projector.account.forget_letters(topic, (now_ms // DAY_MS - days) * DAY_MS)
            if (minute := now_ms // 60_000) != self._swept_minute:
                self._swept_minute = minute
                self._projector.account.sweep(now_ms // 1000)
                self._projector.history.sweep(now_ms, kept.audit_days)
                self._projector.imports.sweep(oldest_ms)

    def _fact(self, name: str) -> str | None:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            return None  # a new file
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

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
            # A power cut may lose the last transactions. They are read from Kafka again.
            "synchronous = NORMAL",
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


def _lock_for_writing(path: Path) -> IO[bytes]:
    """Lock a file until the returned file, which is beside it, is closed.

    Raises:
        StreamAppError: Another process has the lock, or the folder is not writable.
    """
    setting = "board.read_model_path"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("wb")
    except OSError as error:
        text = (
            f"{path}: cannot write the read model ({error.strerror}): "
            f"set {setting} to a writable file"
        )
        raise StreamAppError(text) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        text = (
            f"{path}: another process writes to this read model: only one board runs, or each "
            f"has its own {setting}"
        )
        raise StreamAppError(text) from None
    return lock
