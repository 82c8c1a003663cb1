"""Stores the last result of each key in a temporary database. Memory is bounded for any number of results.

SQLite keeps 64 MiB in memory and the rest in an unnamed file in TMPDIR. No other user can open the file, and it
disappears with the process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

from stream_app.domain.errors import StreamAppError

_CACHE_KIB: Final = 65_536


class ResultStore:
    """Results and people by the hashes of their keys. Every method may raise StreamAppError (the disk is full)."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE results (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)",
            "CREATE TABLE people (key BLOB, lead BLOB, PRIMARY KEY (key, lead)) WITHOUT ROWID",
        ):
            self._db.execute(statement)

    def close(self) -> None:
        """Delete the database."""
        self._db.close()

    def put(self, results: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Add results by the key of `leads.enriched`, in the order of the topic. None deletes the result."""
        last = {_hash(key): value for key, value in results}
        with _room():
            self._db.execute("BEGIN")
            gone = [(key,) for key, value in last.items() if value is None]
            self._db.executemany("DELETE FROM results WHERE key = ?", gone)
            self._db.executemany(
                "INSERT INTO results (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [(key, value) for key, value in last.items() if value is not None],
            )
            self._db.execute("COMMIT")

    def put_people(self, people: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
        """Add the leads that count for a person: by the person's alias key, the keys of their results."""
        last = {_hash(key): leads for key, leads in people}
        with _room():
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM people WHERE key = ?", [(key,) for key in last])
            self._db.executemany(
                "INSERT OR IGNORE INTO people VALUES (?, ?)",
                [(key, _hash(lead)) for key, leads in last.items() for lead in leads],
            )
            self._db.execute("COMMIT")

    def of_lead(self, key: bytes) -> int:
        """Return the number of the result under that key, or 0."""
        return self._number("SELECT id FROM results WHERE key = ?", key)

    def of_person(self, key: bytes) -> int:
        """Return the number of the last result of the leads that count for that person, or 0."""
        of_leads = "SELECT lead FROM people WHERE key = ?"
        return self._number(f"SELECT id FROM results WHERE key IN ({of_leads}) ORDER BY id DESC LIMIT 1", key)

    def value(self, number: int) -> bytes:
        """Return the result with that number."""
        with _room():
            return bytes(self._db.execute("SELECT value FROM results WHERE id = ?", (number,)).fetchone()[0])

    def __len__(self) -> int:
        """The number of results."""
        with _room():
            return int(self._db.execute("SELECT count(*) FROM results").fetchone()[0])

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers of all results, in the order of each lead's first result."""
        with _room():
            for (number,) in self._db.execute("SELECT id FROM results ORDER BY id"):
                yield number

    def _number(self, question: str, key: bytes) -> int:
        with _room():
            found = self._db.execute(question, (_hash(key),)).fetchone()
            return 0 if found is None else int(found[0])


def _hash(key: bytes) -> bytes:
    return blake2b(key, digest_size=16).digest()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StreamAppError(
            f"no room for the results in the temporary folder ({error}): set TMPDIR to a larger one"
        ) from error
