"""The account of records: the history of each record, what it counts as, and what is wrong with it.

A lead is what its workspace, destination and id name. It may have many records: copies, records
that went to a wrong partition, dead letters that were sent back. It is counted once, with the
status of the record that took its row last. `stream-app books` and the board's read model, whose
pages, API and commands show it, apply events with `advance`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, get_args

import msgspec

from stream_app.domain.delivery.state_machine import NEXT, PAID_OR_SERVED, RESUMABLE
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.messages import ImportSummary, Meter, Status
from stream_app.domain.model.numbers import Amount, TimeMs, Whole
from stream_app.domain.model.text import count
from stream_app.domain.plan import MAX_YIELD_COLUMNS

BookColumn = Literal[
    "enriched",
    "accepted_final",
    "served_from_cache",
    "served_locally",
    "rejected",
    "duplicate",
    "parked",
    "held",
    "under_way",
    "waiting",
]

COLUMNS: Final[tuple[BookColumn, ...]] = get_args(BookColumn)
"""in = the sum of these. `waiting`: the worker's group has not passed the record, and it has no
event yet.
"""

MOVING: Final[frozenset[BookColumn]] = frozenset({"held", "under_way", "waiting"})
"""The columns of leads that are not at rest."""

COLUMN_NAMES: Final[Mapping[str, str]] = {
    "accepted_final": "accepted as final",
    "served_from_cache": "answered from the cache",
    "served_locally": "answered without Clay",
}
"""What commands and pages call the columns whose own names are no words."""

COLUMN_MEANING: Final[Mapping[str, str]] = {
    "enriched": "Clay has answered, whatever it found",
    "accepted_final": "at Clay, and nobody waits for a callback",
    "served_from_cache": "answered with an earlier result",
    "served_locally": "answered from the lead's own fields",
    "rejected": "no lead, or not to be sent: it has ended",
    "duplicate": "another record of the same lead counts",
    "parked": "waits for a person",
    "held": "waits for its lane: budget, pause or outage",
    "under_way": "between two steps, at Clay, or on its way back",
    "waiting": "on Kafka, not taken yet",
}

COLUMN: Final[dict[Status, BookColumn]] = {
    "received": "under_way",
    "rejected_invalid": "rejected",
    "suppressed": "rejected",
    "duplicate": "duplicate",
    "replaced": "duplicate",
    "confirmed": "accepted_final",
    "expired": "rejected",
    "rerouted": "under_way",
    "held_budget": "held",
    "held_paused": "held",
    "held_outage": "held",
    "deferred": "held",
    "sending": "under_way",
    "refused": "under_way",
    "send_uncertain": "under_way",
    "accepted": "under_way",
    "callback_overdue": "under_way",
    "enriched": "enriched",
    "partial": "enriched",
    "no_data": "enriched",
    "enrich_error": "enriched",
    "credits_exhausted_suspected": "under_way",
    "served_from_cache": "served_from_cache",
    "served_locally": "served_locally",
    "dead_lettered": "under_way",
    "replayed": "under_way",
    "parked": "parked",
}

NOT_LEADS: Final[frozenset[Status]] = frozenset(
    {"callback_duplicate", "callback_unmatched", "erased", "cost_corrected", "without_value"},
)
"""Statuses of records that are callbacks or commands, or have no value. No column counts them."""
_NOT_A_LEAD: Final = (
    "a callback or a command about the lead, or no lead at all; the books do not count it"
)
_LEGAL: Final = frozenset(
    (before or "", after) for before, afters in NEXT.items() for after in afters
)
_OFFSET_BITS: Final = 44
_MAX_LOGS: Final = 1 << 18

_AT_WORK: Final[frozenset[str]] = RESUMABLE | {"sending"}
"""A worker must hold the record, or the next owner must read it again."""

_AWAY: Final[frozenset[str]] = frozenset(
    {"rerouted", "deferred", "dead_lettered", "send_uncertain"},
)
"""A copy of the record must be on its way back."""

_ROWLESS: Final[frozenset[Status]] = frozenset(
    {
        "duplicate",
        "rejected_invalid",
        "rerouted",
        "expired",
        "suppressed",
        "served_locally",
        "replaced",
    },
)
"""Ended without a row, or with a row that another record of the lead may have taken over."""

# The history and its row were read while they were changing, so they cannot be compared.
IN_MOTION: Final = "moving"


def column(status: str, *, final: bool) -> BookColumn | Literal["", "unknown"]:
    """Return the column of a record with this last status.

    It is "" if the record is not a lead, and "unknown" if the status is of a newer version.
    `final`: the destination has no callbacks, so that `accepted` is the end.
    """
    if status not in COLUMN:
        return "" if status in NOT_LEADS else "unknown"
    return "accepted_final" if final and status == "accepted" else COLUMN[status]


def name_of(column: str) -> str:
    """Return what commands and pages call a column."""
    return COLUMN_NAMES.get(column) or column.replace("_", " ")


def meaning_of(name: str) -> str:
    """Return what it means that `column` returned this name."""
    return COLUMN_MEANING.get(name, "a status of a newer version") if name else _NOT_A_LEAD


def books_line(records: int, leads: int) -> str:
    """Return what the books say first: how many came in, and how many leads those are."""
    return f"{count(records, 'record')} in, of {count(leads, 'lead')}: each lead in one column"


class StatusTotals(msgspec.Struct):
    """Leads with a status or in a column, and their records.

    It also counts how many of the records have a row with the same status.
    """

    leads: int = 0
    records: int = 0
    rows: int = 0

    def add(self, leads: int, records: int, rows: int) -> None:
        self.leads += leads
        self.records += records
        self.rows += rows


class BookTotals:
    """Adds leads and records up by column. The input records are the sum of `columns`."""

    def __init__(self) -> None:
        # Columns without a record are there, too.
        self.columns: dict[str, StatusTotals] = {name: StatusTotals() for name in COLUMNS}
        # By status: callbacks that settled no lead, erasures, corrections.
        self.not_leads: Counter[str] = Counter()

    def add(self, status: str, leads: int, records: int = 0, rows: int = 0, *, final: bool) -> None:
        """Add leads with this status, and their records.

        Args:
            status: The status.
            leads: How many leads.
            records: How many records they have.
            rows: How many of the records have a row with the same status.
            final: True if the leads' destination has no callbacks.
        """
        name = column(status, final=final)
        if name:
            self.columns.setdefault(name, StatusTotals()).add(leads, records, rows)
        else:
            self.not_leads[status] += leads


class BookEvent(msgspec.Struct, gc=False):
    """A StatusEvent as the books and the read model read it.

    `status` is any word: a newer worker may use new ones.
    """

    lead_id: str
    status: str
    seq: Whole
    at_ms: TimeMs
    origin: str
    workspace: str = ""
    destination: str = ""
    attempt: Whole = 0
    replay: Whole = 0
    epoch: Whole = 0
    reason: str = ""
    text: str = ""
    http_status: Whole | None = None
    due_at_ms: TimeMs | None = None
    credits: Amount | None = None
    actions: Amount | None = None
    day: str = ""
    month: str = ""
    saved: Amount | None = None
    trace_id: str = ""
    import_id: str = ""
    import_summary: ImportSummary | None = None
    dead_letter: str = ""
    queued_ms: TimeMs = 0
    first_offset: Annotated[int, msgspec.Meta(ge=0, lt=1 << _OFFSET_BITS)] | None = None
    records: Amount = 0
    filled: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    run: str = ""
    estimated: tuple[Meter, ...] = ()
    estimated_credits: Amount = 0
    estimated_actions: Amount = 0


# It raises one of `UNREADABLE` (domain/model/untrusted.py).
decode_event: Final = msgspec.json.Decoder(BookEvent).decode


class RecordEvents(msgspec.Struct, array_like=True, gc=False):
    """What the events of one record say."""

    lead_id: str = ""
    workspace: str = ""
    destination: str = ""
    status: str = ""  # the last status; "" without an event
    seq: int = 0  # sequence number of the last event; 0 without an event
    at_ms: int = 0  # time of the last event, epoch ms
    # The first event is `rerouted`: it is in another partition than the rest and may be late.
    rerouted: bool = False
    headless: bool = False  # the first event that was read has a sequence number above 1
    trace_id: str = ""


def advance(history: RecordEvents, event: BookEvent, *, kept: bool) -> tuple[bool, str]:
    """Apply the next event of a partition to its history, which is changed in place.

    `kept` says that no event of the partition has been deleted.

    Returns:
        Whether the event counts (a double does not), and what is wrong; "" if nothing is.
    """
    problem = ""
    if event.status == "rerouted" and event.seq == 1:
        if history.rerouted:
            return False, "event 1 comes again: a double"
        history.rerouted = True
        if history.seq > 0:
            return True, ""
    elif history.seq == 0 and event.seq > 1 and (event.seq == 2 or not kept):
        history.headless = True
        # Only a rerouted history may begin so: its first event is in another partition. The audit
        # checks that.
        if kept and ("rerouted", event.status) not in _LEGAL:
            problem = "its first event is missing"
    elif event.seq <= history.seq:
        return False, f"event {event.seq} follows {history.seq}: a double"
    elif event.seq > history.seq + 1:
        problem = f"event {event.seq} follows {history.seq}: a gap"
    elif (history.status, event.status) not in _LEGAL:
        problem = f"{event.status} follows {history.status or 'nothing'}, which is no legal step"
    history.lead_id = event.lead_id
    history.workspace = event.workspace
    history.destination = event.destination
    history.status = event.status
    history.seq = event.seq
    history.at_ms = event.at_ms
    history.trace_id = event.trace_id
    return True, problem


def numbered(log: int, offset: int) -> int:
    """Return the number of a record. `log`: the number of its topic and partition."""
    return log << _OFFSET_BITS | offset


class RecordNumbers:
    """Numbers records, so that SQLite can store them by an integer.

    A number grows with the record's offset.
    """

    def __init__(self, logs: list[str] | None = None) -> None:
        self.logs = logs or []  # `topic/partition`, in the order in which they were first seen
        self._numbers = {name: number for number, name in enumerate(self.logs, 1)}

    def number(self, record_id: str) -> int:
        """Return the number of `topic/partition/offset`.

        Raises ValueError if it has another form.
        """
        name, _, digits = record_id.rpartition("/")
        offset = int(digits)
        log = self._numbers.get(name) or len(self.logs) + 1
        if not (name and 0 <= offset < 1 << _OFFSET_BITS and log <= _MAX_LOGS):
            raise ValueError("not a record's position")
        if log > len(self.logs):
            self._numbers[name] = log
            self.logs.append(name)
        return numbered(log, offset)

    def position(self, number: int) -> tuple[str, int]:
        """Return the log and the offset of a number."""
        return self.logs[(number >> _OFFSET_BITS) - 1], number & (1 << _OFFSET_BITS) - 1

    def record_id(self, number: int) -> str:
        """Return `topic/partition/offset` of a number."""
        log, offset = self.position(number)
        return f"{log}/{offset}"


class BookRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a delivery's row says.

    `unconfirmed`: what was booked for it and neither Clay nor an operator confirmed.

    That is one amount for each POST that is not known to have cost it.
    """

    workspace: str
    destination: str
    lead_id: str
    status: str
    seq: int
    reserved: Reservation | None
    unconfirmed: tuple[Reservation, ...]


