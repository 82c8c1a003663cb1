"""What the read model bounds: events of records, sums over time, answers to commands, imports.

Everything is rebuilt from Kafka. `leads.lanes` is compacted, so a rebuilt model knows the health
and changes of a lane only as far as Kafka has not compacted them.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, Literal, get_args

import msgspec

from stream_app.client.results.answers import Event as ShownEvent
from stream_app.domain.books.records import COLUMN, MOVING, BookEvent
from stream_app.domain.model.messages import RESENDS
from stream_app.domain.views.lane import LaneChange, LaneView

EVENT_COLUMNS: Final = ShownEvent.__struct_fields__
"""What is kept of an event, in this order."""
_OF_ANOTHER_PARTITION: Final = 0
"""The place of the event `rerouted`, which has sequence number 1 and may come after the later ones.
"""

_of_event: Final = attrgetter(*EVENT_COLUMNS)
_of_change: Final = attrgetter(*LaneChange.__struct_fields__)
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[tuple[Any, ...]]).decode


def write_events(db: sqlite3.Connection, events: Iterable[tuple[int, BookEvent]]) -> None:
    """Add events that were not known, each with the number of its record.

    Those of a record come together.

    A record and batch have one row, in which they are packed, because a rebuilt model writes
    millions.
    """
    rows: list[tuple[int, int, bytes]] = []
    for number, of_record in groupby(events, key=itemgetter(0)):
        steps = [event for _, event in of_record]
        if elsewhere := [event for event in steps if event.seq == 1 and event.status == "rerouted"]:
            rows.append((number, _OF_ANOTHER_PARTITION, _packed(elsewhere)))
            steps = [event for event in steps if event not in elsewhere]
        if steps:
            rows.append((number, steps[0].seq, _packed(steps)))
    db.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?)", rows)


def _packed(steps: list[BookEvent]) -> bytes:
    return _encode([_of_event(event) for event in steps])


def events_of(db: sqlite3.Connection, number: int) -> list[ShownEvent]:
    """Return the events of a record, in their order."""
    rows = db.execute("SELECT steps FROM events WHERE record = ? ORDER BY place", (number,))
    return [ShownEvent(*step) for (steps,) in rows for step in _decode(steps)]


MINUTE_S: Final = 60
QUARTER_S: Final = 900
DAY_S: Final = 86_400
KEPT_S: Final = {MINUTE_S: 2 * 3_600, QUARTER_S: 26 * 3_600, DAY_S: 35 * DAY_S}
"""Length of a slot -> how long it is kept."""
MARK_S: Final = 300
MAX_CHANGES: Final = 300
"""How many of the newest changes of a lane are kept, and how many more in turn from each kind and
reason.

