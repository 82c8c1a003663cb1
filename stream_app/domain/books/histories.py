"""The books: count every input record once and prove that none is missing.

    in = enriched + accepted_final + ... + under_way + waiting

They read the rows, events and records of all topics, partition by partition, in any order of partitions. Then
domain/books/audit.py compares them. A record's *history* is the events with its id as origin. The last event gives
its status. The rows of the state are a second, independent count.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, get_args

import msgspec

from stream_app.domain.books import offset_table
from stream_app.domain.books.accounts import Accounts, LaneAccount, OpenCost
from stream_app.domain.books.columns import Column
from stream_app.domain.books.offset_table import OffsetPage, OffsetTables
from stream_app.domain.delivery.envelope import lead_envelope, read_envelope
from stream_app.domain.delivery.state_machine import NEXT, Delivery
from stream_app.domain.lane.budget import BudgetPolicy, Reservation
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.lead_cost import is_open
from stream_app.domain.messages import RESEND, Status
from stream_app.domain.policy import Destination
from stream_app.domain.record import ConsumedRecord
from stream_app.domain.topics import TopicNames

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
CODE: Final[dict[Status, int]] = {status: number for number, status in enumerate(STATUSES, 1)}
"""Status -> 1, 2, 3 ...; 0 is none."""

_LEGAL: Final = frozenset(
    (CODE[before] if before else 0) << 8 | CODE[after] for before, afters in NEXT.items() for after in afters
)
_REROUTED: Final = CODE["rerouted"]
_LOCALLY: Final = CODE["served_locally"]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that does not add up. `where`: the record's id, or the lane's workspace; `lead_id`: if known."""

    where: str
    what: str
    lead_id: str = ""


class Terms(msgspec.Struct, frozen=True):
    """What the books need from the configuration.

    Attributes:
        workspaces: Workspace -> budget.
        destinations: Alias -> destination.
        freshness_ms: How long a final row must be kept, in ms.
        topics: The names on Kafka.
    """

    workspaces: Mapping[str, BudgetPolicy]
    destinations: Mapping[str, Destination]
    freshness_ms: int
    topics: TopicNames


class Problems:
    """The first `limit` problems, and the count of all."""

    def __init__(self, limit: int) -> None:
        self.named: list[Problem] = []
        self.count = 0
        self.limit = limit

    def add(self, where: str, what: str, lead_id: str = "") -> None:
        self.count += 1
        if len(self.named) < self.limit:
            self.named.append(Problem(where, what, lead_id))


class _Event(msgspec.Struct, gc=False):
    """The fields of a StatusEvent that the books read."""

    lead_id: str
    status: Status
    seq: int
    at_ms: int
    origin: str
    workspace: str = ""
    destination: str = ""
    credits: int | None = None
    actions: int | None = None
    day: str = ""
    month: str = ""
    saved: int | None = None
    reason: str = ""


_event: Final = msgspec.json.Decoder(_Event)
_row: Final = msgspec.json.Decoder(Delivery)
_lane: Final = msgspec.json.Decoder(Lane)


class PartitionBooks(msgspec.Struct):
    """What is known of a partition as a whole.

    Attributes:
        exact: True if its rows and its events are of the same moment.
        kept: True if no event has been deleted.
        first_ms: Time of the first event that is kept, epoch ms.
    """

    exact: bool
    kept: bool
    first_ms: int = 0