class RecordFacts(msgspec.Struct, frozen=True, gc=False):
    """What was found of a record beside its events."""

    partition: int
    is_input: bool  # it is an input record on a lead topic
    passed: bool  # the worker group's committed offset is beyond it
    copy: bool  # a copy of it waits in a topic, and its group has not passed that copy
    row: BookRow | None  # the row that its history has
    gone: bool  # retention has deleted it
    final: bool  # its destination has no callbacks


class Terms(msgspec.Struct, frozen=True):
    """What applies to all records."""

    stale_ms: int  # the row of a lead that settled before this time may be deleted, epoch ms
    trimmed: bool  # retention has deleted events
    inexact: frozenset[int]  # partitions whose rows and events are not of the same moment


def audit(history: RecordEvents, evidence: RecordFacts, terms: Terms) -> str:
    """Return what does not add up; "" if everything does; IN_MOTION if that cannot be said."""
    if not evidence.is_input and not evidence.gone:
        return _without_record(history, evidence)
    if wrong := _against_kafka(history, evidence, terms):
        return wrong
    wrong = _against_row(history, evidence, terms)
    is_movable = evidence.partition in terms.inexact or (terms.inexact and history.rerouted)
    return IN_MOTION if wrong and is_movable else wrong


def _without_record(history: RecordEvents, evidence: RecordFacts) -> str:
    """Return what is wrong where Kafka never had the record of a history or a row."""
    if history.status:
        return "a history without a record: its origin is no input record of a lead topic"
    return "it has a row, but no record of a lead topic is there" if evidence.row else ""


