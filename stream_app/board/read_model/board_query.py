"""The queries of the board: lists in pages, and what happened over time. No query grows with the number of leads.

Lists are read by key: a page begins after the last row of the page before, so page 1,000 costs what page 1 costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from stream_app.board.read_model.dead_letter_query import DeadLetterQueries
from stream_app.board.read_model.history import DAY_S
from stream_app.board.read_model.record_query import RecordQueries
from stream_app.client.answers import StatusCount
from stream_app.domain.books.columns import column
from stream_app.domain.dead_letter.orders import ReplayProgress
from stream_app.domain.lane_messages import LaneChange, LaneView

_ORDER: Final = "at_ms, partition, offset, id, kind, workspace, who, why, applied, reason, text, asked_at_ms, under_way"
"""The columns of an `Order`."""
_replay: Final = msgspec.json.Decoder(ReplayProgress)
_lane: Final = msgspec.json.Decoder(LaneView)


class Slot(msgspec.Struct, frozen=True):
    """The events of one status in one slot of time. `at_s`: its begin."""

    at_s: int
    status: str
    events: int
    credits: int


class Money(msgspec.Struct, frozen=True):
    """A day that begins at `at_s`: credits saved, and leads sent again although they may have reached Clay."""

    at_s: int
    saved: int
    resent: int


class Mark(msgspec.Struct, frozen=True):
    """The worst health and latency of a lane in five minutes."""

    at_s: int
    score: float
    p95_ms: int


class DatedChange(msgspec.Struct, frozen=True):
    """A change of a lane and when it was published."""

    at_ms: int
    change: LaneChange


class Order(msgspec.Struct, frozen=True):
    """A command and its answer. `place`: its position in the list."""

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


class NotReadable(msgspec.Struct, frozen=True):
    """Records of a topic that this version could not read. `last`: the position of the last one, at `last_ms`."""

    topic: str
    records: int
    last: str
    last_ms: int


class BoardQueries(RecordQueries, DeadLetterQueries):
    """Runs the queries. Every method may raise sqlite3.Error."""

    def lane(self, workspace: str) -> LaneView | None:
        """Return one lane; None if it never published anything that this version can read."""
        with self._reading() as db:
            found = db.execute("SELECT view FROM lanes WHERE workspace = ?", (workspace,)).fetchone()
        try:
            return None if found is None else _lane.decode(found[0])
        except msgspec.DecodeError:
            return None

    def has_lane(self, workspace: str) -> bool:
        """True if a lane was published, even if this version cannot read it."""
        with self._reading() as db:
            return db.execute("SELECT 1 FROM lanes WHERE workspace = ?", (workspace,)).fetchone() is not None

    def history(self, workspaces: Iterable[str], step_s: int, since_s: int) -> dict[str, list[Slot]]:
        """Return the events per slot, by workspace ('' is the sum of all), oldest first.

        `step_s` is a key of `history.KEPT_S`, `since_s` the begin of the first slot, epoch s.
        """
        sql = """SELECT slot, status, events, credits FROM history
                 WHERE workspace = ? AND step_s = ? AND slot >= ? ORDER BY slot"""
        with self._reading() as db:
            return {name: [Slot(*row) for row in db.execute(sql, (name, step_s, since_s))] for name in workspaces}

    def money(self) -> list[Money]:
        """Return what was saved and sent again on each day that is kept, newest first. Other days are absent."""
        sql = """SELECT slot, sum(saved), sum(resent) FROM history WHERE workspace = '' AND step_s = ?
                 GROUP BY slot HAVING sum(saved) > 0 OR sum(resent) > 0 ORDER BY slot DESC"""
        with self._reading() as db:
            return [Money(*row) for row in db.execute(sql, (DAY_S,))]

    def marks(self, workspace: str) -> list[Mark]:
        """Return the health of a lane over the last day, oldest first."""
        with self._reading() as db:
            found = db.execute(
                "SELECT slot, score, p95_ms FROM lane_marks WHERE workspace = ? ORDER BY slot", [workspace]
            )
            return [Mark(*row) for row in found]

    def lane_changes(self, workspace: str) -> list[DatedChange]:
        """Return the changes of a lane, newest first."""
        sql = "SELECT at_ms, kind, text FROM lane_changes WHERE workspace = ? ORDER BY at_ms DESC, number DESC"
        with self._reading() as db:
            return [DatedChange(at_ms, LaneChange(kind, text)) for at_ms, kind, text in db.execute(sql, (workspace,))]

    def status_sums(self, workspace: str | None) -> list[StatusCount]:
        """Return the records by status and column: of a workspace, of those that name none (''), or of all (None)."""
        mine, values = ("", []) if workspace is None else ("AND workspace = ?", [workspace])
        sql = f"""SELECT status, status = 'accepted' AND destination IN (SELECT value FROM json_each(?)), sum(records)
                  FROM status_counts WHERE records > 0 {mine} GROUP BY 1, 2 ORDER BY 3 DESC"""
        with self._reading() as db:
            rows = db.execute(sql, (self._final_json, *values)).fetchall()
        return [StatusCount(workspace or "", "", name, column(name, final=final), many) for name, final, many in rows]

    def import_counts(self, workspace: str, import_id: str) -> tuple[int, list[StatusCount]]:
        """Return the number of an import (0: unknown), and its records by destination and status."""
        with self._reading() as db:
            found = db.execute("SELECT id FROM imports WHERE name = ? AND workspace = ?", (import_id, workspace))
            (number,) = found.fetchone() or (0,)
            rows = db.execute(
                """SELECT destination, status, records FROM import_counts WHERE import = ? AND records > 0
                   ORDER BY destination, status""",
                (number,),
            )
            return number, [
                StatusCount(workspace, alias, status, self._column(status, alias), records)
                for alias, status, records in rows
            ]

    def audit(self, workspace: str, after: tuple[int, int, int] | None, limit: int) -> list[Order]:
        """Return the answers to commands, newest first. `workspace`: '' for all; `after`: the last one before."""
        at_ms, partition, offset = after or (1 << 62, 0, 0)
        mine, values = ("workspace = ? AND ", [workspace]) if workspace else ("", [])
        with self._reading() as db:
            rows = db.execute(
                f"""SELECT {_ORDER} FROM audit WHERE {mine}(at_ms, partition, offset) < (?, ?, ?)
                    ORDER BY at_ms DESC, partition DESC, offset DESC LIMIT ?""",
                (*values, at_ms, partition, offset, limit),
            )
            return _orders(rows)

    def answers(self, command_id: str) -> list[Order]:
        """Return the answers to one command, oldest first. A command to every partition has several."""
        with self._reading() as db:
            sql = f"SELECT {_ORDER} FROM audit WHERE id = ? ORDER BY at_ms, partition, offset"
            return _orders(db.execute(sql, (command_id,)))

    def replays(self, limit: int) -> list[ReplayProgress]:
        """Return the replays that operators ordered, the newest first."""
        with self._reading() as db:
            found = db.execute("SELECT progress FROM replays ORDER BY at_ms DESC LIMIT ?", (limit,))
            return [_replay.decode(progress) for (progress,) in found]

    def replay(self, replay: str) -> ReplayProgress | None:
        """Return one replay; None if it is not known."""
        with self._reading() as db:
            found = db.execute("SELECT progress FROM replays WHERE id = ?", (replay,)).fetchone()
        return None if found is None else _replay.decode(found[0])

    def unreadable(self) -> list[NotReadable]:
        """Return how many records this version could not read, by topic."""
        with self._reading() as db:
            found = db.execute("SELECT topic, records, last, last_ms FROM unreadable ORDER BY topic")
            return [NotReadable(*row) for row in found]

    def size_bytes(self) -> int:
        with self._reading() as db:
            return int(
                db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
            )


def _orders(rows: Iterable[tuple[Any, ...]]) -> list[Order]:
    return [Order((at_ms, partition, offset), at_ms, *rest) for at_ms, partition, offset, *rest in rows]
