"""The queries of the board about dead letters: those of a cause in pages, and how many came in each hour."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from stream_app.board.read_model.project import SAME_CAUSE, record_numbers
from stream_app.board.read_model.query import Place, Queries
from stream_app.client.answers import Cause


class DeadLetterRow(msgspec.Struct, frozen=True):
    """One dead letter in the list of its cause.

    Attributes:
        place: Its position in the list.
        record: Its position on Kafka.
        origin: The position of the record that it came from; '' if it is unknown.
        lead_id: The lead of that record; '' if none is known, as `status`, the record's last status.
    """

    place: Place
    record: str
    origin: str
    lead_id: str
    status: str


class DeadLetterQueries(Queries):
    """Runs the queries. Every method may raise sqlite3.Error."""

    def dead_letter_hours(self, topic: str, causes: Iterable[Cause], since_s: int) -> list[list[tuple[int, int]]]:
        """Return (epoch s, dead letters) of each hour with dead letters, for each cause."""
        sql = f"SELECT hour * 3600, count FROM dead_letter_hours WHERE {SAME_CAUSE} AND hour = ?"
        hours = range(since_s // 3_600, since_s // 3_600 + 26)
        with self._reading() as db:
            return [
                [(at_s, count) for hour in hours for at_s, count in db.execute(sql, (*_words(topic, cause), hour))]
                for cause in causes
            ]

    def cause(self, topic: str, cause: Cause) -> Cause | None:
        """Return a cause with its number of dead letters. None if it has none."""
        sql = f"SELECT count, first_ms, last_ms FROM causes WHERE {SAME_CAUSE}"
        with self._reading() as db:
            found = db.execute(sql, _words(topic, cause)).fetchone()
        if found is None:
            return None
        return msgspec.structs.replace(cause, dead_letters=found[0], first_ms=found[1], last_ms=found[2])

    def dead_letters_of(
        self, topic: str, cause: Cause, since_ms: int, after: Place | None, limit: int
    ) -> list[DeadLetterRow]:
        """Return the dead letters of a cause that were appended at `since_ms` or later, after a place, newest first."""
        at_ms, record = (after.at_ms, after.record) if after else (1 << 62, 1 << 62)
        with self._reading() as db:
            rows = db.execute(
                f"""SELECT d.at_ms, d.id, d.origin, coalesce(r.lead_id, ''), coalesce(r.status, '')
                    FROM dead_letter_records AS d LEFT JOIN records AS r ON r.id = d.origin
                    WHERE d.cause = (SELECT id FROM causes WHERE {SAME_CAUSE})
                    AND d.at_ms >= ? AND (d.at_ms, d.id) < (?, ?) ORDER BY d.at_ms DESC, d.id DESC LIMIT ?""",
                (*_words(topic, cause), since_ms, at_ms, record, limit),
            ).fetchall()
            numbers = record_numbers(db)
        return [
            DeadLetterRow(
                Place(when, number), numbers.record_id(number), numbers.record_id(origin) if origin else "", *rest
            )
            for when, number, origin, *rest in rows
        ]


def _words(topic: str, cause: Cause) -> tuple[str, ...]:
    return topic, cause.kind, cause.workspace, cause.reason, cause.http_status, cause.destination