def _against_kafka(history: RecordEvents, evidence: RecordFacts, terms: Terms) -> str:
    """Compare a history with where Kafka has its record, and copies of that; "" if they agree."""
    status = history.status
    if not status and evidence.is_input and evidence.passed:
        hint = "; retention has removed events, perhaps its own" if terms.trimmed else ""
        return f"lost: the worker's group has passed it, and it has no event{hint}"
    in_hand = evidence.copy or (evidence.is_input and not evidence.passed)
    if history.headless and not history.rerouted and not terms.trimmed:
        return IN_MOTION if in_hand else "its first event is missing"
    if in_hand:
        return ""
    if status in _AT_WORK:
        return f"left at {status}: its group has passed the record, and no worker continues it"
    if status in _AWAY:
        return f"left at {status}: no copy of it is on its way back"
    return ""


def _against_row(history: RecordEvents, evidence: RecordFacts, terms: Terms) -> str:
    """Compare a history with its row, which some histories need not have; "" if they agree."""
    status = history.status
    row = evidence.row
    if row is not None:
        if row.status == status and row.seq == history.seq:
            return ""
        events = f"{status} (event {history.seq})" if status else "nothing"
        return f"its row says {row.status} (event {row.seq}), its events {events}"
    if not status or status in _ROWLESS:
        return ""
    if status == "parked" and history.rerouted and history.seq == 2:
        return ""  # It was parked at once after its detour, before it took a row.
    if status in PAID_OR_SERVED and (status != "accepted" or evidence.final):
        if history.at_ms < terms.stale_ms:
            return ""
        return f"{status}, and its row is gone before the freshness window: it could be paid twice"
    return f"{status}, but it has no row"


