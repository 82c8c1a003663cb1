"""The imports in the read model: which there are, and the number of their records by status. Both are bounded.

`records.import` is the import of a record. Triggers keep `import_counts` consistent with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from stream_app.domain.books.history import Event

MOST_IMPORTS: Final = 10_000
"""Foreign programs may name any number of imports. Above it a new one is left out."""


class Imports:
    """Writes to `db` in the caller's open transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def load(self) -> None:
        """Load the cached names from the table, after other code has changed it."""
        rows = self._db.execute("SELECT workspace, name, id FROM imports")
        self._numbers = {(workspace, name): number for workspace, name, number in rows}

    def numbers_of(self, events: Iterable[tuple[int, Event]]) -> dict[int, int]:
        """Return the number of the import of each record whose events name one."""
        found: dict[int, int] = {}
        for record, event in events:
            if event.import_id and event.workspace and (number := self._number(event)):
                found[record] = number
        return found

    def count(self, events: Iterable[tuple[int, Event]], imports: Mapping[int, int]) -> None:
        """Add up the times and the credits of events that were not counted before.

        `imports` has the import of each record; 0 or absent if it has none.
        """
        sums: dict[int, list[int]] = {}
        for record, event in events:
            number = imports.get(record)
            if not number:
                continue
            row = sums.setdefault(number, [event.at_ms, event.at_ms, 0])
            row[0], row[1] = min(row[0], event.at_ms), max(row[1], event.at_ms)
            row[2] += event.credits or 0
            if (said := event.import_summary) is not None:
                self._db.execute(
                    "UPDATE imports SET rows = ?, refused = ?, leads = ?, file = ?, who = ? WHERE id = ?",
                    (said.rows, said.refused, said.leads, said.file, said.who, number),
                )
        self._db.executemany(
            """UPDATE imports SET first_ms = min(first_ms, ?), last_ms = max(last_ms, ?), credits = credits + ?
               WHERE id = ?""",
            [(*row, number) for number, row in sums.items()],
        )

    def sweep(self, oldest_ms: int) -> None:
        """Delete the imports that have no record any more. `oldest_ms`: the time of the oldest records that remain."""
        self._db.execute("DELETE FROM import_counts WHERE records <= 0")
        gone = self._db.execute(
            """DELETE FROM imports WHERE last_ms < ? AND NOT EXISTS
                   (SELECT 1 FROM import_counts WHERE import_counts.import = imports.id)""",
            (oldest_ms,),
        )
        if gone.rowcount:
            self.load()

    def _number(self, event: Event) -> int:
        name = (event.workspace, event.import_id)
        number: int = self._numbers.get(name, 0)
        if number or len(self._numbers) >= MOST_IMPORTS:
            return number
        made = self._db.execute(
            "INSERT INTO imports (workspace, name, first_ms, last_ms) VALUES (?, ?, ?, ?) RETURNING id",
            (*name, event.at_ms, event.at_ms),
        ).fetchone()
        self._numbers[name] = number = int(made[0])
        return number