class Books:
    """Collects rows, events and records; `books.audit.audit` closes it."""

    def __init__(self, terms: Terms, *, limit: int = 20) -> None:
        self.terms = terms
        self.problems = Problems(limit)
        self.tables = OffsetTables()
        self.partitions: dict[int, PartitionBooks] = {}
        self.records = 0
        self.copies = 0
        self.events = 0
        self.reservations: dict[int, list[tuple[str, Reservation]]] = {}
        self.open_costs: dict[int, list[OpenCost]] = {}
        self.lane_rows: dict[int, list[Lane]] = {}
        self.accounts = Accounts(terms.workspaces)
        self.saved: dict[str, int] = {}
        self.provisional = 0
        self.possible_doubles: dict[str, int] = {}
        self._inputs = terms.topics.inputs
        self._final = {alias for alias, there in terms.destinations.items() if not there.callbacks}

    # ------------------------------------------------------------------------------------------------- records

    def begins(self, topic: str, partition: int, begin: int) -> None:
        """Set the first offset that a lead topic's partition still has. Older records were removed."""
        self.tables.get(f"{topic}/{partition}").begin = begin

    def record(self, consumed: ConsumedRecord, *, passed: bool) -> None:
        """Add a record of a lead topic, or a copy on its way back (dead letter, deferred, waiting).

        Args:
            consumed: The record.
            passed: True if the committed offset of the group that reads the topic is beyond it.
        """
        lead_topic = consumed.topic in self._inputs or consumed.topic == self.terms.topics.retry
        envelope = lead_envelope(consumed, self._inputs) if lead_topic else read_envelope(consumed)
        if lead_topic and not envelope.way and envelope.origin == consumed.record_id:
            self.records += 1
            page, i = self.tables.get(f"{consumed.topic}/{consumed.partition}").at(consumed.offset)
            page.flags[i] |= offset_table.IN | (offset_table.PASSED if passed else 0)
            return
        if envelope.origin == consumed.record_id:
            return  # written by another program: it has no history
        self.copies += 1
        if not passed:
            here, offset = self.tables.find(envelope.origin)
            page, i = here.at(offset)
            page.flags[i] |= offset_table.COPY

    # -------------------------------------------------------------------------------------------------- events

    def event(self, partition: int, raw: bytes, where: str) -> None:
        """Add an event of `leads.status`, in the order of its partition.

        Args:
            partition: The partition of the event.
            raw: The value of its record.
            where: The id of its record, for messages.
        """
        self.events += 1
        try:
            event = _event.decode(raw)
            here, offset = self.tables.find(event.origin)
        except ValueError:  # includes msgspec's errors
            self.problems.add(where, "an event that cannot be read")
            return
        state = self.partitions[partition]
        state.first_ms = state.first_ms or event.at_ms
        page, i = here.at(offset)
        code, seq, last = CODE[event.status], event.seq, page.seq[i]
        page.at_ms[i] = event.at_ms
        if code == _REROUTED and seq == 1:
            if page.flags[i] & offset_table.REROUTED:
                self._name(page, i, event, "event 1 comes again: a double")
            page.flags[i] |= offset_table.REROUTED
            return
        before = page.status[i]
        if last == 0 and seq > 1 and (seq == 2 or not state.kept):
            page.flags[i] |= offset_table.HEADLESS
            # Only a rerouted history may begin so: its first event is in another partition. The audit checks that.
            if state.kept and _REROUTED << 8 | code not in _LEGAL:
                self._name(page, i, event, "its first event is missing")
        elif seq != last + 1:
            self._name(page, i, event, f"event {seq} follows {last}: {'a double' if seq <= last else 'a gap'}")
            if seq <= last:
                return
        elif before << 8 | code not in _LEGAL:
            self._name(page, i, event, f"{event.status} follows {_word(before)}, which is no legal step")
        if event.credits is not None or event.actions is not None:
            spent = Reservation(event.day, event.month, event.credits or 0, event.actions or 0)
            self.accounts.book(event.workspace, spent)
        if event.saved:
            self.saved[event.workspace] = self.saved.get(event.workspace, 0) + event.saved
        self.provisional += code == _LOCALLY
        if event.reason == RESEND:
            self.possible_doubles[event.workspace] = self.possible_doubles.get(event.workspace, 0) + 1
        page.seq[i], page.status[i] = seq, code
        if event.destination in self._final:
            page.flags[i] |= offset_table.FINAL

    def _name(self, page: OffsetPage, i: int, event: _Event, what: str) -> None:
        if not page.flags[i] & offset_table.NAMED:
            page.flags[i] |= offset_table.NAMED
            self.problems.add(event.origin, what, event.lead_id)

    # ---------------------------------------------------------------------------------------------------- rows

    def rows_of(self, partition: int, *, exact: bool, kept: bool) -> Rows:
        """Start a partition. Its rows come before its events: call `close` on the result after the last row."""
        self.partitions[partition] = PartitionBooks(exact, kept)
        return Rows(self, partition)