The second ones are the newest of each kind and reason, then the second newest of each, and so on.
So a breaker that opens and closes for hours leaves what a person did before, and why the lane was
held then.
"""


YieldWindow = Literal["hour", "day", "before"]
YIELD_WINDOWS: Final[tuple[YieldWindow, ...]] = get_args(YieldWindow)


def slots_of(workspace: str, destination: str, at_ms: int) -> Iterator[tuple[str, int, int, str]]:
    """Yield the slots of a moment: workspace, length, begin and destination.

    The workspace '' is the sum of all. Only the days of a workspace name a destination.
    """
    at_s = at_ms // 1000
    for name in {workspace, ""}:
        for step_s in KEPT_S:
            yield (
                name,
                step_s,
                at_s - at_s % step_s,
                destination if name and step_s == DAY_S else "",
            )


_HOUR_S: Final = 3_600
YIELD_KEPT_S: Final = {MINUTE_S: 2 * _HOUR_S, _HOUR_S: 8 * DAY_S + 2 * _HOUR_S}
"""As `KEPT_S`, for answers: minutes for the last hour, hours for the day and the week before it."""


def hour_of(at_s: int) -> int:
    """Return the number of the hour of a moment, which the table `readings` has."""
    return at_s // _HOUR_S


def yield_windows(now_ms: int) -> dict[YieldWindow, tuple[int, int, int]]:
    """Return the spans of time over which answers are counted: length of the slots, begin, end.

    `hour` is 59 full minutes and the present one, `day` 23 full hours and the present one, and
    `before` the seven days before that day. Begin and end are epoch s.
    """
    now_s = now_ms // 1000
    hour_s = now_s // MINUTE_S * MINUTE_S - 59 * MINUTE_S
    day_s = now_s // _HOUR_S * _HOUR_S - 23 * _HOUR_S
    return {
        "hour": (MINUTE_S, hour_s, _NEVER_S),
        "day": (_HOUR_S, day_s, _NEVER_S),
        "before": (_HOUR_S, day_s - 7 * DAY_S, day_s),
    }


_NEVER_S: Final = 1 << 62
_REFUSED: Final = "held_budget"


class History:
    """Writes to `db` in the caller's open transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def count(self, events: Iterable[tuple[int, BookEvent]]) -> None:
        """Add up the money of events that were not counted before.

        Each comes with the number of its record.

        The table `events` has them already, because a lead that a budget holds twice in a day
        counts once.
        """
        sums: dict[tuple[str, int, int, str], list[int]] = {}
        firsts_of_days = cache(self._firsts_of_days)
        resent: list[tuple[int, int]] = []
        for number, event in events:
            is_resent = event.status == "replayed" and event.reason in RESENDS
            is_refused = event.status == _REFUSED and event.seq in firsts_of_days(number)
            if not (
                event.credits or event.estimated_credits or event.saved or is_resent or is_refused
            ):
                continue
            resent += [(event.at_ms, number)] * is_resent
            more = (
                event.credits or 0,
                event.saved or 0,
                int(is_resent),
                int(is_refused),
                event.estimated_credits,
            )
            for slot in slots_of(event.workspace, event.destination, event.at_ms):
                row = sums.setdefault(slot, [0, 0, 0, 0, 0])
                for index, value in enumerate(more):
                    row[index] += value
        self._db.executemany(
            """INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                   credits = credits + excluded.credits, saved = saved + excluded.saved,
                   resent = resent + excluded.resent, refused = refused + excluded.refused,
                   estimated = estimated + excluded.estimated""",
            [(*key, *row) for key, row in sums.items()],
        )
        self._db.executemany("INSERT OR IGNORE INTO resent VALUES (?, ?)", resent)

    def _firsts_of_days(self, number: int) -> set[int]:
        """Return the sequence number of each day's first event by which a budget held a record."""
        firsts: dict[int, int] = {}
        for event in events_of(self._db, number):
            if event.status == _REFUSED:
                firsts.setdefault(event.at_ms // (DAY_S * 1000), event.seq)
        return set(firsts.values())

    def lanes(self, views: Iterable[LaneView]) -> None:
        """Keep the health and the changes of published lanes."""
        changes: list[tuple[object, ...]] = []
        marks: list[tuple[object, ...]] = []
        readings: list[tuple[object, ...]] = []
        for view in views:
            at_s = view.at_ms // 1000
            if view.health != "insufficient_data":
                marks.append((view.workspace, at_s - at_s % MARK_S, view.score, view.p95_ms))
            for number, change in enumerate(view.news):
                changes.append((view.workspace, view.at_ms, number, *_of_change(change)))
            if (reading := view.reading) is not None:
                hour = hour_of(reading.at_ms // 1000)
                readings.append((view.workspace, hour, msgspec.json.encode(reading)))
        self._db.executemany(
            """INSERT INTO lane_marks VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                   score = min(score, excluded.score), p95_ms = max(p95_ms, excluded.p95_ms)""",
            marks,
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO lane_changes VALUES (?, ?, ?, ?, ?, ?)",
            changes,
        )
        # The first reading of each hour: one that is published again changes nothing.
        self._db.executemany("INSERT OR IGNORE INTO readings VALUES (?, ?, ?)", readings)

    def sweep(self, now_ms: int, audit_days: int) -> None:
        """Delete what is older than it is kept."""
        db = self._db
        now_s = now_ms // 1000
        # Each workspace is swept by itself, because a workspace comes first in the keys.
        workspaces = db.execute(
            """WITH RECURSIVE each(name) AS (
                   SELECT min(workspace) FROM history
                   UNION ALL
                   SELECT (SELECT min(workspace) FROM history WHERE workspace > name)
                   FROM each
                   WHERE name IS NOT NULL
               )
               SELECT name FROM each WHERE name IS NOT NULL
               UNION
               SELECT workspace FROM lanes""",
        ).fetchall()
        for step_s, kept_s in KEPT_S.items():
            db.executemany(
                "DELETE FROM history WHERE workspace = ? AND step_s = ? AND slot < ?",
                [(name, step_s, now_s - kept_s) for (name,) in workspaces],
            )
        db.executemany(
            "DELETE FROM lane_marks WHERE workspace = ? AND slot < ?",
            [(name, now_s - KEPT_S[QUARTER_S]) for (name,) in workspaces],
        )
        db.executemany(
            "DELETE FROM readings WHERE workspace = ? AND hour < ?",
            [(name, hour_of(now_s - KEPT_S[DAY_S])) for (name,) in workspaces],
        )
        changed = db.execute(
            "SELECT workspace FROM lane_changes GROUP BY workspace HAVING count(*) > ?",
            (MAX_CHANGES,),
        ).fetchall()
        db.executemany(
            """WITH told AS (
                   SELECT
                       at_ms,
                       number,
                       row_number() OVER (
                           PARTITION BY kind, reason
                           ORDER BY at_ms DESC, number DESC
                       ) AS turn
                   FROM lane_changes
                   WHERE workspace = :name
               )
               DELETE FROM lane_changes
               WHERE workspace = :name
               AND (at_ms, number) NOT IN (
                   SELECT * FROM (
                       SELECT at_ms, number FROM told
                       ORDER BY at_ms DESC, number DESC LIMIT :kept
                   )
                   UNION
                   SELECT * FROM (
                       SELECT at_ms, number FROM told
                       ORDER BY turn, at_ms DESC, number DESC LIMIT :kept
                   )
               )""",
            [{"name": name, "kept": MAX_CHANGES} for (name,) in changed],
        )
        oldest_day = -((KEPT_S[DAY_S] - now_s) // DAY_S)  # the first one that `history` keeps
        db.execute("DELETE FROM resent WHERE at_ms < ?", (oldest_day * DAY_S * 1000,))
        db.execute("DELETE FROM audit WHERE at_ms < ?", (now_ms - audit_days * DAY_S * 1000,))
        db.execute("DELETE FROM dead_letter_hours WHERE hour < ?", (now_s // 3_600 - 25,))


MAX_IMPORTS: Final = 10_000
"""Foreign programs may name any number of imports. Above it those without leads under way make
room, or a new one is left out.
"""

_UNDER_WAY: Final = ", ".join(repr(status) for status, name in COLUMN.items() if name in MOVING)


class Imports:
    """Writes to `db` in the caller's open transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def load(self) -> None:
        """Load the cached names from the table, after other code has changed it."""
        rows = self._db.execute("SELECT workspace, name, id FROM imports")
        self._numbers = {(workspace, name): number for workspace, name, number in rows}

    def numbers_of(
        self,
        events: Iterable[tuple[int, BookEvent]],
        known: Iterable[int],
    ) -> dict[int, int]:
        """Return the number of the import of each record whose events name one.

        `known`: the imports of the records that are about to be written. They make no room for
            others.
        """
        numbers: dict[int, int] = {}
        may_make_room = True
        for record, event in events:
            if not (event.import_id and event.workspace):
                continue
            number = self._numbers.get((event.workspace, event.import_id), 0)
            if not number and may_make_room and len(self._numbers) >= MAX_IMPORTS:
                self._make_room({*known, *numbers.values()})
                may_make_room = False
            if number or len(self._numbers) < MAX_IMPORTS:
                numbers[record] = number or self._new(event)
        return numbers

    def arrived(self, number: int) -> None:
        """Count a published row of an import, by its record.

        A record that was copied from a dead letter is not counted.
        """
        self._db.execute("UPDATE imports SET arrived = arrived + 1 WHERE id = ?", (number,))

    def count(self, events: Iterable[tuple[int, BookEvent]], imports: Mapping[int, int]) -> None:
        """Add up the times and the credits of events that were not counted before.

        `imports` has the import of each record; 0 or absent if it has none.
        """
        sums: dict[int, list[int]] = {}
        for record, event in events:
            number = imports.get(record)
            if not number:
                continue
            row = sums.setdefault(number, [event.at_ms, event.at_ms, 0])
            row[0] = min(row[0], event.at_ms)
            row[1] = max(row[1], event.at_ms)
            row[2] += event.credits or 0
            if (summary := event.import_summary) is not None:
                self._db.execute(
                    # Only the first: a later one may be of a producer who knows the name of the
                    # import.
                    """UPDATE imports SET rows = ?, refused = ?, leads = ?, file = ?, who = ?
                       WHERE id = ? AND rows IS NULL""",
                    (
                        summary.rows,
                        summary.refused,
                        summary.leads,
                        summary.file,
                        summary.who,
                        number,
                    ),
                )
        self._db.executemany(
            """UPDATE imports
               SET first_ms = min(first_ms, ?), last_ms = max(last_ms, ?), credits = credits + ?
               WHERE id = ?""",
            [(*row, number) for number, row in sums.items()],
        )

    def sweep(self, oldest_ms: int) -> None:
        """Delete the imports that have no record any more.

        `oldest_ms`: the time of the oldest records that remain.
        """
        gone = self._db.execute(
            """DELETE FROM imports
               WHERE last_ms < ?
               AND NOT EXISTS (
                   SELECT 1
                   FROM import_counts
                   WHERE import_counts.import = imports.id AND leads > 0
               )""",
            (oldest_ms,),
        )
        if gone.rowcount:
            self.load()

    def _make_room(self, needed: Collection[int]) -> None:
        """Delete imports without leads under way: those that cost nothing first, then the oldest.

        Records stay.

        A hundredth of them goes at once, so that a flood of names does not search for one each
        time.
        """
        gone = self._db.execute(
            f"""SELECT id, workspace, name
                FROM imports
                WHERE id NOT IN (SELECT value FROM json_each(?))
                AND NOT EXISTS (
                    SELECT 1
                    FROM import_counts
                    WHERE import = imports.id AND leads > 0 AND status IN ({_UNDER_WAY})
                )
                ORDER BY credits > 0, last_ms, id
                LIMIT ?""",
            (msgspec.json.encode(list(needed)).decode(), max(1, MAX_IMPORTS // 100)),
        ).fetchall()
        for number, *name in gone:
            del self._numbers[tuple(name)]
            for statement in (
                """UPDATE records
                   SET imported = 0, of_import = 0
                   WHERE imported = ? AND imported > 0""",
                "DELETE FROM import_counts WHERE import = ?",
                "DELETE FROM import_records WHERE import = ?",
                "DELETE FROM import_yields WHERE import = ?",
                "DELETE FROM imports WHERE id = ?",
            ):
                self._db.execute(statement, (number,))

    def _new(self, event: BookEvent) -> int:
        name = (event.workspace, event.import_id)
        sql = """INSERT INTO imports (workspace, name, first_ms, last_ms)
                 VALUES (?, ?, ?, ?)
                 RETURNING id"""
        number = int(self._db.execute(sql, (*name, event.at_ms, event.at_ms)).fetchone()[0])
        self._numbers[name] = number
        return number
