"""Queries on the read model.

Each has its own connection or shares a snapshot's, so any thread may run one.
"""

import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import msgspec

from stream_app.board.read_model.history import (
    DAY_S,
    MAX_IMPORTS,
    QUARTER_S,
    YieldWindow,
    events_of,
    hour_of,
    yield_windows,
)
from stream_app.board.read_model.project import record_numbers
from stream_app.client.results import answers
from stream_app.domain.books.bill import billed_days
from stream_app.domain.books.records import MOVING, STATES, column
from stream_app.domain.callback.interpret import OVERDUE, WAITING
from stream_app.domain.callback.schedule import next_poll_ms, polls_until
from stream_app.domain.dead_letter.orders import ReplayPause, read_pause
from stream_app.domain.lead.identity import MAX_IDENTIFIERS
from stream_app.domain.limits.balance import Reading
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.plan import Destination
from stream_app.domain.views.backlog import positions_of
from stream_app.domain.views.lane import LaneView, Position
from stream_app.domain.views.waits import held_by_pause, held_now, waits

MAX_HISTORIES: Final = 100
MAX_CAUSES: Final = 200
ENRICHED: Final = ("enriched", "partial")
"""The statuses of leads that have what was bought."""
_MAX_LEADS: Final = 100
_COME_BACK: Final = ("dead_lettered", "deferred")  # through the replay process
_BUSY_S: Final = 2.0

_lane: Final = msgspec.json.Decoder(LaneView)
_reading: Final = msgspec.json.Decoder(Reading)


def last_day_s(now_ms: int) -> int:
    """Return when the last day begins, epoch s: 95 full quarters of an hour and the present one."""
    return now_ms // 1000 // QUARTER_S * QUARTER_S - 95 * QUARTER_S


class ListPlace(msgspec.Struct, frozen=True):
    """The position of a record in a list: the next page begins after it."""

    at_ms: int
    record: int


def place_of(after: ListPlace | None) -> tuple[int, int]:
    """Return the time and the number that the rows of a page come before."""
    return (after.at_ms, after.record) if after else (1 << 62, 1 << 62)


def _run_polls(
    destination: Destination | None,
    status: str,
    at_ms: int,
    events: list[answers.Event],
    now_ms: int,
    view: LaneView | None,
) -> answers.RunPolls | None:
    """Return the run that a record waits for; None if it waits for none. `at_ms`: its last step."""
    is_overdue = status in OVERDUE
    if destination is None or not (is_overdue or status in WAITING):
        return None
    accepted = next((event for event in reversed(events) if event.status == "accepted"), None)
    if accepted is None or not accepted.run:
        return answers.RunPolls("", 0, None)
    times = (accepted.run, accepted.at_ms, at_ms if is_overdue else None, destination, now_ms)
    return answers.RunPolls(
        accepted.run,
        polls_until(*times),
        next_poll_ms(*times),
        waits_for_rate=view is not None and view.runs is not None and view.runs.waits_for_rate,
    )


class FoundResultAt(msgspec.Struct, frozen=True):
    """A result and its position on `leads.enriched`."""

    partition: int
    offset: int
    result: answers.FoundResult


class _Held(threading.local):
    """The snapshot of a thread: what closes it, and its connection once a query has opened it."""

    stack: ExitStack | None = None
    db: sqlite3.Connection | None = None


