"""The queries of the board that list records in pages: by status, of an import, of a lead, or sent again."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Final

import msgspec

from stream_app.board.read_model.history import DAY_S
from stream_app.board.read_model.project import record_numbers
from stream_app.board.read_model.query import Place, Queries

_SELECT: Final = "SELECT at_ms, id, lead_id, workspace, destination, status FROM records"


class RecordRow(msgspec.Struct, frozen=True):
    """One record in the list."""

    place: Place
    lead_id: str
    workspace: str
    destination: str
    status: str
    at_ms: int
    origin: str


class RecordQueries(Queries):
    """Runs the queries. Every method may raise sqlite3.Error."""

    def records(
        self,
        workspace: str | None,
        statuses: Collection[str],
        after: Place | None,
        limit: int,
        *,
        final: bool | None = None,
        imported: int = 0,
    ) -> list[RecordRow]:
        """Return the records with these last statuses, newest first.

        Args:
            workspace: Only of this workspace, '' for those that name none; None for all.
            statuses: The statuses; empty for all.
            after: The last record of the page before.
            limit: How many at most.
            final: True: `accepted` only of destinations without callbacks; False: only of the others; None: of all.
            imported: Only of the import with this number; 0 for all. Its workspace is that of the import then.
        """
        at_ms, record = _place(after)
        with self._reading() as db:
            found: list[tuple[int, int, str, str, str, str]] = []
            # Only the groups with the newest records can be on this page.
            groups = (
                self._groups_of_import(db, imported, statuses, at_ms, final)
                if imported
                else self._groups(db, workspace, statuses, at_ms, final)
            )
            for newest, group in groups:
                if len(found) >= limit and newest < found[limit - 1][0]:
                    break
                found += db.execute(
                    f"""{_SELECT}
                        WHERE {" AND ".join(f"{name} = ?" for name in group)} {"AND import > 0" if imported else ""}
                        AND at_ms <= ? AND (at_ms < ? OR id < ?) ORDER BY at_ms DESC, id DESC LIMIT ?""",
                    (*group.values(), at_ms, at_ms, record, limit),
                )
                found.sort(reverse=True)
            return _rows(db, found[:limit])

    def _groups(
        self, db: sqlite3.Connection, workspace: str | None, statuses: Collection[str], at_ms: int, final: bool | None
    ) -> list[tuple[int, dict[str, str | int]]]:
        """Return groups of records, each with its newest time. The records of a group are in the order of an index.

        A group is a status, or where only some of its records are wanted, a status of one destination.
        """
        where, values = "records > 0", list[str]()
        if workspace is not None:
            where, values = f"{where} AND workspace = ?", [*values, workspace]
        if statuses:
            where, values = f"{where} AND status IN ({', '.join('?' * len(statuses))})", [*values, *statuses]
        by_destination = "FALSE" if workspace is None else "TRUE"
        if final is not None and self._final:
            is_final = "destination IN (SELECT value FROM json_each(?))"
            where, values = f"{where} AND (status <> 'accepted' OR ({is_final}) = {final})", [*values, self._final_json]
            by_destination = f"({by_destination} OR status = 'accepted')"
        found: list[tuple[int, dict[str, str | int]]] = []
        for names, condition in (
            (("status",), f"NOT {by_destination}"),
            (("workspace", "status", "destination"), by_destination),
        ):
            same = " AND ".join(f"r.{name} = g.{name}" for name in names)
            rows = db.execute(
                f"""SELECT *, (SELECT max(at_ms) FROM records AS r WHERE {same} AND r.at_ms <= ?)
                    FROM (SELECT DISTINCT {", ".join(names)} FROM status_counts WHERE {where} AND {condition}) AS g""",
                (at_ms, *values),
            )
            found += [(newest, dict(zip(names, group, strict=True))) for *group, newest in rows if newest is not None]
        return sorted(found, key=lambda each: -each[0])

    def _groups_of_import(
        self, db: sqlite3.Connection, imported: int, statuses: Collection[str], at_ms: int, final: bool | None
    ) -> list[tuple[int, dict[str, str | int]]]:
        """Return the groups of `_groups` for one import: its statuses by destination."""
        rows = db.execute(
            """SELECT status, destination, (
                   SELECT max(at_ms) FROM records AS r WHERE r.import = g.import AND r.import > 0
                   AND r.status = g.status AND r.destination = g.destination AND r.at_ms <= ?)
               FROM import_counts AS g WHERE import = ? AND records > 0""",
            (at_ms, imported),
        )
        found: list[tuple[int, dict[str, str | int]]] = [
            (newest, {"import": imported, "status": status, "destination": alias})
            for status, alias, newest in rows
            if newest is not None
            and (not statuses or status in statuses)
            and (status != "accepted" or final in (None, alias in self._final))
        ]
        return sorted(found, key=lambda each: -each[0])

    def records_of_lead(self, lead_id: str, after: Place | None, limit: int) -> tuple[int, list[RecordRow]]:
        """Return how many records a lead has, and those after a place, newest first."""
        with self._reading() as db:
            many = db.execute("SELECT count(*) FROM records WHERE lead_id = ?", (lead_id,)).fetchone()[0]
            found = db.execute(
                f"{_SELECT} WHERE lead_id = ? AND (at_ms, id) < (?, ?) ORDER BY at_ms DESC, id DESC LIMIT ?",
                (lead_id, *_place(after), limit),
            ).fetchall()
            return many, _rows(db, found)

    def records_of_person(self, person: str) -> list[RecordRow]:
        """Return the newest record of each lead of a person, the newest first."""
        lead_ids = self.leads_of(person)
        with self._reading() as db:
            found = [
                row
                for lead_id in lead_ids
                for row in db.execute(
                    f"{_SELECT} WHERE lead_id = ? ORDER BY at_ms DESC, id DESC LIMIT 1",
                    (lead_id,),
                )
            ]
            return _rows(db, sorted(found, reverse=True))

    def resent(self, day_s: int | None, after: Place | None, limit: int) -> list[RecordRow]:
        """Return the records that were sent again although they may have reached Clay, newest first.

        A record without an event that is kept has no lead id, workspace and status. `day_s`: only of the day that
        begins then, epoch s.
        """
        begin_ms, end_ms = (0, 1 << 62) if day_s is None else (day_s * 1000, (day_s + DAY_S) * 1000)
        with self._reading() as db:
            found = db.execute(
                """SELECT s.at_ms, s.record, coalesce(lead_id, ''), coalesce(workspace, ''), coalesce(destination, ''),
                          coalesce(status, '')
                   FROM resent AS s LEFT JOIN records ON id = s.record
                   WHERE s.at_ms >= ? AND s.at_ms < ? AND (s.at_ms, s.record) < (?, ?)
                   ORDER BY s.at_ms DESC, s.record DESC LIMIT ?""",
                (begin_ms, end_ms, *_place(after), limit),
            ).fetchall()
            return _rows(db, found)


def _place(after: Place | None) -> tuple[int, int]:
    return (after.at_ms, after.record) if after else (1 << 62, 1 << 62)


def _rows(db: sqlite3.Connection, found: list[tuple[int, int, str, str, str, str]]) -> list[RecordRow]:
    numbers = record_numbers(db)
    return [
        RecordRow(Place(when, number), lead_id, name, alias, status, when, numbers.record_id(number))
        for when, number, lead_id, name, alias, status in found
    ]