class Rows:
    """Reads the rows of one partition's state, tombstones included. The last value of a key counts."""

    def __init__(self, books: Books, partition: int) -> None:
        self._books = books
        self._partition = partition
        self._origins: dict[int, int] = {}
        self._held: dict[int, tuple[str, Reservation]] = {}
        self._open: dict[int, OpenCost] = {}
        self._lanes: dict[bytes, bytes] = {}
        self._shared: dict[tuple[str, Reservation], tuple[str, Reservation]] = {}

    def add(self, key: bytes, value: bytes | None) -> None:
        if key.startswith(b"d/"):
            self._delivery(key, value)
        elif key.startswith(b"l/"):
            if value is None:
                self._lanes.pop(key, None)
            else:
                self._lanes[key] = value

    def close(self) -> None:
        """Finish the rows."""
        lanes: list[Lane] = []
        for key, value in self._lanes.items():
            try:
                lanes.append(_lane.decode(value))
            except msgspec.DecodeError as error:
                self._books.problems.add(_text(key[2:]), f"the lane's row cannot be read: {error}")
        self._books.lane_rows[self._partition] = lanes
        self._books.reservations[self._partition] = list(self._held.values())
        self._books.open_costs[self._partition] = list(self._open.values())

    def _delivery(self, key: bytes, value: bytes | None) -> None:
        name = int.from_bytes(blake2b(key, digest_size=8).digest())
        old = self._origins.get(name)
        if value is None:
            if old is not None:
                self._clear(old)
                del self._origins[name]
            self._held.pop(name, None)
            self._open.pop(name, None)
            return
        tables = self._books.tables
        workspace, destination, lead_id = (_text(part) for part in key[2:].split(b"/", 2))
        try:
            row = _row.decode(value)
            here, offset = tables.find(row.origin)
        except ValueError as error:  # includes msgspec's errors
            self._books.problems.add(workspace, f"a delivery's row cannot be read: {error}", lead_id)
            return
        packed = tables.pack(here, offset)
        page, i = here.at(offset)
        if old is None and page.flags[i] & offset_table.ROW:
            self._books.problems.add(row.origin, "two rows tell of the same history", lead_id)
        elif old not in (None, packed):
            self._clear(old)
        self._origins[name] = packed
        page.flags[i] |= offset_table.ROW
        page.row_seq[i], page.row_status[i] = row.seq, CODE[row.state]
        self._open.pop(name, None)
        if row.booked is not None and is_open(row):
            self._open[name] = OpenCost(workspace, destination, lead_id.partition("!")[0], row.booked)
        if row.reservation is None:
            self._held.pop(name, None)
        else:
            held = (workspace, row.reservation)
            self._held[name] = self._shared.setdefault(held, held)

    def _clear(self, packed: int | None) -> None:
        if packed is not None:
            page, i = self._books.tables.numbered(packed)
            page.flags[i] &= ~offset_table.ROW


class StatusCount(msgspec.Struct):
    """Histories of input records with a status, and how many of them have a row with the same status."""

    records: int = 0
    rows: int = 0


class Report(msgspec.Struct, frozen=True):
    """The closed books.

    Attributes:
        balanced: True if everything adds up.
        records: Input records on the lead topics.
        accounted: The sum of all columns. It equals `records` if nothing is missing.
        columns: Histories by column.
        statuses: The same by last status.
        copies: Records that returned to a lead topic or are on their way to it.
        events: Events read.
        outlived: Histories whose record retention has deleted. They are checked, but not counted.
        moving: Histories that could not be compared with their rows because they were changing.
        accounts: The money of each lane.
        problems: The first problems.
        problem_count: How many problems there are.
        not_leads: Histories of erasures and of callbacks that settled no lead, by status. No column counts them.
        saved: Estimated credits saved by earlier results, by workspace.
        provisional: Leads that were answered locally while their lane was held, and continue.
        open_costs: The first leads with an unconfirmed cost, booked at their ceiling.
        open_cost_count: How many such leads there are.
        possible_doubles: How often a lead that may have reached Clay was resent by policy, by workspace.
    """

    balanced: bool
    records: int
    accounted: int
    columns: dict[Column, StatusCount]
    statuses: dict[Status, StatusCount]
    copies: int
    events: int
    outlived: int
    moving: int
    accounts: list[LaneAccount]
    problems: list[Problem]
    problem_count: int
    not_leads: dict[Status, int] = {}
    saved: dict[str, int] = {}
    provisional: int = 0
    open_costs: list[OpenCost] = []
    open_cost_count: int = 0
    possible_doubles: dict[str, int] = {}


def _word(code: int) -> str:
    return STATUSES[code - 1] if code else "nothing"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