Rank = Literal[0, 1, 2, 3]
NO_LEAD: Final[Rank] = 0  # a callback or a command
COPY: Final[Rank] = 1  # another record counts for its lead, or it is on its way to its partition
ENDED: Final[Rank] = 2  # it ended before it took the row of its lead
TOOK: Final[Rank] = 3  # it took the row of its lead

DeadLetterState = Literal["open", "coming_back", "solved", "given_up"]
STATES: Final[tuple[DeadLetterState, ...]] = get_args(DeadLetterState)
STATE_MEANING: Final[dict[DeadLetterState, str]] = {
    "open": "waiting for a person",
    "coming_back": "on the way back, or coming back without a person",
    "solved": "lead delivered or published again, or with a later dead letter, which counts",
    "given_up": "lead not to be sent any more",
}
_COPIES: Final = frozenset({"duplicate", "rerouted"})
_AT_ONCE: Final = frozenset({"rejected_invalid", "suppressed", "parked"})
"""How a record may end before it takes a row, as its first or, after a detour, its second event."""
_SUCCEEDED: Final = frozenset(
    {"dead_lettered", "parked", "rejected_invalid", "replaced", "duplicate"},
)
"""Another dead letter or another record stands for the lead."""
_GIVEN_UP: Final = frozenset({"suppressed", "expired"})


