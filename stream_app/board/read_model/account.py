"""Keeps the account in the read model: every lead counts once, every dead letter has one state.

Every number is the sum of what single records contribute (`_shares`), so it is changed by the
difference that a batch makes, and could as well be counted from the tables `records` and `letters`
alone.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from operator import attrgetter
from typing import Final

import msgspec

from stream_app.board.read_model.history import KEPT_S, MINUTE_S, YIELD_KEPT_S, Imports, slots_of
from stream_app.domain.books.records import (
    COPY,
    ENDED,
    NO_LEAD,
    STATES,
    TOOK,
    BookEvent,
    KeptRecord,
    RecordNumbers,
    advance,
    columns_of,
    elect,
    is_at_rest,
    is_same_lead,
    packed_answer,
    rank_of,
    state_of,
)
from stream_app.domain.model.records import KafkaRecord

_FIELDS: Final = KeptRecord.__struct_fields__
RECORD_COLUMNS: Final = ", ".join(_FIELDS)
STANDING: Final = f"""(CASE
    WHEN rank = {NO_LEAD} THEN 0 -- a callback or a command
    WHEN counts THEN 2 -- it is the record of its lead
    WHEN of_import THEN 1 -- another record counts for the lead, and this one for its import
    ELSE 0
END)"""
"""How a record stands to its lead. SQLite uses the index `records_of_lead` only where a query has
this very expression.
"""

_OF_IMPORTS: Final = f"{STANDING} IN (0, 1, 2) AND imported IN (SELECT value FROM json_each(?))"
_DELETED_AT_ONCE: Final = 5_000

SumRow = tuple[str, tuple[object, ...]]
"""A table of sums, and the key of one of its rows."""

_LEADS: Final = ("leads",)
_ONE: Final = (1,)
_YIELD: Final = ("answered", "filled", "credits")
_SUMS: Final = {
    "records_in": ("workspace", _LEADS),
    "status_counts": ("workspace, destination, status", _LEADS),
    "import_counts": ("import, destination, status", _LEADS),
    "import_records": ("import", _LEADS),
    "ended": ("workspace, step_s, slot, destination, status", _LEADS),
    "yields": ("step_s, slot, workspace, destination, name", _YIELD),
    "import_yields": ("import, destination, name", _YIELD),
}
"""Table of sums -> the columns of its key, and those that are added up."""


def _json(values: Iterable[object]) -> str:
    return msgspec.json.encode(list(values)).decode()


class Letter(msgspec.Struct, gc=False):
    """A dead letter.

    Attributes:
        returns: True if it comes back by itself.
        state: An index of `STATES`.
    """

    id: int
    cause: int
    at_ms: int
    origin: int
    seq: int
    returns: bool
    state: int = 0


class AccountWriter:
    """Writes to `db` in the caller's open transaction.

    `final`: the destinations without callbacks.
    """

    def __init__(self, db: sqlite3.Connection, imports: Imports, final: Set[str]) -> None:
        self._db = db
        self._imports = imports
        self._final = final
        self._has_letters = False

    def load(self) -> None:
        """Look again whether there are dead letters, after other code has changed the tables."""
        self._has_letters = self._db.execute("SELECT 1 FROM letters LIMIT 1").fetchone() is not None

    # -------------------------------------------------------------------------------------- records

    def write_events(
        self,
        by_record: Mapping[int, Iterable[tuple[BookEvent, KafkaRecord]]],
        numbers: RecordNumbers,
    ) -> list[tuple[int, BookEvent]]:
        """Apply events to the records that they are about.

        Args:
            by_record: By the number of a record, its events, each with the record of Kafka that
                holds it.
            numbers: Turns the id of a record into its number.

        Returns:
            The events that were not known, each with the number of its record. Those of a record
            stand together.
        """
        before = self._load("id IN (SELECT value FROM json_each(?))", by_record)
        after = {number: msgspec.structs.replace(kept) for number, kept in before.items()}
        new: list[tuple[int, BookEvent]] = []
        for number, events in by_record.items():
            kept = after.setdefault(number, KeptRecord())
            for event, at in events:
                # Retention may have deleted any event, so a history may begin anywhere.
                if not advance(kept, event, kept=False)[0]:
                    continue
                new.append((number, event))
                kept.credits += event.credits or 0
                kept.answer = packed_answer(event) or kept.answer
                if kept.rank < TOOK and (rank := rank_of(kept)) > kept.rank:
                    kept.rank = rank
                    kept.took = at.offset
                if event.dead_letter and not kept.letter:
                    with suppress(ValueError):  # of a newer version
                        kept.letter = numbers.number(event.dead_letter)
        for number, imported in self._imports.numbers_of(
            new,
            (kept.imported for kept in after.values()),
        ).items():
            kept = after[number]
            if imported and not kept.imported and not kept.letter:
                self._imports.arrived(imported)
            kept.imported = imported
        self._imports.count(new, {number: kept.imported for number, kept in after.items()})
        self._settle(before, after)
        return new

    def _load(self, where: str, *values: Collection[object]) -> dict[int, KeptRecord]:
        rows = self._db.execute(
            f"SELECT id, {RECORD_COLUMNS} FROM records WHERE {where}",
            [_json(value) for value in values],
        )
        return {number: KeptRecord(*row) for number, *row in rows}

    def _counting(self, leads: Collection[str]) -> dict[int, KeptRecord]:
        """Return the records that count for these leads."""
        return self._load(
            f"lead_id IN (SELECT value FROM json_each(?)) AND {STANDING} = 2",
            leads,
        )

    def _settle(self, before: dict[int, KeptRecord], after: dict[int, KeptRecord]) -> None:
        """Write records and sums, after an election wherever another record may count now."""
        moved = {
            lead_id
            for number, kept in after.items()
            if (old := before.get(number)) is None or _standing(old) != _standing(kept)
            for lead_id in {kept.lead_id, old.lead_id if old else kept.lead_id}
        }
        counting = self._counting(moved)
        if imports := {kept.imported for kept in (*after.values(), *counting.values())} - {0}:
            of_import = f"{STANDING} = 1 AND imported IN (SELECT value FROM json_each(?))"
            counting |= self._load(
                f"lead_id IN (SELECT value FROM json_each(?)) AND {of_import}",
                moved,
                imports,
            )
        for number, kept in counting.items():
            if number not in after:
                before[number] = kept
                after[number] = msgspec.structs.replace(kept)
        by_lead: defaultdict[str, list[tuple[int, KeptRecord]]] = defaultdict(list)
        for number, kept in after.items():
            if kept.lead_id in moved:
                by_lead[kept.lead_id].append((number, kept))
        for members in by_lead.values():
            self._mark_elected(members)
        self._write(before, after)

    def _mark_elected(self, members: list[tuple[int, KeptRecord]]) -> None:
        winners = elect(members)
        for number, kept in members:
            kept.counts = number in winners or kept.rank == NO_LEAD
            kept.of_import = kept.imported > 0 and number in winners
        if len(members) == 1:
            return
        # A lead may be in thousands of imports.
        by_import: defaultdict[int, list[tuple[int, KeptRecord]]] = defaultdict(list)
        for number, kept in members:
            if kept.imported:
                by_import[kept.imported].append((number, kept))
        for of_import in by_import.values():
            best = elect(of_import)
            for number, kept in of_import:
                kept.of_import = number in best
        for number, elected in members:
            if not elected.counts or elected.rank == NO_LEAD:
                continue
            others = (
                kept for other, kept in members if other != number and is_same_lead(kept, elected)
            )
            elected.follows |= any(kept.rank >= ENDED for kept in others)

    def _write(self, before: Mapping[int, KeptRecord], after: Mapping[int, KeptRecord]) -> None:
        changed = {number: kept for number, kept in after.items() if before.get(number) != kept}
        self._db.executemany(
            f"""INSERT INTO records (id, {RECORD_COLUMNS})
                VALUES (?, {", ".join("?" * len(_FIELDS))})
                ON CONFLICT (id) DO UPDATE
                SET {", ".join(f"{name} = excluded.{name}" for name in _FIELDS)}""",
            [(number, *msgspec.structs.astuple(kept)) for number, kept in changed.items()],
        )
        self._add((before[number] for number in changed if number in before), changed.values())
        if self._has_letters:
            self._judge_of(changed, _restated(before, after))

    def _shares(self, kept: KeptRecord) -> Iterator[tuple[SumRow, tuple[int, ...]]]:
        """Yield what a record contributes to the sums."""
        if kept.rank != NO_LEAD:
            yield ("records_in", (kept.workspace,)), _ONE
        if kept.of_import:
            yield ("import_counts", (kept.imported, kept.destination, kept.status)), _ONE
        if kept.imported and kept.rank != NO_LEAD and not kept.letter:
            yield ("import_records", (kept.imported,)), _ONE
        yield from self._yields(kept)
        if not kept.counts:
            return
        yield ("status_counts", (kept.workspace, kept.destination, kept.status)), _ONE
        if is_at_rest(kept.status, final=kept.destination in self._final):
            for slot in slots_of(kept.workspace, kept.destination, kept.at_ms):
                yield ("ended", (*slot, kept.status)), _ONE

    @staticmethod
    def _yields(kept: KeptRecord) -> Iterator[tuple[SumRow, tuple[int, ...]]]:
        """Yield what the answer to a record contributes, with all that was booked for the record.

        Each record that Clay has answered counts, not only that which counts for its lead: a forced
        lead was asked for, and paid, once more.
        """
        at_s = kept.at_ms // 1000
        for name, is_filled in columns_of(kept.answer):
            amounts = (1, int(is_filled), kept.credits)
            for step_s in YIELD_KEPT_S:
                slot = (step_s, at_s - at_s % step_s)
                yield ("yields", (*slot, kept.workspace, kept.destination, name)), amounts
            if kept.imported:
                yield ("import_yields", (kept.imported, kept.destination, name)), amounts

    def _add(self, gone: Iterable[KeptRecord], come: Iterable[KeptRecord]) -> None:
        """Add what records contribute, and take away what others did.

        Those that contribute the same count together.
        """
        alike: Counter[tuple[object, ...]] = Counter()
        one_of: dict[tuple[object, ...], KeptRecord] = {}
        for many, records in ((-1, gone), (1, come)):
            for kept in records:
                same = *_contributing(kept), kept.letter > 0, kept.at_ms // (MINUTE_S * 1000)
                alike[same] += many
                one_of[same] = kept
        sums: dict[SumRow, tuple[int, ...]] = {}
        for same, many in alike.items():
            for share, amounts in self._shares(one_of[same]) if many else ():
                before = sums.get(share) or (0,) * len(amounts)
                sums[share] = tuple(
                    old + many * more for old, more in zip(before, amounts, strict=True)
                )
        rows: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
        for (table, key), total in sums.items():
            if any(total):
                rows[table].append((*key, *total))
        for table, changes in rows.items():
            key_columns, added = _SUMS[table]
            self._db.executemany(
                f"""INSERT INTO {table} VALUES ({", ".join("?" * len(changes[0]))})
                    ON CONFLICT ({key_columns}) DO UPDATE
                    SET {", ".join(f"{name} = {name} + excluded.{name}" for name in added)}""",
                changes,
            )

    def forget(self, numbers: Collection[int], before_ms: int) -> None:
        """Delete the records whose last event was before `before_ms`, with their events.

        If one of them counts, all records of its lead that are as old go with it. None of those is
        then elected only to go next, and a lead that came any number of times is looked through
        once.
        """
        gone = self._delete(numbers)
        leads, imports = _lost(gone)
        old = [
            *self._old(before_ms, "TRUE", leads),
            *self._old(before_ms, _OF_IMPORTS, imports, _all(imports)),
        ]
        for first in range(0, len(old), _DELETED_AT_ONCE):
            gone += self._delete(old[first : first + _DELETED_AT_ONCE])
        self._replace(*_lost(gone))

    def _old(
        self,
        before_ms: int,
        where: str,
        leads: Collection[str],
        *values: Collection[object],
    ) -> Iterator[int]:
        rows = self._db.execute(
            "SELECT id FROM records WHERE lead_id IN (SELECT value FROM json_each(?)) AND "
            f"{where} AND at_ms < ?",
            [_json(leads), *map(_json, values), before_ms],
        )
        return (number for (number,) in rows)

    def _delete(self, numbers: Collection[int]) -> list[KeptRecord]:
        """Delete records with their events and what they contribute. Returns those that counted."""
        gone = self._load("id IN (SELECT value FROM json_each(?))", numbers)
        self._db.executemany("DELETE FROM events WHERE record = ?", [(number,) for number in gone])
        self._db.executemany("DELETE FROM records WHERE id = ?", [(number,) for number in gone])
        self._add(gone.values(), ())
        return [
            kept
            for kept in gone.values()
            if kept.rank != NO_LEAD and (kept.counts or kept.of_import)
        ]

    def _replace(self, leads: Set[str], imports: Mapping[str, Set[int]]) -> None:
        """Elect records for leads whose record is gone, and for leads of these imports."""
        best = self._best("workspace, destination", "TRUE", leads)
        of_imports = _all(imports) | {kept.imported for kept in best.values()} - {0}
        best |= self._best(
            "imported, workspace, destination",
            _OF_IMPORTS,
            leads | imports.keys(),
            of_imports,
        )
        before = best | self._counting(imports.keys() - leads)
        after = {number: msgspec.structs.replace(kept) for number, kept in before.items()}
        by_lead: defaultdict[str, list[tuple[int, KeptRecord]]] = defaultdict(list)
        for number, kept in after.items():
            by_lead[kept.lead_id].append((number, kept))
        for lead_id, members in by_lead.items():
            self._mark_elected(members)
            for _, kept in members:
                # The records that it follows were not loaded.
                kept.follows |= kept.counts and lead_id in leads
        self._write(before, after)

    def _best(
        self,
        group: str,
        where: str,
        leads: Set[str],
        *values: Collection[object],
    ) -> dict[int, KeptRecord]:
        """Return the record of each group that comes first in an election.

        Only records of these `leads` stand in it. domain/books/records.py has its rules.
        """
        rows = self._db.execute(
            f"""SELECT id, {RECORD_COLUMNS}, max(printf('%d %015d %020d', rank, took, id))
                FROM records
                WHERE lead_id IN (SELECT value FROM json_each(?)) AND rank > {NO_LEAD} AND {where}
                GROUP BY lead_id, {group}""",
            [_json(leads), *map(_json, values)],
        )
        return {number: KeptRecord(*row) for number, *row, _ in rows}

    # --------------------------------------------------------------------------------- dead letters

    def write_letters(self, letters: list[Letter]) -> None:
        """Add dead letters. Those that are known already are left out."""
        known = self._letters(
            "id IN (SELECT value FROM json_each(?))",
            [letter.id for letter in letters],
        )
        new = {letter.id: letter for letter in letters if letter.id not in known}
        if not new:
            return
        self._has_letters = True
        self._db.executemany(
            "INSERT INTO letters VALUES (?, ?, ?, ?, ?, ?, ?)",
            [msgspec.structs.astuple(letter) for letter in new.values()],
        )
        self._add_states(Counter((letter.cause, letter.state) for letter in new.values()))
        self._judge(new)

    def _judge_of(self, records: Mapping[int, KeptRecord], restated: Set[str]) -> None:
        """Judge the dead letters again whose origin is one of these records.

        All dead letters of the leads in `restated` are judged, too.
        """
        leads = {kept.lead_id for kept in records.values() if kept.follows} & restated
        others: dict[int, KeptRecord] = {}
        for standing in (f"{STANDING} > 0", f"{STANDING} = 0 AND rank >= {ENDED}") if leads else ():
            others |= self._load(
                f"lead_id IN (SELECT value FROM json_each(?)) AND {standing}",
                leads,
            )
        about = {**records, **others}
        letters = self._letters("origin IN (SELECT value FROM json_each(?))", about)
        copied = {kept.letter for kept in about.values()} - {0, *letters}
        self._judge(
            letters
            | (self._letters("id IN (SELECT value FROM json_each(?))", copied) if copied else {}),
        )

    def _letters(self, where: str, values: Collection[int]) -> dict[int, Letter]:
        rows = self._db.execute(f"SELECT * FROM letters WHERE {where}", (_json(values),))
        return {row[0]: Letter(*row) for row in rows}

    def _judge(self, letters: Mapping[int, Letter]) -> None:
        if not letters:
            return
        origins = self._load(
            "id IN (SELECT value FROM json_each(?))",
            {letter.origin for letter in letters.values()},
        )
        copies: dict[int, KeptRecord] = {}
        followers = self._load("letter > 0 AND letter IN (SELECT value FROM json_each(?))", letters)
        for _, kept in sorted(
            followers.items(),
            key=lambda item: (item[1].rank, item[1].took, item[0]),
        ):
            copies[kept.letter] = kept
        # For these leads another record counts than the origin of a dead letter, or than its copy.
        leads = {kept.lead_id for kept in (*origins.values(), *copies.values()) if not kept.counts}
        counting: defaultdict[str, list[KeptRecord]] = defaultdict(list)
        for kept in self._counting(leads).values():
            counting[kept.lead_id].append(kept)
        states: Counter[tuple[int, int]] = Counter()
        changed: list[tuple[int, int]] = []
        for letter in letters.values():
            origin = origins.get(letter.origin)
            follower = copies.get(letter.id)
            last = follower or origin
            if last is not None and not last.counts and last.rank != COPY:
                others = (kept for kept in counting[last.lead_id] if is_same_lead(last, kept))
                follower = max(others, key=lambda kept: (kept.rank, kept.took), default=follower)
            stands = origin if origin is not None and origin.seq > letter.seq else follower
            last_of_origin = None if origin is None else (origin.status, origin.seq)
            followed = None if follower is None else follower.status
            is_final = stands is not None and stands.destination in self._final
            state = STATES.index(
                state_of(letter.seq, letter.returns, last_of_origin, followed, final=is_final),
            )
            if state != letter.state:
                states.subtract([(letter.cause, letter.state)])
                states.update([(letter.cause, state)])
                changed.append((state, letter.id))
        self._db.executemany("UPDATE letters SET state = ? WHERE id = ?", changed)
        self._add_states(states)

    def _add_states(self, states: Counter[tuple[int, int]]) -> None:
        for state in range(len(STATES)):
            rows = [(many, cause) for (cause, at), many in states.items() if at == state and many]
            self._db.executemany(
                f"UPDATE causes SET {STATES[state]} = {STATES[state]} + ? WHERE id = ?",
                rows,
            )

    def sweep(self, now_s: int) -> None:
        """Delete sums that are 0, and the slots that are older than they are kept."""
        for table in ("status_counts", "import_counts", "import_records", "ended"):
            self._db.execute(f"DELETE FROM {table} WHERE leads <= 0")
        for table in ("yields", "import_yields"):
            self._db.execute(f"DELETE FROM {table} WHERE answered <= 0")
        for step_s, kept_s in YIELD_KEPT_S.items():
            self._db.execute(
                "DELETE FROM yields WHERE step_s = ? AND slot < ?",
                (step_s, now_s - kept_s),
            )
        for step_s, kept_s in KEPT_S.items():
            self._db.execute(
                "DELETE FROM ended WHERE step_s = ? AND slot < ?",
                (step_s, now_s - kept_s),
            )

    def forget_letters(self, topic: str, before_ms: int) -> None:
        """Delete the dead letters of a topic that were appended before this time."""
        old = self._db.execute(
            "SELECT id FROM causes WHERE topic = ? AND first_ms < ?",
            (topic, before_ms),
        ).fetchall()
        for (cause,) in old:
            states: Counter[tuple[int, int]] = Counter()
            sql = "DELETE FROM letters WHERE cause = ? AND at_ms < ? RETURNING cause, state"
            states.subtract(self._db.execute(sql, (cause, before_ms)).fetchall())
            self._add_states(states)
            self._db.execute("UPDATE causes SET first_ms = ? WHERE id = ?", (before_ms, cause))
            self._db.execute(
                f"DELETE FROM causes WHERE id = ? AND {' + '.join(STATES)} <= 0",
                (cause,),
            )


_contributing: Final = attrgetter(
    "rank",
    "imported",
    "of_import",
    "counts",
    "workspace",
    "destination",
    "status",
    "answer",
    "credits",
)
"""What decides how a record is counted, with its minute and whether it is a dead letter's copy."""
_standing: Final = attrgetter("rank", "lead_id", "workspace", "destination", "imported")
"""What decides whether a record counts."""


