"""The queries of the board: lists in pages, what happened over time.

No query grows with the number of leads.

Lists are read by key: a page begins after the last row of the page before, so page 1,000 costs what
page 1 costs.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, Literal

import msgspec

from stream_app.board.read_model.history import DAY_S
from stream_app.board.read_model.project import SAME_CAUSE, record_numbers
from stream_app.board.read_model.query import ListPlace, Queries, place_of
from stream_app.client.results.answers import Cause, Day, StatusCount
from stream_app.domain.books.records import STATES, DeadLetterState, column
from stream_app.domain.dead_letter.orders import ReplayProgress
from stream_app.domain.views.lane import LaneChange

_SELECT: Final = "SELECT at_ms, id, lead_id, workspace, destination, status FROM records"
_IMPORTED: Final = "imported > 0 AND of_import"
_ORDER: Final = (
    "at_ms, partition, offset, id, kind, workspace, who, why, applied, reason, text, "
    "asked_at_ms, under_way"
)
"""The columns of an `Order`."""
_replay: Final = msgspec.json.Decoder(ReplayProgress)


class RecordRow(msgspec.Struct, frozen=True):
    """One record in the list."""

    place: ListPlace
    lead_id: str
    workspace: str
    destination: str
    status: str
    origin: str


class DeadLetterRow(msgspec.Struct, frozen=True):
    """One dead letter in the list of its cause.

    Attributes:
        place: Its position in the list.
        record: Its position on Kafka.
        origin: The position of the record that it came from; '' if it is unknown.
        lead_id: The lead; '' if none is known, as `status`, the lead's status of now.
        state: What has become of it.
    """

    place: ListPlace
    record: str
    origin: str
    lead_id: str
    status: str
    state: DeadLetterState


class Slot(msgspec.Struct, frozen=True):
    """The leads that came to rest with one status in one slot of time, or its credits.

    Attributes:
        at_s: The begin of the slot, in epoch s.
    """

    at_s: int
    leads: int = 0
    status: str = ""
    credits: int = 0


class Mark(msgspec.Struct, frozen=True):
    """The worst health and latency of a lane in five minutes."""

    at_s: int
    score: float
    p95_ms: int


class DatedChange(msgspec.Struct, frozen=True):
    """A change of a lane and when it was published."""

    at_ms: int
    change: LaneChange


class AnsweredCommand(msgspec.Struct, frozen=True):
    """A command and its answer.

    Attributes:
        place: Its position in the list.
    """

    place: tuple[int, int, int]
    at_ms: int
    id: str
    kind: str
    workspace: str
    who: str
    why: str
    applied: bool
    reason: str
    text: str
    asked_at_ms: int
    under_way: int


class CommandFilter(msgspec.Struct, frozen=True):
    """Which commands to list. '' stands for any.

    Attributes:
        day: A day in UTC, such as 2026-11-29. A text that is no day counts as ''.
    """

    workspace: str = ""
    who: str = ""
    kind: str = ""
    day: str = ""

    @property
    def begin_ms(self) -> int | None:
        """When the day begins, epoch ms."""
        try:
            return int(
                datetime.strptime(self.day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000,
            )
        except ValueError:
            return None


class NotReadable(msgspec.Struct, frozen=True):
    """Records of a topic that this version could not read.

    Attributes:
        last: The position of the last one.
        last_ms: When it was appended, in epoch ms.
    """

    topic: str
    records: int
    last: str
    last_ms: int


class BoardQueries(Queries):
    """Runs the queries. Every method may raise sqlite3.Error."""

    def records(
        self,
        workspace: str | None,
        statuses: Collection[str],
        after: ListPlace | None,
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
            final: True: `accepted` only of destinations without callbacks; False: only of the
                others; None: of all.
            imported: Only of the import with this number; 0 for all. Its workspace is that of the
                import then.
        """
        at_ms, record = place_of(after)
        counts = _IMPORTED if imported else "counts"
        rows: list[Any] = []
        groups: list[tuple[int, str, tuple[object, ...]]] = []
        with self.snapshot():
            if imported:
                wanted = self._groups_of_import(imported, statuses, final)
            else:
                wanted = self._groups(workspace, statuses, final)
            for group in wanted:
                where = (
                    f"{' AND '.join(f'{name} = ?' for name in group)} AND {counts} AND at_ms <= ?"
                )
                values = (*group.values(), at_ms)
                ((newest,),) = self._all(f"SELECT max(at_ms) FROM records WHERE {where}", *values)
                if newest is not None:
                    groups.append((newest, where, values))
            # Only the groups with the newest records can be on this page.
            for newest, where, values in sorted(groups, key=itemgetter(0), reverse=True):
                if len(rows) >= limit and newest < rows[limit - 1][0]:
                    break
                sql = (
                    f"{_SELECT} WHERE {where} AND (at_ms < ? OR id < ?) "
                    "ORDER BY at_ms DESC, id DESC LIMIT ?"
                )
                rows += self._all(sql, *values, at_ms, record, limit)
                rows.sort(reverse=True)
            return self._rows(rows[:limit])

    def _groups(
        self,
        workspace: str | None,
        statuses: Collection[str],
        final: bool | None,
    ) -> Iterator[dict[str, Any]]:
        """Yield groups of records, whose records are in the order of an index.

        A group is a status, or where only some of its records are wanted, a status of one
        destination.
        """
        where = "leads > 0"
        values = list[str]()
        if workspace is not None:
            where = f"{where} AND workspace = ?"
            values = [*values, workspace]
        if statuses:
            where = f"{where} AND status IN ({', '.join('?' * len(statuses))})"
            values = [*values, *statuses]
        by_destination = "FALSE" if workspace is None else "TRUE"
        if final is not None and self._final:
            is_final = "destination IN (SELECT value FROM json_each(?))"
            where = f"{where} AND (status <> 'accepted' OR ({is_final}) = {final})"
            values = [*values, self._final_json]
            by_destination = f"({by_destination} OR status = 'accepted')"
        for names, condition in (
            (("status",), f"NOT {by_destination}"),
            (("workspace", "status", "destination"), by_destination),
        ):
            sql = (
                f"SELECT DISTINCT {', '.join(names)} FROM status_counts "
                f"WHERE {where} AND {condition}"
            )
            for row in self._all(sql, *values):
                yield dict(zip(names, row, strict=True))

    def _groups_of_import(
        self,
        imported: int,
        statuses: Collection[str],
        final: bool | None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the groups of `_groups` for one import: its statuses by destination."""
        sql = "SELECT status, destination FROM import_counts WHERE import = ? AND leads > 0"
        for status, alias in self._all(sql, imported):
            is_wanted = not statuses or status in statuses
            if is_wanted and (status != "accepted" or final in (None, alias in self._final)):
                yield {"imported": imported, "status": status, "destination": alias}

    def records_of_lead(
        self,
        lead_id: str,
        after: ListPlace | None,
        limit: int,
    ) -> tuple[int, list[RecordRow]]:
        """Return how many records a lead has, and those after a place, newest first."""
        sql = (
            f"{_SELECT} WHERE lead_id = ? AND (at_ms, id) < (?, ?) "
            "ORDER BY at_ms DESC, id DESC LIMIT ?"
        )
        with self.snapshot():
            ((many,),) = self._all("SELECT count(*) FROM records WHERE lead_id = ?", lead_id)
            return many, self._rows(self._all(sql, lead_id, *place_of(after), limit))

    def now_of(self, lead_ids: Iterable[str]) -> list[RecordRow]:
        """Return the record that counts for each lead, or else its newest; the newest first."""
        sql = (
            f"{_SELECT} WHERE lead_id = ? "
            "ORDER BY rank > 0 AND counts DESC, at_ms DESC, id DESC LIMIT 1"
        )
        with self.snapshot():
            rows = [row for lead_id in lead_ids for row in self._all(sql, lead_id)]
            return self._rows(sorted(rows, reverse=True))

    def resent(self, day_s: int | None, after: ListPlace | None, limit: int) -> list[RecordRow]:
        """Return the records that were sent again though they may have reached Clay, newest first.

        A record without an event that is kept has no lead id, workspace and status.

        Args:
            day_s: The begin of the only day to look at, in epoch s; None for all days.
            after: The place after which the list begins.
            limit: How many records to return at most.
        """
        if day_s is None:
            begin_ms = 0
            end_ms = 1 << 62
        else:
            begin_ms = day_s * 1000
            end_ms = (day_s + DAY_S) * 1000
        sql = """SELECT s.at_ms, s.record,
                        coalesce(lead_id, ''), coalesce(workspace, ''),
                        coalesce(destination, ''), coalesce(status, '')
                 FROM resent AS s
                 LEFT JOIN records ON id = s.record
                 WHERE s.at_ms >= ? AND s.at_ms < ? AND (s.at_ms, s.record) < (?, ?)
                 ORDER BY s.at_ms DESC, s.record DESC
                 LIMIT ?"""
        with self.snapshot():
            return self._rows(self._all(sql, begin_ms, end_ms, *place_of(after), limit))

    def dead_letter_hours(
        self,
        topic: str,
        causes: Iterable[Cause],
        since_s: int,
    ) -> list[list[tuple[int, int]]]:
        """Return (epoch s, dead letters) of each hour with dead letters, for each cause."""
        sql = f"""SELECT hour * 3600, letters
                  FROM dead_letter_hours
                  WHERE cause = (SELECT id FROM causes WHERE {SAME_CAUSE})
                  AND hour BETWEEN ? AND ?
                  ORDER BY hour"""
        hours = since_s // 3_600, since_s // 3_600 + 25
        with self.snapshot():
            return [self._all(sql, *_words(topic, cause), *hours) for cause in causes]

    def cause(self, topic: str, cause: Cause) -> Cause | None:
        """Return a cause with its number of dead letters. None if it has none."""
        names = ("first_ms", "last_ms", *STATES)
        rows = self._all(
            f"SELECT {', '.join(names)} FROM causes WHERE {SAME_CAUSE}",
            *_words(topic, cause),
        )
        return (
            msgspec.structs.replace(cause, **dict(zip(names, rows[0], strict=True)))
            if rows
            else None
        )

    def dead_letters_of(
        self,
        topic: str,
        cause: Cause,
        since_ms: int,
        after: ListPlace | None,
        limit: int,
        state: DeadLetterState | None,
    ) -> list[DeadLetterRow]:
        """Return the dead letters of a cause, newest first.

        Args:
            topic: The topic that they are on.
            cause: Their cause.
            since_ms: When they were appended at the earliest, in epoch ms.
            after: The place after which the list begins.
            limit: How many dead letters to return at most.
            state: The only state to list; None for all.
        """
        wanted = "" if state is None else f"AND state = {STATES.index(state)}"
        # What a dead letter is about now: its copy, or else its record; and of that lead the record
        # that counts.
        sql = f"""SELECT d.at_ms, d.id, d.origin, d.state, coalesce(r.lead_id, ''), coalesce((
                      SELECT status
                      FROM records AS c
                      WHERE c.lead_id = r.lead_id
                      AND c.counts + c.of_import > 0
                      AND c.counts
                      AND c.rank > 0
                      AND r.workspace IN ('', c.workspace)
                      AND r.destination IN ('', c.destination)
                      ORDER BY c.rank DESC, c.took DESC
                      LIMIT 1
                  ), r.status, '')
                  FROM letters AS d
                  LEFT JOIN records AS r ON r.id = coalesce((
                      SELECT id
                      FROM records
                      WHERE letter > 0 AND letter = d.id
                      ORDER BY rank DESC, took DESC
                      LIMIT 1
                  ), d.origin)
                  WHERE d.cause = (SELECT id FROM causes WHERE {SAME_CAUSE}) {wanted}
                  AND d.at_ms >= ? AND (d.at_ms, d.id) < (?, ?)
                  ORDER BY d.at_ms DESC, d.id DESC
                  LIMIT ?"""
        with self._reading() as db:
            rows = self._all(sql, *_words(topic, cause), since_ms, *place_of(after), limit)
            name = record_numbers(db).record_id
        return [
            DeadLetterRow(
                ListPlace(at, number),
                name(number),
                name(origin) if origin else "",
                lead,
                status,
                STATES[state],
            )
            for at, number, origin, state, lead, status in rows
        ]

    def has_lane(self, workspace: str) -> bool:
        """True if a lane was published, even if this version cannot read it."""
        return bool(self._all("SELECT 1 FROM lanes WHERE workspace = ?", workspace))

    def credits(
        self,
        workspaces: Iterable[str],
        step_s: int,
        since_s: int,
    ) -> dict[str, list[Slot]]:
        """Return the credits per slot, by workspace ('' is the sum of all), oldest first.

        `step_s` is a key of `history.KEPT_S`, `since_s` the begin of the first slot, epoch s.
        """
        sql = """SELECT slot, 0, '', sum(credits) FROM history
                 WHERE workspace = ? AND step_s = ? AND slot >= ? GROUP BY slot"""
        return self._slots(sql, workspaces, step_s, since_s)

    def came_to_rest(
        self,
        workspaces: Iterable[str],
        step_s: int,
        since_s: int,
    ) -> dict[str, list[Slot]]:
        """Return the leads that came to rest per slot and status.

        The arguments are those of `credits`.
        """
        sql = """SELECT slot, leads, status FROM ended
                 WHERE workspace = ? AND step_s = ? AND slot >= ? AND leads > 0 ORDER BY slot"""
        return self._slots(sql, workspaces, step_s, since_s)

    def _slots(
        self,
        sql: str,
        workspaces: Iterable[str],
        step_s: int,
        since_s: int,
    ) -> dict[str, list[Slot]]:
        with self.snapshot():
            return {
                name: [Slot(*row) for row in self._all(sql, name, step_s, since_s)]
                for name in workspaces
            }

    def lanes_money(self, workspace: str | None, since_s: int, until_s: int) -> list[Day]:
        """Return the money of days by workspace and destination, the most credits first.

        `workspace`: as in `days`.
        """
        order = "sum(credits) DESC, workspace, destination"
        rows = self._money("workspace, destination", order, workspace, since_s, until_s)
        return [row for row in rows if row.workspace]

    def marks(self, workspace: str) -> list[Mark]:
        """Return the health of a lane over the last day, oldest first."""
        sql = "SELECT slot, score, p95_ms FROM lane_marks WHERE workspace = ? ORDER BY slot"
        return [Mark(*row) for row in self._all(sql, workspace)]

    def lane_changes(self, workspace: str) -> list[DatedChange]:
        """Return the changes of a lane, newest first.

        Only the first `MAX_CHANGES` are without a gap.
        """
        sql = """SELECT at_ms, kind, text, reason
                 FROM lane_changes
                 WHERE workspace = ?
                 ORDER BY at_ms DESC, number DESC"""
        return [
            DatedChange(at_ms, LaneChange(*change)) for at_ms, *change in self._all(sql, workspace)
        ]

    def status_sums(self, workspace: str | None) -> list[StatusCount]:
        """Return the number of records by status and column.

        `workspace` is '' for the records that name none, and None for all records.
        """
        if workspace is None:
            mine = ""
            values = []
        else:
            mine = "AND workspace = ?"
            values = [workspace]
        sql = f"""SELECT status,
                         status = 'accepted' AND destination IN (SELECT value FROM json_each(?)),
                         sum(leads)
                  FROM status_counts
                  WHERE leads > 0 {mine}
                  GROUP BY 1, 2
                  ORDER BY 3 DESC"""
        rows = self._all(sql, self._final_json, *values)
        return [
            StatusCount(workspace or "", "", name, column(name, final=final), many)
            for name, final, many in rows
        ]

    def import_counts(self, workspace: str, import_id: str) -> tuple[int, list[StatusCount]]:
        """Return an import's number (0: unknown), and its records by destination and status."""
        sql = """SELECT id, destination, status, c.leads
                 FROM imports
                 LEFT JOIN import_counts AS c ON import = id
                 WHERE name = ? AND workspace = ?
                 ORDER BY destination, status"""
        rows = self._all(sql, import_id, workspace)
        return rows[0][0] if rows else 0, [
            StatusCount(workspace, alias, status, self._column(status, alias), leads)
            for _, alias, status, leads in rows
            if leads and leads > 0  # None: an import without any
        ]

    def commands(
        self,
        wanted: CommandFilter,
        after: tuple[int, str],
        limit: int,
    ) -> list[tuple[int, str]]:
        """Return the last answer to each command that is wanted, newest first, after one of them.

        Returns:
            Its time in epoch ms, and the id of the command.
        """
        begin_ms = wanted.begin_ms or 0
        where = "at_ms >= ? AND at_ms < ?"
        values = [begin_ms, (begin_ms + DAY_S * 1000) if begin_ms else 1 << 62]
        for name in ("workspace", "who", "kind"):
            if word := getattr(wanted, name):
                where = f"{where} AND {name} = ?"
                values = [*values, word]
        sql = f"""SELECT at_ms, id
                  FROM audit AS last
                  WHERE {where}
                  AND (at_ms, id) < (?, ?)
                  AND NOT EXISTS (
                      SELECT 1
                      FROM audit
                      WHERE id = last.id
                      AND {where}
                      AND (at_ms, partition, offset) > (last.at_ms, last.partition, last.offset)
                  )
                  ORDER BY at_ms DESC, id DESC
                  LIMIT ?"""
        return self._all(sql, *values, *after, *values, limit)

    def words_of_commands(self, name: Literal["kind", "who"]) -> list[str]:
        """Return the kinds of the kept commands, or the people who gave them; the first 100."""
        sql = f"""WITH RECURSIVE each(word) AS (
                      SELECT min({name}) FROM audit WHERE {name} > ''
                      UNION ALL
                      SELECT (SELECT min({name}) FROM audit WHERE {name} > word)
                      FROM each
                      WHERE word IS NOT NULL
                  )
                  SELECT word FROM each WHERE word IS NOT NULL LIMIT 100"""
        return [word for (word,) in self._all(sql)]

    def answers(self, command_id: str) -> list[AnsweredCommand]:
        """Return the answers to one command, oldest first.

        A command to every partition has several.
        """
        rows = self._all(
            f"SELECT {_ORDER} FROM audit WHERE id = ? ORDER BY at_ms, partition, offset",
            command_id,
        )
        return [
            AnsweredCommand((at_ms, partition, offset), at_ms, *rest)
            for at_ms, partition, offset, *rest in rows
        ]

    def replays(self, limit: int) -> list[ReplayProgress]:
        """Return the replays that operators ordered, the newest first."""
        rows = self._all("SELECT progress FROM replays ORDER BY at_ms DESC LIMIT ?", limit)
        return [_replay.decode(progress) for (progress,) in rows]

    def replay(self, replay: str) -> ReplayProgress | None:
        """Return one replay; None if it is not known."""
        rows = self._all("SELECT progress FROM replays WHERE id = ?", replay)
        return _replay.decode(rows[0][0]) if rows else None

    def unreadable(self) -> list[NotReadable]:
        """Return how many records this version could not read, by topic."""
        rows = self._all("SELECT topic, records, last, last_ms FROM unreadable ORDER BY topic")
        return [NotReadable(*row) for row in rows]

    def _rows(self, rows: list[Any]) -> list[RecordRow]:
        with self._reading() as db:
            numbers = record_numbers(db)
        return [
            RecordRow(
                ListPlace(at_ms, number),
                lead_id,
                name,
                alias,
                status,
                numbers.record_id(number),
            )
            for at_ms, number, lead_id, name, alias, status in rows
        ]

    def size_bytes(self) -> int:
        return int(
            self._all("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")[0][
                0
            ],
        )


def _words(topic: str, cause: Cause) -> tuple[str, ...]:
    return topic, cause.kind, cause.workspace, cause.reason, cause.http_status, cause.destination
