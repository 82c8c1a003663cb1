"""The books: count every input record once.

A missing record would therefore be noticed:

    in = enriched + accepted_final + ... + under_way + waiting

They take the rows, events and records of all topics, in any order of partitions, and then compare
them. The rows of the state are a second, independent count. What was collected is in a temporary
SQLite database, so memory does not grow with the number of leads.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, get_args

import msgspec

from stream_app.domain.books.money import Accounts, BooksReport, LaneAccount, OpenCost, Problem
from stream_app.domain.books.records import (
    IN_MOTION,
    NOT_LEADS,
    BookEvent,
    BookRow,
    BookTotals,
    KeptRecord,
    RecordEvents,
    RecordFacts,
    RecordNumbers,
    StatusTotals,
    Terms,
    advance,
    audit,
    decode_event,
    elect,
    rank_of,
)
from stream_app.domain.cached_results import DAY_MS
from stream_app.domain.delivery.envelope import lead_envelope, read_envelope
from stream_app.domain.delivery.state_machine import Delivery, open_costs
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Cost, Reservation
from stream_app.domain.model.messages import RESENDS, Status
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.plan import Plan

STATUSES: Final[tuple[Status, ...]] = get_args(Status)

_BATCH: Final = 5_000
_CACHE_KIB: Final = 8_192
_PREPARE: Final = (
    "PRAGMA journal_mode = OFF",
    f"PRAGMA cache_size = -{_CACHE_KIB}",
    (
        "CREATE TABLE records (id INTEGER PRIMARY KEY, history BLOB, lead BLOB, passed INTEGER, "
        "copy INTEGER, row BLOB)"
    ),
    "CREATE TABLE runs (first INTEGER PRIMARY KEY, last INTEGER, records INTEGER, passed INTEGER)",
    "CREATE TABLE told (last INTEGER PRIMARY KEY, first INTEGER, records INTEGER)",
    """CREATE TABLE rows (
        key BLOB PRIMARY KEY,
        partition INTEGER,
        record INTEGER,
        row BLOB
    ) WITHOUT ROWID""",
)

_RECORD: Final = (
    "INSERT INTO records (id, {0}) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET {0} = excluded.{0}"
)
_INPUT: Final = _RECORD.format("passed")
_COPY: Final = _RECORD.format("copy")
_RUN: Final = "INSERT INTO runs VALUES (?, ?, ?, ?)"
_TOLD: Final = "INSERT OR REPLACE INTO told VALUES (?, ?, ?)"
_ROW: Final = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)"

_delivery: Final = msgspec.json.Decoder(Delivery)
_lane: Final = msgspec.json.Decoder(Lane)
_history: Final = msgspec.msgpack.Decoder(KeptRecord)
_row: Final = msgspec.msgpack.Decoder(BookRow)
_encode: Final = msgspec.msgpack.Encoder().encode


class _Partition(msgspec.Struct):
    """What is known of a partition as a whole.

    Attributes:
        exact: Its rows and its events are of the same moment.
        kept: None of its events has been deleted.
        first_ms: The time of its first event, epoch ms.
        lanes: The rows of its lanes.
    """

    exact: bool
    kept: bool
    first_ms: int = 0
    lanes: dict[bytes, bytes] = {}


class _Run(msgspec.Struct):
    """Records without a value that follow each other. `first` and `last` are numbers of records.

    Attributes:
        records: How many there are.
        passed: How many of them the group has passed.
    """

    first: int
    last: int
    records: int = 0
    passed: int = 0


class Books:
    """Collects rows, events and records; `close` compares them.

    It names at most `limit` problems, and counts all.
    """

    def __init__(self, plan: Plan, *, limit: int = 20) -> None:
        self._topics = plan.topics
        self._final = {
            alias for alias, destination in plan.destinations.items() if not destination.callbacks
        }
        self._freshness_ms = plan.delivery.freshness_days * DAY_MS
        self._limit = limit
        self._report = BooksReport()
        self._named: set[int] = set()
        self._numbers = RecordNumbers()
        self._partitions: dict[int, _Partition] = {}
        self._begins: dict[str, int] = {}
        self._accounts = Accounts(
            {name: workspace.budget for name, workspace in plan.workspaces.items()},
        )
        self._events: list[tuple[int, BookEvent, bool]] = []
        # topic/partition -> the run that its last record belongs to.
        self._runs: dict[str, _Run] = {}
        self._pending = defaultdict[str, dict[int | bytes, tuple[Any, ...]]](dict)
        # A database without a name is a temporary file, which SQLite writes only when its cache is
        # full.
        self._db = sqlite3.connect("")
        for statement in _PREPARE:
            self._db.execute(statement)

    def problem(self, where: str, what: str, lead_id: str = "") -> None:
        """Add a problem. `where`: a record's id or a workspace."""
        self._report.problem_count += 1
        if len(self._report.problems) < self._limit:
            self._report.problems.append(Problem(where, what, lead_id))

    def partition(self, number: int, *, exact: bool, kept: bool) -> None:
        """Begin a partition. `exact` and `kept`: as of `_Partition`."""
        self._partitions[number] = _Partition(exact, kept)

    def begins(self, topic: str, partition: int, begin: int) -> None:
        """Set the first offset that a lead topic's partition still has.

        Older records were removed.
        """
        self._begins[f"{topic}/{partition}"] = begin

    def record(self, consumed: ConsumedRecord, *, passed: bool) -> None:
        """Add a record of a lead topic, or a copy on its way back (dead letter, deferred, waiting).

        `passed`: the committed offset of the group that reads the topic is beyond it.
        """
        topics = self._topics
        report = self._report
        if consumed.topic in topics.inputs and self._is_of_run(consumed, passed=passed):
            return
        lead_topic = consumed.topic in topics.lead_topics
        envelope = lead_envelope(consumed, topics.inputs) if lead_topic else read_envelope(consumed)
        if envelope.origin != consumed.record_id:
            report.copies += 1
            if not passed:
                with suppress(ValueError):  # no record has that id
                    self._put(_COPY, self._numbers.number(envelope.origin), True)
        # Any other record is another program's: it has no history.
        elif lead_topic and envelope.way in ("", "given_up"):
            report.records += 1
            if consumed.left_out is not None and consumed.left_out.why == "batch_too_large":
                report.batches += 1
                report.in_batches += consumed.records
            self._put(_INPUT, self._numbers.number(consumed.record_id), passed)

    def _is_of_run(self, consumed: ConsumedRecord, *, passed: bool) -> bool:
        """Add a record of a topic of producers to the run of its log.

        A record with a value ends that run instead. Returns True if the record was added.
        """
        log = f"{consumed.topic}/{consumed.partition}"
        if consumed.value is not None:
            if (run := self._runs.pop(log, None)) is not None:
                self._put(_RUN, *msgspec.structs.astuple(run))
            return False
        last = self._numbers.number(consumed.record_id)
        run = self._runs.get(log)
        if run is None:
            run = _Run(self._numbers.number(f"{log}/{consumed.first}"), last)
            self._runs[log] = run
        run.last = last
        run.records += consumed.records
        run.passed += consumed.records * passed
        self._report.without_value += consumed.records
        return True

    def event(self, partition: int, raw: bytes, where: str) -> None:
        """Add an event of `leads.status`, in the order of its partition.

        `where`: its record's id, for messages.
        """
        self._report.events += 1
        try:
            event = decode_event(raw)
            number = self._numbers.number(event.origin)
            STATUSES.index(event.status)
        except UNREADABLE:
            self.problem(where, "an event that cannot be read")
            return
        if event.status == "without_value" and event.first_offset is not None:
            first = self._numbers.number(f"{event.origin.rpartition('/')[0]}/{event.first_offset}")
            self._put(_TOLD, number, first, event.records)
        state = self._partitions[partition]
        state.first_ms = state.first_ms or event.at_ms
        self._events.append((number, event, state.kept))
        if len(self._events) >= _BATCH:
            self._store_events()

    def row(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Add a record of a partition's state, or a tombstone. The last value of a key counts."""
        if key.startswith(b"l/"):
            if value is None:
                self._partitions[partition].lanes.pop(key, None)
            else:
                self._partitions[partition].lanes[key] = value
        elif key.startswith(b"d/"):
            workspace, destination, lead_id = (_text(part) for part in key[2:].split(b"/", 2))
            try:
                if value is None:
                    self._put(_ROW, key, partition, None, None)
                    return
                delivery = _delivery.decode(value)
                row = BookRow(
                    workspace,
                    destination,
                    lead_id,
                    delivery.state,
                    delivery.seq,
                    delivery.reservation,
                    open_costs(delivery),
                )
                self._put(_ROW, key, partition, self._numbers.number(delivery.origin), _encode(row))
            except UNREADABLE as error:
                self.problem(workspace, f"a delivery's row cannot be read: {error}", lead_id)

    # --------------------------------------------------------------------------------- the database

    def _put(self, statement: str, key: int | bytes, *values: Any) -> None:
        """Store values, many keys at a time. The last values of a key count."""
        pending = self._pending[statement]
        pending[key] = (key, *values)
        if len(pending) >= _BATCH:
            self._store(statement)

    def _store(self, statement: str) -> None:
        self._db.executemany(statement, self._pending.pop(statement).values())

    def _store_events(self) -> None:
        ids = msgspec.json.encode([number for number, _, _ in self._events]).decode()
        known = self._db.execute(
            "SELECT id, history FROM records WHERE id IN (SELECT value FROM json_each(?))",
            (ids,),
        )
        histories = {number: _history.decode(raw) for number, raw in known if raw}
        for number, event, kept in self._events:
            history = histories.setdefault(number, KeptRecord())
            counts, wrong = advance(history, event, kept=kept)
            if (rank := rank_of(history)) > history.rank:
                history.rank = rank
                history.took = self._report.events
            if wrong and number not in self._named:
                self._named.add(number)
                self.problem(event.origin, wrong, event.lead_id)
            if counts:
                self._count(event)
        self._db.executemany(
            """INSERT INTO records (id, history, lead) VALUES (?, ?, ?)
               ON CONFLICT (id) DO UPDATE SET history = excluded.history, lead = excluded.lead""",
            [(number, _encode(history), _hash(history)) for number, history in histories.items()],
        )
        self._events.clear()

    def _count(self, event: BookEvent) -> None:
        """Add up the money and the special cases of an event."""
        report = self._report
        workspace = event.workspace
        if event.credits is not None or event.actions is not None:
            self._accounts.book(
                workspace,
                Reservation(event.day, event.month, event.credits or 0, event.actions or 0),
                Cost(event.estimated_credits, event.estimated_actions),
            )
        if event.saved:
            report.saved[workspace] = report.saved.get(workspace, 0) + event.saved
        report.provisional += event.status == "served_locally"
        if event.reason in RESENDS:
            report.possible_doubles[workspace] = report.possible_doubles.get(workspace, 0) + 1

    # ----------------------------------------------------------------------------------- the report

    def close(self, now_ms: int) -> BooksReport:
        """Compare everything and return the report. Nothing can be added afterwards."""
        self._store_events()
        for run in self._runs.values():
            self._put(_RUN, *msgspec.structs.astuple(run))
        for statement in list(self._pending):
            self._store(statement)
        self._join_rows()
        self._audit_runs()
        totals = self._audit_records(now_ms)
        report = self._report
        report.statuses = dict(
            sorted(report.statuses.items(), key=lambda item: STATUSES.index(item[0])),
        )
        report.columns = totals.columns
        report.not_leads = dict(totals.not_leads)
        for partition in sorted(self._partitions):
            report.accounts += self._lanes(partition)
        self._db.close()
        report.accounted = sum(column.records for column in totals.columns.values())
        report.leads = sum(column.leads for column in totals.columns.values())
        report.balanced = report.problem_count == 0 and report.accounted == report.records
        return report

    def _audit_records(self, now_ms: int) -> BookTotals:
        """Compare each record with its events and its row, and count it."""
        report = self._report
        totals = BookTotals()
        others = self._others()
        terms = Terms(
            now_ms - self._freshness_ms,
            any(not state.kept for state in self._partitions.values()),
            frozenset(number for number, state in self._partitions.items() if not state.exact),
        )
        for number, history, evidence in self._records():
            status = history.status
            if not evidence.is_input and status in NOT_LEADS:
                totals.add(status, 1, final=False)
                continue
            if evidence.is_input and status:
                leads = number not in others
                rows = evidence.row is not None and evidence.row.status == status
                totals.add(status, leads, 1, rows, final=evidence.final)
                report.statuses.setdefault(status, StatusTotals()).add(leads, 1, rows)
            elif evidence.is_input:
                totals.columns["waiting"].add(not evidence.passed, not evidence.passed, 0)
            else:
                report.outlived += evidence.gone and status != ""
            wrong = audit(history, evidence, terms)
            if wrong == IN_MOTION:
                report.moving += 1
            elif wrong and number not in self._named:
                lead_id = history.lead_id or (evidence.row.lead_id if evidence.row else "")
                self.problem(self._numbers.record_id(number), wrong, lead_id)
        return totals

    def _audit_runs(self) -> None:
        """Compare the records without a value with the events that count them."""
        counted = """SELECT runs.first, runs.passed, runs.records,
                            coalesce(sum(told.records), 0), min(told.first)
                     FROM runs
                     LEFT JOIN told ON told.last BETWEEN runs.first AND runs.last
                     GROUP BY runs.first"""
        for number, passed, records, told, told_first in self._db.execute(counted):
            if told_first is not None and told_first < number:
                # Retention has deleted the beginning of the run, but its event counts that, too.
                continue
            if not passed <= told <= records:
                what = (
                    f"{count(records, 'record')} without a value, {passed} of them passed: "
                    f"their events count {told}"
                )
                self.problem(self._numbers.record_id(number), what)

    def _others(self) -> set[int]:
        """Return the numbers of the records that another record of their lead counts instead of."""
        known = "FROM records WHERE passed IS NOT NULL AND lead IS NOT NULL"
        several = f"SELECT lead {known} GROUP BY lead HAVING count(*) > 1"
        rows = self._db.execute(
            f"SELECT lead, id, history {known} AND lead IN ({several}) ORDER BY lead",
        )
        others: set[int] = set()
        for _, members in groupby(rows, key=itemgetter(0)):
            records = [(number, _history.decode(raw)) for _, number, raw in members]
            others |= {number for number, _ in records} - elect(records)
        return others

    def _join_rows(self) -> None:
        """Store each row beside its history, but none that a tombstone has deleted."""
        self._db.execute("DELETE FROM rows WHERE row IS NULL")
        self._db.execute(
            """INSERT INTO records (id, row) SELECT record, row FROM rows WHERE true
               ON CONFLICT (id) DO UPDATE SET row = excluded.row""",
        )
        doubles = "SELECT record, max(row) FROM rows GROUP BY record HAVING count(*) > 1"
        for number, raw in self._db.execute(doubles):
            self.problem(
                self._numbers.record_id(number),
                "two rows are of the same history",
                _row.decode(raw).lead_id,
            )

    def _records(self) -> Iterator[tuple[int, RecordEvents, RecordFacts]]:
        """Yield each record: its number, its history, and what else was found of it."""
        select = "SELECT id, history, passed, copy, row FROM records ORDER BY id"
        for number, raw, passed, copy, row in self._db.execute(select):
            history = _history.decode(raw) if raw else KeptRecord()
            (log, offset) = self._numbers.position(number)
            yield (
                number,
                history,
                RecordFacts(
                    partition=int(log.rpartition("/")[2]),
                    is_input=passed is not None,
                    passed=bool(passed),
                    copy=bool(copy),
                    row=_row.decode(row) if row else None,
                    gone=offset < self._begins.get(log, 0),
                    final=history.destination in self._final,
                ),
            )

    def _lanes(self, number: int) -> list[LaneAccount]:
        """Compare the lanes of a partition with its rows and events."""
        state = self._partitions[number]
        lanes = []
        report = self._report
        for key, value in state.lanes.items():
            try:
                lanes.append(_lane.decode(value))
            except UNREADABLE as error:
                self.problem(_text(key[2:]), f"the lane's row cannot be read: {error}")
        reserved: list[tuple[str, Reservation]] = []
        guesses: list[OpenCost] = []
        for (raw,) in self._db.execute(
            "SELECT row FROM rows WHERE partition = ? ORDER BY key",
            (number,),
        ):
            row = _row.decode(raw)
            if row.reserved is not None:
                reserved.append((row.workspace, row.reserved))
            lead_id = row.lead_id.partition("!")[0]
            guesses += [
                OpenCost(row.workspace, row.destination, lead_id, cost) for cost in row.unconfirmed
            ]
        report.open_cost_count += len(guesses)
        report.open_costs += guesses[: self._limit - len(report.open_costs)]
        known_from_ms = None if not state.exact else 0 if state.kept else state.first_ms
        return self._accounts.lanes(lanes, reserved, guesses, known_from_ms, self.problem)


def _hash(history: RecordEvents) -> bytes:
    return blake2b(history.lead_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