class KeptRecord(RecordEvents, array_like=True, gc=False):
    """A record as the account keeps it."""

    imported: int = 0  # the number of its import; 0 for none
    letter: int = 0  # the number of the dead letter that it is a copy of; 0 for none
    rank: Rank = NO_LEAD  # how it stands to the row of its lead
    # The place of the event by which it got its rank, in its partition of `leads.status`.
    took: int = 0
    counts: bool = False  # it is the record that counts for its lead
    of_import: bool = False  # it is the record that counts for its lead among those of its import
    # It counts in place of another record of its lead, which may have dead letters.
    follows: bool = False
    credits: int = 0  # booked with its events
    answer: str = ""  # what Clay's last answer has of the columns that count (`packed_answer`)


_HAS: Final = "+"
_LACKS: Final = "-"


def packed_answer(event: BookEvent) -> str:
    """Return what an answer of Clay has of the columns that count, as one word.

    It is '' for every other event. Answers that are alike have the same word, so that they are
    counted together. Columns beyond the most that a destination names are left out.
    """
    names = [f"{_HAS}{name}" for name in event.filled]
    names += [f"{_LACKS}{name}" for name in event.empty]
    return "\n".join(names[:MAX_YIELD_COLUMNS])


def columns_of(answer: str) -> list[tuple[str, bool]]:
    """Return the columns of an answer, each with whether it has a value."""
    return [(name[1:], name[0] == _HAS) for name in answer.split("\n")] if answer else []


def rank_of(history: KeptRecord) -> Rank:
    """Return how a record stands to the row of its lead after its last event. It never falls."""
    if history.status in NOT_LEADS:
        return NO_LEAD
    if history.rank == ENDED and history.status == "suppressed":
        return ENDED  # an operator gave up a record that never had the row
    if history.status in _COPIES:
        return COPY
    return ENDED if history.status in _AT_ONCE and history.seq <= 2 else TOOK


def elect(records: Iterable[tuple[int, KeptRecord]]) -> set[int]:
    """Return the numbers of the records that count, of those with the same lead id.

    There is one for each destination. A record that names no destination, because it could not be
    read, counts only if no other record does.
    """
    best: dict[tuple[str, str], tuple[Rank, int, int]] = {}
    for number, kept in records:
        place = (kept.workspace, kept.destination)
        standing = (kept.rank, kept.took, number)
        if kept.rank is not NO_LEAD and standing > best.get(place, (NO_LEAD, 0, 0)):
            best[place] = standing
    workspaces = {workspace for workspace, destination in best if destination}
    return {
        number
        for (workspace, destination), (_, _, number) in best.items()
        if destination or (workspace not in workspaces if workspace else len(best) == 1)
    }


def is_same_lead(kept: KeptRecord, champion: KeptRecord) -> bool:
    """Return True if two records belong to one lead. The first may name no destination."""
    return kept.workspace in ("", champion.workspace) and kept.destination in (
        "",
        champion.destination,
    )


def is_at_rest(status: str, *, final: bool) -> bool:
    """Return True if a lead with this status is done with.

    `final`: its destination has no callbacks.
    """
    name = column(status, final=final)
    return name not in MOVING and name not in ("", "unknown")


def state_of(
    seq: int,
    returns: bool,
    own: tuple[str, int] | None,
    follower: str | None,
    *,
    final: bool,
) -> DeadLetterState:
    """Return what has become of a dead letter.

    Args:
        seq: The sequence number of the event with which it was written.
        returns: It comes back by itself.
        own: The status of its record now, and the sequence number; None if it is not known.
        follower: The status of the record that stands for it now: its copy, or a later record of
            its lead. None: none.
        final: The destination of that record has no callbacks.
    """
    status = own[0] if own is not None and own[1] > seq else follower
    if status is None:
        return "coming_back" if returns else "open"
    if status in _GIVEN_UP:
        return "given_up"
    return "solved" if status in _SUCCEEDED or is_at_rest(status, final=final) else "coming_back"
