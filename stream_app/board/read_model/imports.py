"""The imports in the read model: which there are, and the number of their records by status. Both are bounded.

`records.import` is the import of a record. Triggers keep `import_counts` consistent with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from stream_app.domain.books.columns import COLUMN, MOVING
from stream_app.domain.books.history import Event

MOST_IMPORTS: Final = 10_000
"""Foreign programs may name any number of imports. Above it those without leads under way make room, or a new one is
left out."""

_UNDER_WAY: Final = ", ".join(repr(status) for status, name in COLUMN.items() if name in MOVING)


class Imports:
    """Writes to `db` in the caller's open transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def load(self) -> None:
        """Load the cached names from the table, after other code has changed it."""
        rows = self._db.execute("SELECT workspace, name, id FROM imports")
        self._numbers = {(workspace, name): number for workspace, name, number in rows}

    def numbers_of(self, events: Iterable[tuple[int, Event]], known: Iterable[int]) -> dict[int, int]:
        """Return the number of the import of each record whose events name one.

        `known`: the imports of the records that are about to be written. They make no room for others.
        """
        found: dict[int, int] = {}
        may_make_room = True
        for record, event in events:
            if not (event.import_id and event.workspace):
                continue
            number = self._numbers.get((event.workspace, event.import_id), 0)
            if not number and may_make_room and len(self._numbers) >= MOST_IMPORTS:
                self._make_room({*known, *found.values()})
                may_make_room = False
            if number or len(self._numbers) < MOST_IMPORTS:
                found[record] = number or self._new(event)
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
                    # Only the first: a later one may be of a producer who knows the name of the import.
                    """UPDATE imports SET rows = ?, refused = ?, leads = ?, file = ?, who = ?
                       WHERE id = ? AND rows IS NULL""",
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

    def _make_room(self, needed: Collection[int]) -> None:
        """Delete imports without leads under way: those that cost nothing first, then the oldest. Records stay.

        A hundredth of them goes at once, so that a flood of names does not search for one each time.
        """
        gone = self._db.execute(
            f"""SELECT id, workspace, name FROM imports WHERE id NOT IN (SELECT value FROM json_each(?)) AND NOT EXISTS
                    (SELECT 1 FROM import_counts WHERE import = imports.id AND records > 0 AND status IN ({_UNDER_WAY}))
                ORDER BY credits > 0, last_ms, id LIMIT ?""",
            (msgspec.json.encode(list(needed)).decode(), max(1, MOST_IMPORTS // 100)),
        ).fetchall()
        for number, *name in gone:
            del self._numbers[tuple(name)]
            for statement in (
                "UPDATE records SET import = 0 WHERE import = ? AND import > 0",
                "DELETE FROM import_counts WHERE import = ?",
                "DELETE FROM imports WHERE id = ?",
            ):
                self._db.execute(statement, (number,))

    def _new(self, event: Event) -> int:
        name = (event.workspace, event.import_id)
        made = self._db.execute(
            "INSERT INTO imports (workspace, name, first_ms, last_ms) VALUES (?, ?, ?, ?) RETURNING id",
            (*name, event.at_ms, event.at_ms),
        ).fetchone()
        number = int(made[0])
        self._numbers[name] = number
        return number