class Queries:
    """Runs the queries.

    Every method may raise sqlite3.Error. `final`: the destinations that have no callbacks.
    `routines`: the destinations that are routines, by alias.
    """

    def __init__(
        self,
        path: Path,
        final: Set[str],
        routines: Mapping[str, Destination] = MappingProxyType({}),
    ) -> None:
        self._path = path
        self._routines = routines
        self._final = final
        self._final_json = msgspec.json.encode(sorted(final)).decode()
        self._held = _Held()

    @contextmanager
    def snapshot(self) -> Iterator[ExitStack]:
        """Let all queries of this thread see the same state.

        They open the file once, not each of them.

        A snapshot within another one is part of it. Yields what is closed at the end.
        """
        held = self._held
        if held.stack is not None:
            yield held.stack
            return
        with ExitStack() as stack:
            held.stack = stack
            try:
                yield stack
            finally:
                held.stack = None
                held.db = None

    def lead(self, lead_id: str, now_ms: int) -> answers.FoundLead | None:
        """Return a lead and its histories, without its results.

        `now_ms`: what its lane and its run wait for is that of this time, epoch ms.
        """
        sql = """SELECT id, workspace, destination, status, at_ms, trace_id FROM records
                 WHERE lead_id = ? ORDER BY at_ms DESC, id DESC LIMIT ?"""
        with self._reading() as db:
            # Counted apart: a window function would make SQLite keep all records of the lead to
            # give the newest.
            ((many,),) = self._all("SELECT count(*) FROM records WHERE lead_id = ?", lead_id)
            rows = self._all(sql, lead_id, MAX_HISTORIES)
            if not rows and not self.results(lead_id):
                return None
            numbers = record_numbers(db)
            pause = self.pause()
            histories = []
            for number, workspace, alias, status, at_ms, trace_id in rows:
                steps = events_of(db, number)
                name = self._column(status, alias)
                moves = name in MOVING or name == "parked"
                queued_ms = steps[0].queued_ms if steps else 0
                waited = waits(steps, moves=moves, queued_ms=queued_ms)
                view = None
                if waited and waited[-1].end_ms is None:
                    view = self.lane(workspace, now_ms)
                    if pause is not None and status in _COME_BACK:
                        waited[-1] = held_by_pause(waited[-1], pause)
                    elif view is not None:
                        waited[-1] = held_now(waited[-1], alias, view, now_ms)
                origin = numbers.record_id(number)
                histories.append(
                    answers.RecordHistory(
                        origin,
                        workspace,
                        alias,
                        status,
                        name,
                        at_ms,
                        trace_id,
                        steps,
                        waited,
                        _run_polls(self._routines.get(alias), status, at_ms, steps, now_ms, view),
                    ),
                )
            return answers.FoundLead(lead_id, histories, many, [])

    def lane(self, workspace: str, now_ms: int) -> LaneView | None:
        """Return one lane as it is at `now_ms`.

        None if it never published anything that this version can read.
        """
        rows = self._all("SELECT view FROM lanes WHERE workspace = ?", workspace)
        try:
            return _lane.decode(rows[0][0]).at(now_ms) if rows else None
        except UNREADABLE:
            return None

    def pause(self) -> ReplayPause | None:
        """Return an operator's pause of all replays, None if they run."""
        rows = self._all("SELECT value FROM facts WHERE name = 'pause'")
        return read_pause(rows[0][0].encode()) if rows else None

    def leads_of(self, person: str) -> list[str]:
        """Return the ids of the leads that count for a person's hash or were derived from it."""
        rows = self._all(
            "SELECT DISTINCT lead_ids FROM people WHERE person = ? LIMIT ?",
            person,
            _MAX_LEADS,
        )
        return sorted({lead_id for (ids,) in rows for lead_id in ids.split()} | {f"p-{person}"})

    def people_of(self, lead_id: str) -> list[str]:
        """Return the hashes of the person of a lead that counts. Empty if the person was erased."""
        # Few rows name several leads: those that turned out to be of one person. Without INDEXED
        # BY, SQLite would read all rows in the order of their key.
        sql = """SELECT person FROM people WHERE lead_ids = ?
                 UNION
                 SELECT person
                 FROM people INDEXED BY people_of_leads
                 WHERE instr(lead_ids, ' ') > 0
                 AND instr(' ' || lead_ids || ' ', ' ' || ? || ' ') > 0
                 LIMIT ?"""
        return sorted(person for (person,) in self._all(sql, lead_id, lead_id, MAX_IDENTIFIERS))

    def results(self, lead_id: str) -> list[FoundResultAt]:
        """Return the last result of a lead for each destination, without its data."""
        sql = """SELECT partition, offset,
                        workspace, destination, source, version, at_ms, NULL, NULL, ''
                 FROM results
                 WHERE lead_id = ?
                 ORDER BY workspace, destination
                 LIMIT ?"""
        return [
            FoundResultAt(partition, offset, answers.FoundResult(*about))
            for partition, offset, *about in self._all(sql, lead_id, _MAX_LEADS)
        ]

    def lanes(self, now_ms: int) -> tuple[list[LaneView], list[str]]:
        """Return all lanes as they are at `now_ms`.

        Returns:
            The lanes by name, and the workspaces of those that cannot be read.
        """
        lanes = []
        unreadable = []
        for workspace, raw in self._all("SELECT workspace, view FROM lanes ORDER BY workspace"):
            try:
                lanes.append(_lane.decode(raw).at(now_ms))
            except UNREADABLE:
                unreadable.append(workspace)
        return lanes, unreadable

    def account(self, now_ms: int, dlq: str, parked: str) -> answers.Account:
        """Return everything that is counted. `dlq`, `parked`: the names of these topics."""
        with self.snapshot():
            open_ones = self.dead_letters(dlq)
            parked_ones = self.dead_letters(parked)
            imports, _ = self.imports("", "", None, MAX_IMPORTS)
            counts = self.status_counts()
            ended = self.ended(now_ms)
            return answers.Account(
                counts,
                ended,
                open_ones,
                parked_ones,
                imports,
                self.days(),
                self.yields(now_ms),
            )

    def status_counts(self) -> list[answers.StatusCount]:
        """Return the number of leads by workspace, destination and status."""
        sql = """SELECT workspace, destination, status, leads FROM status_counts WHERE leads > 0
                 ORDER BY workspace, destination, status"""
        return [
            answers.StatusCount(workspace, alias, status, self._column(status, alias), leads)
            for workspace, alias, status, leads in self._all(sql)
        ]

    def positions(self) -> dict[tuple[str, int], Position]:
        """Return how far the owners have read the lead topics.

        Empty as long as there is no read model.
        """
        try:
            return positions_of(self.lanes(0)[0])  # positions are the same at any time
        except sqlite3.Error:
            return {}

    def records_in(self) -> int:
        """Return the number of records of leads, copies included."""
        return int(self._all("SELECT coalesce(sum(leads), 0) FROM records_in")[0][0])

    def ended(self, now_ms: int) -> dict[str, dict[str, int]]:
        """Return the leads that came to rest in the last day, by workspace ('': all) and status."""
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        sql = """SELECT workspace, status, sum(leads) FROM ended WHERE step_s = ? AND slot >= ?
                 GROUP BY 1, 2 HAVING sum(leads) > 0"""
        for workspace, status, leads in self._all(sql, QUARTER_S, last_day_s(now_ms)):
            counts[workspace][status] = leads
        return dict(counts)

    def days(self, workspace: str | None = None) -> list[answers.Day]:
        """Return the money of each day that is kept, by workspace and destination, newest first.

        `workspace`: only of this one, '' for the sum of all; None for each of them, and the sum.
        """
        return self._money(
            "slot, workspace, destination",
            "slot DESC, workspace, destination",
            workspace,
        )

    def _money(
        self,
        groups: str,
        order: str,
        workspace: str | None,
        since_s: int = 0,
        until_s: int = 1 << 62,
    ) -> list[answers.Day]:
        """Return the money of the days that begin in this time, summed up by these columns."""
        where = "step_s = ? AND slot >= ? AND slot < ?"
        values = list[object]([DAY_S, since_s, until_s])
        if workspace is not None:
            where = f"{where} AND workspace = ?"
            values = [*values, workspace]
        sql = f"""SELECT workspace, destination, min(slot),
                         sum(credits), sum(saved), sum(resent), sum(refused), sum(enriched),
                         sum(estimated)
                  FROM (
                      SELECT workspace, destination, slot,
                             credits, saved, resent, refused, 0 AS enriched, estimated
                      FROM history
                      WHERE {where}
                      UNION ALL
                      SELECT workspace, destination, slot, 0, 0, 0, 0, leads, 0
                      FROM ended
                      WHERE {where} AND status IN ({", ".join("?" * len(ENRICHED))})
                  )
                  GROUP BY {groups}
                  ORDER BY {order}"""
        return [answers.Day(*row) for row in self._all(sql, *values, *values, *ENRICHED)]

    def yields(self, now_ms: int, workspace: str | None = None) -> list[answers.ColumnYield]:
        """Return what Clay has found of late, by workspace, destination and column.

        `workspace`: only of this one; None for all.
        """
        where = "step_s = ? AND slot >= ? AND slot < ?"
        mine = [] if workspace is None else [workspace]
        sql = f"""SELECT workspace, destination, name, sum(answered), sum(filled), sum(credits)
                  FROM yields
                  WHERE {where}{" AND workspace = ?" if mine else ""}
                  GROUP BY 1, 2, 3
                  HAVING sum(answered) > 0"""
        counts: defaultdict[tuple[str, str, str], dict[YieldWindow, answers.Yield]] = defaultdict(
            dict,
        )
        with self.snapshot():
            for window, span in yield_windows(now_ms).items():
                for *place, answered, filled, credits_ in self._all(sql, *span, *mine):
                    name = (place[0], place[1], place[2])
                    counts[name][window] = answers.yield_of(answered, filled, credits_)
        return [
            answers.ColumnYield(
                *name,
                hour=windows.get("hour", answers.NO_YIELD),
                day=windows.get("day", answers.NO_YIELD),
                before=windows.get("before", answers.NO_YIELD),
            )
            for name, windows in sorted(counts.items())
        ]

    def bills(
        self,
        workspaces: Collection[str] | None = None,
        since_s: int = 0,
    ) -> list[answers.Bill]:
        """Return Clay's balances against the books, by workspace.

        Args:
            workspaces: Only of these; None for all.
            since_s: No reading of an earlier hour, epoch s.
        """
        mine = [] if workspaces is None else [msgspec.json.encode(list(workspaces)).decode()]
        only = "AND workspace IN (SELECT value FROM json_each(?))" if mine else ""
        kept = f"""SELECT workspace, reading
                   FROM readings
                   WHERE hour >= ? {only}
                   ORDER BY workspace, hour"""
        readings: defaultdict[str, list[Reading]] = defaultdict(list)
        with self.snapshot():
            for workspace, raw in self._all(kept, hour_of(since_s), *mine):
                readings[workspace].append(_reading.decode(raw))
            for workspace, raw in self._all(
                f"SELECT workspace, view FROM lanes WHERE true {only}",
                *mine,
            ):
                with suppress(*UNREADABLE):
                    last = _lane.decode(raw).reading
                    if last is not None and [last] != readings[workspace][-1:]:
                        readings[workspace].append(last)
        return [
            answers.Bill(name, of[-1].at_ms, of[-1].credits, billed_days(of))
            for name, of in sorted(readings.items())
            if of
        ]

    def imports(
        self,
        workspace: str,
        import_id: str,
        after: ListPlace | None,
        limit: int,
    ) -> tuple[list[answers.FoundImport], ListPlace | None]:
        """Return the imports, newest first, and the place of the last one if there are more.

        `workspace` and `import_id`: only those; '' for all. `after`: the place of the last one of
        the page before.
        """
        where = ["(first_ms, id) < (?, ?)"]
        values = list[object](place_of(after))
        for name, value in (("workspace", workspace), ("name", import_id)):
            if value:
                where = [*where, f"{name} = ?"]
                values = [*values, value]
        with self._reading() as db:
            rows = db.execute(
                f"""SELECT id, arrived,
                           (SELECT leads FROM import_records WHERE import = id),
                           name, workspace, first_ms, last_ms, who, file, rows, refused,
                           leads, credits
                    FROM imports
                    WHERE {" AND ".join(where)}
                    ORDER BY first_ms DESC, id DESC
                    LIMIT ?""",
                (*values, limit + 1),
            ).fetchall()
            imports: list[answers.FoundImport] = []
            last: ListPlace | None = None
            counts = """SELECT destination, status, leads
                        FROM import_counts
                        WHERE import = ? AND leads > 0"""
            of_columns = """SELECT destination, name, answered, filled, credits
                            FROM import_yields
                            WHERE import = ? AND answered > 0"""
            for number, arrived, records, *facts, published, credits_ in rows[:limit]:
                columns: Counter[str] = Counter()
                for destination, status, leads in db.execute(counts, (number,)):
                    columns[self._column(status, destination)] += leads
                yields = [
                    answers.ImportYield(destination, name, answers.yield_of(*counted))
                    for destination, name, *counted in db.execute(of_columns, (number,))
                ]
                # Retention may have deleted the record of which a counted one is the copy.
                if (repeats := max(0, (records or 0) - columns.total())) > 0:
                    columns["duplicate"] += repeats
                if (waiting := (published or 0) - arrived) > 0:
                    columns["waiting"] = waiting
                name, of, first_ms, last_ms, who, file, file_rows, refused = facts
                last = ListPlace(first_ms, number)
                imports.append(
                    answers.FoundImport(
                        import_id=name,
                        workspace=of,
                        first_ms=first_ms,
                        last_ms=last_ms,
                        who=who,
                        file=file,
                        rows=file_rows,
                        refused=refused,
                        published=published,
                        columns=dict(columns),
                        credits=credits_,
                        yields=yields,
                        repeats=repeats,
                    ),
                )
            return imports, last if len(rows) > limit else None

    def dead_letters(self, topic: str, workspace: str | None = None) -> answers.DeadLetters:
        """Return the dead letters of a topic by cause: of one workspace, or of all for None."""
        return self.causes_after(topic, workspace, 0, MAX_CAUSES)[0]

    def causes_after(
        self,
        topic: str,
        workspace: str | None,
        rank: int,
        limit: int,
    ) -> tuple[answers.DeadLetters, int]:
        """Return the dead letters of a topic with its causes after the first `rank`.

        All causes of the topic are sorted anyhow, so a page deep inside costs what the first one
        costs.

        Returns:
            The dead letters, and how many causes there are.
        """
        if workspace:
            where = "topic = ? AND workspace = ?"
            values = [topic, workspace]
        else:
            where = "topic = ?"
            values = [topic]
        with self._reading() as db:
            total = ", ".join(f"coalesce(sum({state}), 0)" for state in STATES)
            many, *sums = db.execute(
                f"SELECT count(*), {total} FROM causes WHERE {where}",
                values,
            ).fetchone()
            rows = db.execute(
                f"""SELECT kind, workspace, destination, reason, http_status, first_ms, last_ms,
                           {", ".join(STATES)}
                    FROM causes
                    WHERE {where}
                    ORDER BY open DESC,
                             {" + ".join(STATES)} DESC,
                             kind, workspace, reason, http_status, destination
                    LIMIT ? OFFSET ?""",
                (*values, limit, rank),
            )
            causes = [
                answers.Cause(*row[:7], **dict(zip(STATES, row[7:], strict=True))) for row in rows
            ]
            return answers.DeadLetters(causes, **dict(zip(STATES, sums, strict=True))), many

    def _all(self, sql: str, *values: object) -> list[Any]:
        """Return the rows of one statement."""
        with self._reading() as db:
            return db.execute(sql, values).fetchall()

    def _column(self, status: str, destination: str) -> str:
        return column(status, final=destination in self._final)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the read transaction of the snapshot."""
        with self.snapshot() as stack:
            if self._held.db is None:
                where = f"file:{quote(str(self._path))}?mode=ro"
                db = sqlite3.connect(where, uri=True, isolation_level=None, timeout=_BUSY_S)
                stack.enter_context(closing(db))
                db.execute("BEGIN")
                self._held.db = db
            yield self._held.db
