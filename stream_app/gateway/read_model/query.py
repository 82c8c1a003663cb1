"""The questions to the read model. Each is asked on a connection of its own, so any thread may ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from stream_app.domain.books.columns import COLUMN, NOT_LEADS, column
from stream_app.domain.messages import LaneView
from stream_app.gateway.lookup_answers import Cause, Event, FoundLead, FoundResult, Letters, StatusCount, Story
from stream_app.gateway.read_model.project import place_of

MOST_STORIES: Final = 100
MOST_CAUSES: Final = 200
_MOST_LEADS: Final = 100
_BUSY_S: Final = 2.0

_lane: Final = msgspec.json.Decoder(LaneView)


class FoundPlace(msgspec.Struct, frozen=True):
    """A result, and where it stands on `leads.enriched`."""

    partition: int
    offset: int
    result: FoundResult


class Queries:
    """`final`: aliases of the destinations that have no callbacks. Everything may raise sqlite3.Error."""

    def __init__(self, path: Path, final: Set[str]) -> None:
        self._path = path
        self._final = final

    def lead(self, lead_id: str) -> FoundLead | None:
        """A lead and its stories, without its results."""
        with self._reading() as db:
            rows = db.execute(
                """SELECT id, workspace, destination, status, at_ms, trace_id FROM stories WHERE lead_id = ?
                   ORDER BY at_ms DESC, id DESC LIMIT ?""",
                (lead_id, MOST_STORIES),
            ).fetchall()
            count = db.execute("SELECT count(*) FROM stories WHERE lead_id = ?", (lead_id,)).fetchone()[0]
            known = db.execute("SELECT 1 FROM results WHERE lead_id = ? LIMIT 1", (lead_id,)).fetchone()
            if not rows and not known:
                return None
            return FoundLead(lead_id, [self._story(db, *row) for row in rows], count, [])

    def is_forgotten(self, workspace: str, lead_id: str, since_ms: int) -> bool:
        """Whether this lead was erased, and was not sent in a story that began after its erasure.

        Args:
            workspace: The lead's workspace.
            lead_id: The lead's id, as in rows and events.
            since_ms: An erasure before that time does not count: stories may have been swept since. Epoch ms.
        """
        with self._reading() as db:
            found = db.execute(
                "SELECT until_ms FROM erased WHERE lead_id = ? AND workspace = ? AND until_ms >= ?",
                (lead_id, workspace, since_ms),
            ).fetchone()
            if found is None:
                return False
            began_later = db.execute(
                """SELECT 1 FROM stories JOIN events ON events.story = stories.id
                   WHERE stories.lead_id = ? AND stories.workspace = ? GROUP BY stories.id
                   HAVING min(events.at_ms) > ? AND max(events.status IN ('sending', 'send_uncertain')) LIMIT 1""",
                (lead_id, workspace, *found),
            ).fetchone()
            return began_later is None

    def leads_of(self, person: str) -> list[str]:
        """Ids of the leads that count for the person of an identifier (a hash), or whose id was made from it."""
        with self._reading() as db:
            found = db.execute("SELECT DISTINCT lead_ids FROM people WHERE person = ? LIMIT ?", (person, _MOST_LEADS))
            return sorted({lead_id for (ids,) in found for lead_id in ids.split()} | {f"p-{person}"})

    def results(self, lead_id: str) -> list[FoundPlace]:
        """The last result of a lead for each destination, its data still missing."""
        with self._reading() as db:
            rows = db.execute(
                """SELECT partition, offset, workspace, destination, source, version, at_ms FROM results
                   WHERE lead_id = ? ORDER BY workspace, destination LIMIT ?""",
                (lead_id, _MOST_LEADS),
            )
            return [
                FoundPlace(at, offset, FoundResult(workspace, destination, source, version, at_ms, None, None, ""))
                for at, offset, workspace, destination, source, version, at_ms in rows
            ]

    def lanes(self) -> tuple[list[LaneView], int]:
        """All lanes by name, and how many could not be read."""
        with self._reading() as db:
            found, unreadable = [], 0
            for (raw,) in db.execute("SELECT view FROM lanes ORDER BY workspace"):
                try:
                    found.append(_lane.decode(raw))
                except msgspec.DecodeError:
                    unreadable += 1
            return found, unreadable

    def stands(self) -> list[StatusCount]:
        """How many stories stand where."""
        with self._reading() as db:
            rows = db.execute(
                """SELECT workspace, destination, status, stories FROM standing WHERE stories > 0
                   ORDER BY workspace, destination, status"""
            )
            return [
                StatusCount(workspace, destination, status, self._column(status, destination), stories)
                for workspace, destination, status, stories in rows
            ]

    def letters(self, topic: str) -> Letters:
        """The letters of a topic, by cause."""
        with self._reading() as db:
            total = db.execute("SELECT coalesce(sum(letters), 0) FROM letters WHERE topic = ?", (topic,)).fetchone()[0]
            rows = db.execute(
                """SELECT kind, workspace, destination, reason, http_status, sum(letters) AS count FROM letters
                   WHERE topic = ? GROUP BY 1, 2, 3, 4, 5 ORDER BY count DESC LIMIT ?""",
                (topic, MOST_CAUSES),
            )
            return Letters(total, [Cause(*row) for row in rows])

    def _story(
        self,
        db: sqlite3.Connection,
        story: int,
        workspace: str,
        destination: str,
        status: str,
        at_ms: int,
        trace_id: str,
    ) -> Story:
        events = db.execute(
            """SELECT seq, at_ms, status, reason, text, http_status, attempt, replay, epoch, due_at_ms, credits
               FROM events WHERE story = ? ORDER BY seq""",
            (story,),
        )
        stands = self._column(status, destination)
        steps = [Event(*row) for row in events]
        return Story(place_of(db, story), workspace, destination, status, stands, at_ms, trace_id, steps)

    def _column(self, status: str, destination: str) -> str:
        """Where the books count it: '' for no lead; a status that only a newer version knows is `unknown`."""
        if status in COLUMN:
            return column(status, final=destination in self._final) or ""
        return "" if status in NOT_LEADS else "unknown"

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the model."""
        where = f"file:{quote(str(self._path))}?mode=ro"
        with closing(sqlite3.connect(where, uri=True, isolation_level=None, timeout=_BUSY_S)) as db:
            db.execute("BEGIN")
            yield db