def _lost(gone: Iterable[KeptRecord]) -> tuple[set[str], dict[str, set[int]]]:
    """Return what these records counted for.

    Returns:
        The leads that they counted for, and by lead the numbers of the imports in which they
        counted.
    """
    leads: set[str] = set()
    imports: defaultdict[str, set[int]] = defaultdict(set)
    for kept in gone:
        if kept.counts:
            leads.add(kept.lead_id)
        if kept.of_import:
            imports[kept.lead_id].add(kept.imported)
    return leads, imports


def _all(imports: Mapping[str, Set[int]]) -> set[int]:
    return set[int]().union(*imports.values())


def _restated(before: Mapping[int, KeptRecord], after: Mapping[int, KeptRecord]) -> set[str]:
    """Return the leads whose status has changed, or that count in several places.

    Other leads need no new judgement of all their dead letters: one that is suppressed 1,000 times
    has changed once.
    """
    old = _statuses(before)
    new = _statuses(after)
    places = Counter(lead_id for lead_id, *_ in new)
    return {lead_id for lead_id, *_ in old ^ new} | {
        lead_id for lead_id, many in places.items() if many > 1
    }


def _statuses(records: Mapping[int, KeptRecord]) -> set[tuple[str, ...]]:
    """Return the status of each lead that these records count for, with its place."""
    return {
        (kept.lead_id, kept.workspace, kept.destination, kept.status)
        for kept in records.values()
        if kept.counts and kept.rank != NO_LEAD
    }
