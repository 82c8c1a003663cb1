"""The row of a lead: its state, and all legal transitions.

A *history* is the life of one input record: the events of one origin in sequence. A *delivery* is
the row of one lead (workspace, destination, lead id). It holds the history that counts for the
lead. A second record of the same lead or person is a duplicate, which has a short history of its
own and no row.

States only move forward along `NEXT`. A row holds no personal data.
"""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, Literal, TypeVar

import msgspec

from stream_app.domain.delivery.envelope import Envelope, Way
from stream_app.domain.limits.budget import NO_COST, Cost, Reservation
from stream_app.domain.model.errors import RowUnreadable
from stream_app.domain.model.messages import Status
from stream_app.domain.model.numbers import TimeMs, Whole

ROW_VERSION: Final = 1

_GATE: Final[frozenset[Status]] = frozenset(
    {
        "held_budget",
        "held_paused",
        "held_outage",
        "deferred",
        "sending",
        "expired",
        "parked",
        "suppressed",
        "served_from_cache",
        "served_locally",
    },
)
CALLBACK: Final[frozenset[Status]] = frozenset({"enriched", "partial", "no_data", "enrich_error"})
_SHOWN: Final[frozenset[Status]] = frozenset({"accepted"})
"""After a POST, a callback can show that Clay has the lead, whatever its state is."""

NEXT: Final[dict[Status | None, frozenset[Status]]] = {
    None: frozenset(
        {
            "received",
            "rejected_invalid",
            "duplicate",
            "suppressed",
            "rerouted",
            "parked",
            "callback_duplicate",
            "callback_unmatched",
            "erased",
            "cost_corrected",
            "without_value",
        },
    ),
    "rerouted": frozenset({"received", "rejected_invalid", "duplicate", "suppressed", "parked"}),
    "received": _GATE,
    "held_budget": _GATE | _SHOWN,
    "held_paused": _GATE | _SHOWN,
    "held_outage": _GATE | _SHOWN,
    "sending": frozenset(
        {"accepted", "refused", "send_uncertain", "rejected_invalid", "dead_lettered", "parked"},
    ),
    "refused": _GATE | _SHOWN | {"dead_lettered"},
    "send_uncertain": frozenset({"accepted", "parked", "replayed"}),
    "accepted": CALLBACK | {"callback_overdue"},
    "callback_overdue": CALLBACK | {"parked", "credits_exhausted_suspected"},
    "credits_exhausted_suspected": CALLBACK | {"parked"},
    "deferred": _SHOWN | {"replayed", "replaced"},
    "served_locally": frozenset({"deferred"}),
    "dead_lettered": _SHOWN | {"replayed", "replaced", "suppressed"},
    "parked": _SHOWN | {"replayed", "replaced", "confirmed", "suppressed"},
    "confirmed": CALLBACK,
    "replayed": _GATE | _SHOWN,
    "expired": _SHOWN,
    "suppressed": _SHOWN,
    "rejected_invalid": _SHOWN | {"suppressed"},
    "partial": frozenset({"enriched"}),
}
"""The legal transitions. A state that is not a key is final."""

RESUMABLE: Final = frozenset[Status](
    {"received", "held_budget", "held_paused", "held_outage", "refused", "replayed"},
)
"""After a crash, one of these states proves that Clay does not have the lead, so the lead continues
as if it had just arrived.
"""

RESUBMITTABLE: Final = frozenset[Status]({"rejected_invalid", "expired", "suppressed"})
"""The history has ended and, if `sends` is 0, the lead was never at Clay. A new record of the same
lead then begins a new history.
"""

PAID_OR_SERVED: Final = CALLBACK | {"accepted", "confirmed", "served_from_cache"}
"""The lead is paid for or served. The freshness window starts here, and after it the lead may be
bought again.
"""

_PRICED: Final = PAID_OR_SERVED - {"served_from_cache"}
"""In these states, what was booked for the last POST is what it cost. An answer from the cache says
nothing about an earlier POST.
"""


class Delivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The value of a lead's row. Its key is `delivery_key`. Fields are only ever appended.

    Attributes:
        version: `ROW_VERSION` of the writer.
        state: The last status of the history.
        origin: `topic/partition/offset` of the history's input record.
        seq: Sequence number of the history's last event.
        at_ms: When the last step was made, epoch ms.
        first_at_ms: When the history began, epoch ms.
        trace_id: The W3C trace id.
        attempt: Failed POSTs in this replay.
        replay: Replays in this rewind epoch.
        epoch: The rewind epoch.
        sends: POSTs of all replays that ended as uncertain or got no callback. Clay may have the
            lead from them.
        failed_at_ms: When the history first failed, epoch ms; 0 if it did not.
        reservation: What the lane reserves for the lead while it may still cost something.
        webhook_id: The webhook of the last POST; '' if the history has none.
        final: True if the history has ended.
        returns: Replays in all epochs since the lead arrived or an operator sent it back.
        booked: What was booked for the last POST when its reservation ended. A callback may still
            correct it.
        results: The version of the lead's last published result.
        person: Hash of the person (domain/lead/identity.py), if a result may come.
        company: Hash of the company, if a result may come.
        probed_ms: The `since_ms` of the suspension that the last POST was a probe of; 0 if none.
        people: All hashes of the person (`domain.lead.identity.hashes`); () if `person` is the only
            one.
        accepted_at_ms: When Clay last accepted a POST of the history, epoch ms; 0 if no response
            has shown that.
        sampled: True if the caller of the input record has sampled its span.
        unsettled: What was booked for earlier POSTs, which the lead was sent again after. Nobody
            has said what they cost.
        run: The id of the routine's run that the last accepted POST began, or of the announced run
            that has settled the lead; '' for a webhook, and while the id is not known because
            Clay's answer was lost.
        provisional: The version of the result that the history has published in place of Clay's, to
            which one more will follow; 0 if it has none.
        list_id: A checksum of the lead's import, where its destination names columns in `yield`; 0
            for a lead without one.
    """

    version: Whole
    state: Status
    origin: str
    seq: Whole
    at_ms: TimeMs
    first_at_ms: TimeMs
    trace_id: str
    attempt: Whole = 0
    replay: Whole = 0
    epoch: Whole = 0
    sends: Whole = 0
    failed_at_ms: TimeMs = 0
    reservation: Reservation | None = None
    webhook_id: str = ""
    final: bool = False
    returns: Whole = 0
    booked: Reservation | None = None
    results: Whole = 0
    person: str = ""
    company: str = ""
    probed_ms: Whole = 0
    people: tuple[str, ...] = ()
    accepted_at_ms: TimeMs = 0
    sampled: bool = False
    unsettled: tuple[Reservation, ...] = ()
    run: str = ""
    provisional: Whole = 0
    list_id: Whole = 0


class Reason(msgspec.Struct, frozen=True, gc=False):
    """The reason of a step.

    Attributes:
        reason: A stable code.
        text: The reason in words, scrubbed.
        http_status: Clay's status, if it answered.
        due_at_ms: When the lead continues automatically, epoch ms: its next attempt, the end of its
            grace, or the deadline of its callback. None if nothing is due.
        saved: The estimated credits that were saved because an earlier result answered the lead.
        excerpt: The beginning of Clay's answer, scrubbed.
    """

    reason: str = ""
    text: str = ""
    http_status: int | None = None
    due_at_ms: int | None = None
    saved: int | None = None
    excerpt: str = ""


def open_costs(row: Delivery) -> tuple[Reservation, ...]:
    """Return what is booked for a lead although nobody has said what it cost, oldest POST first.

    Neither Clay nor an operator has confirmed these costs. They stay booked if the lead is given
    up, because that says nothing about whether Clay has charged for it.
    """
    if row.booked is None or row.state in _PRICED or not _is_guess(row.booked):
        return row.unsettled
    return (*row.unsettled, row.booked)


def unreported(row: Delivery) -> Cost:
    """Return the sum of what is booked for a lead although nobody has said what it cost.

    Besides the open costs it has the estimate of each meter that a partial answer does not name,
    which the next answer replaces. The row of a lead whose last answer has come keeps no cost.
    """
    total = NO_COST if row.booked is None else _guessed(row.booked)
    for earlier in row.unsettled:
        guess = _guessed(earlier)
        total = Cost(total.credits + guess.credits, total.actions + guess.actions)
    return total


def _guessed(cost: Reservation) -> Cost:
    match cost.estimated:
        case "credits":
            return Cost(cost.credits, 0)
        case "actions":
            return Cost(0, cost.actions)
        case None:
            return NO_COST if cost.known else Cost(cost.credits, cost.actions)


def set_apart(row: Delivery) -> dict[str, object]:
    """Return the changes to the row of a lead that is sent again.

    A callback corrects the cost of the new POST from then on, so an older guess is set apart.
    """
    if row.booked is None or not _is_guess(row.booked):
        return {}
    return {"booked": None, "unsettled": (*row.unsettled, row.booked)}


def _is_guess(booked: Reservation) -> bool:
    return not booked.known and bool(booked.credits or booked.actions)


class _Version(msgspec.Struct, frozen=True, array_like=True):
    """The first field of a row, of whatever version."""

    version: int


T = TypeVar("T")
V = TypeVar("V", bound=Any)  # a row with a field `version`
_decoder: Final = msgspec.json.Decoder(Delivery)
_versions: Final = msgspec.json.Decoder(_Version)

KINDS: Final = frozenset(
    {b"c/", b"d/", b"e/", b"f/", b"k/", b"l/", b"n/", b"o/", b"p/", b"s/", b"x/"},
)
"""Prefixes of row keys.

domain/commands.py has k/, domain/model/system.py has n/, domain/lead/identity.py has p/, and
domain/delivery/suppression.py has e/, s/ and x/.
"""


def delivery_key(workspace: str, destination: str, lead_id: str, forced_origin: str = "") -> bytes:
    """Return the row key of a lead. Each forced lead is a delivery of its own, by its origin."""
    key = f"d/{workspace}/{destination}/{lead_id}"
    return f"{key}!{forced_origin}".encode() if forced_origin else key.encode()


def item_id(key: bytes) -> str:
    """Return the id of a lead's item in the run of a routine, which Clay echoes in the results.

    Args:
        key: The row key of the lead. The key of a forced lead contains its origin, so its item has
            an id of its own.

    Returns:
        22 characters that are the same for the same key and tell nothing about it.
    """
    return urlsafe_b64encode(blake2b(key, digest_size=16).digest())[:22].decode("ascii")


def forced_origin_of(key: bytes) -> str:
    """Return the input record of a forced lead by its row key; '' for any other lead."""
    return key.decode().partition("!")[2]


def lead_of(key: bytes) -> tuple[str, str, str]:
    """Return workspace, destination and lead id of a lead's row key."""
    workspace, destination, lead_id = key[2:].decode().split("/", 2)
    return workspace, destination, lead_id.partition("!")[0]


def forced_key(workspace: str, destination: str, lead_id: str) -> bytes:
    """Return the key of the alias row of a lead's latest forced delivery.

    The value is the key of that delivery.
    """
    return f"f/{workspace}/{destination}/{lead_id}".encode()


CONCLUDED: Final = b"1"  # the value of a marker


def mark_key(record_id: str) -> bytes:
    """Return the key of the marker of a concluded record without a row.

    With the marker, a redelivery of the record has no effect.
    """
    return f"o/{record_id}".encode()


def marked_record(key: bytes) -> tuple[str, int, int] | None:
    """Return topic, partition and offset of the record that a marker stands for.

    Returns:
        The record's place; None for the key of another kind of row.
    """
    if not key.startswith(b"o/"):
        return None
    topic, partition, offset = key[2:].decode().rsplit("/", 2)
    return topic, int(partition), int(offset)


def passed_key(topic: str) -> bytes:
    """Return the key of the row with a topic's passed offset.

    That is the group's committed offset when markers were last deleted.
    """
    return f"c/{topic}".encode()


def passed_offset(key: bytes, value: bytes) -> tuple[str, int]:
    """Return topic and offset of a row of `passed_key`."""
    return key[2:].decode(), int(value)


def lane_key(workspace: str) -> bytes:
    """Return the row key of a lane."""
    return f"l/{workspace}".encode()


_BEGINS: Final[dict[Way, Status]] = {
    "": "received",
    "rerouted": "received",
    "replayed": "replayed",
    "redriven": "replayed",
    "deferred": "replayed",
    "uncertain": "send_uncertain",
    "given_up": "suppressed",
}


def begin(
    envelope: Envelope,
    now_ms: int,
    person: str = "",
    company: str = "",
    people: tuple[str, ...] = (),
) -> Delivery:
    """Return the first row of a history. The hashes are given if a result may come.

    Either the history is new, or the record came back although its row was lost. In that case the
    history continues where the record says that it was.
    """
    state = _BEGINS[envelope.way]
    return Delivery(
        version=ROW_VERSION,
        state=state,
        origin=envelope.origin,
        seq=envelope.seq + (state != "send_uncertain"),
        at_ms=now_ms,
        first_at_ms=now_ms,
        trace_id=envelope.trace_id,
        replay=envelope.replay,
        epoch=envelope.epoch,
        sends=int(state == "send_uncertain"),
        person=person,
        company=company,
        people=people if set(people) - {"", person} else (),
        sampled=envelope.sampled,
    )


def moved(row: Delivery, state: Status, now_ms: int, **changes: object) -> Delivery:
    """Return the row after one legal step.

    Raises:
        ValueError: `NEXT` does not allow the step. This is a bug.
    """
    if state not in NEXT.get(row.state, frozenset()):
        raise ValueError(
            f"illegal step {row.state} -> {state} of {row.origin}: a bug in the pipeline",
        )
    return msgspec.structs.replace(
        row,
        state=state,
        seq=row.seq + 1,
        at_ms=max(now_ms, row.at_ms),
        **changes,
    )


Meeting = Literal[
    "settles",  # the answer that the row waits for
    "duplicate",  # the row has its answer
    "unmatched",  # no POST is known that it could answer
]


def match_callback(row: Delivery | None, outcome: Status) -> Meeting:
    """Return what a callback with this outcome means for the row of its lead."""
    if row is None:
        return "unmatched"
    steps = NEXT.get(row.state, frozenset())
    if outcome in steps:
        return "settles"
    if row.state in CALLBACK:
        return "duplicate"
    return "settles" if "accepted" in steps and row.webhook_id else "unmatched"


Verdict = Literal[
    "fresh",  # no history counts for this lead: begin one
    # Only a dead letter that Clay never had counts for this lead: end it, and begin a history.
    "replaces",
    "resume",  # its own history was interrupted before a POST: continue it
    "return",  # it returns from a delay, and its row waits for it
    "uncertain",  # its row says `sending`, from before this processing: Clay may have it
    "decide",  # the grace of an uncertain send has ended
    "done",  # a redelivery, or a copy that its row has passed: nothing to do
    "duplicate",  # another record of the same lead or person counts
]


def classify_record(
    row: Delivery | None,
    envelope: Envelope,
    now_ms: int,
    freshness_ms: int,
) -> Verdict:
    """Return what a record means for the row of its lead.

    The caller makes sure that no other record is being processed for this row. A final row blocks
    the same lead for `freshness_ms`.
    """
    if row is None:
        return "decide" if envelope.way == "uncertain" else "fresh"
    if row.origin == envelope.origin:
        return _classify_own_history(row, envelope)
    if envelope.way not in ("", "rerouted"):
        return "done"  # another history has replaced its own
    if (row.state in RESUBMITTABLE and not row.sends) or (
        row.final and now_ms - row.at_ms > freshness_ms
    ):
        return "fresh"
    # The copy of a dead letter may be one of several, so only what a producer has published
    # replaces another record.
    published = not envelope.dead_letter
    return "replaces" if published and _is_dead_letter(row) and not row.sends else "duplicate"


def _is_dead_letter(row: Delivery) -> bool:
    """Return True if the lead has a dead letter, or is deferred on its way back from one."""
    return row.state in ("dead_lettered", "parked") or (row.state == "deferred" and row.returns > 0)


def may_be_at_clay(row: Delivery | None) -> bool:
    """Return True for a dead letter whose lead may have reached Clay by an earlier POST.

    No publication replaces such a dead letter.
    """
    return row is not None and _is_dead_letter(row) and row.sends > 0


def _classify_own_history(row: Delivery, envelope: Envelope) -> Verdict:
    in_row = (row.epoch, row.replay)
    in_copy = (envelope.epoch, envelope.replay)
    if row.state in ("dead_lettered", "parked"):
        if envelope.way == "redriven":
            # Only the copy of the lead's latest dead letter is valid.
            return "return" if envelope.seq == row.seq else "done"
        if row.state == "parked" and row.sends:
            # Clay may have the lead, so a rewind never sends it again. Only an operator may order
            # that, for this lead.
            return "done"
        successor = in_copy[0] > in_row[0] or in_copy == (in_row[0], in_row[1] + 1)
        return "return" if envelope.way == "replayed" and successor else "done"
    if in_copy != in_row:
        return "done"
    if row.state == "sending":
        return "uncertain"
    if row.state == "deferred":
        return "return" if envelope.way == "deferred" and envelope.seq == row.seq else "done"
    if row.state == "send_uncertain":
        # Only the copy that was written with this step counts: the end of an earlier copy's grace
        # says nothing about this POST.
        return "decide" if envelope.way == "uncertain" and envelope.seq == row.seq else "done"
    return "resume" if row.state in RESUMABLE else "done"


Read = Callable[[bytes], bytes | None]  # returns the row of a key, as bytes; None if there is none


def next_version(lead: tuple[str, str, str], row: Delivery, read: Read) -> int:
    """Return the version of the next result of a lead.

    It is one more than the last version over all deliveries of the lead.

    Args:
        lead: Workspace, destination and id.
        row: The row of the delivery that the result is for.
        read: Returns the row of a key.

    Raises:
        RowUnreadable: A row does not decode.
    """
    keys = (delivery_key(*lead), read(forced_key(*lead)))
    rows = [(key, raw) for key in keys if key is not None and (raw := read(key)) is not None]
    return 1 + max([row.results, *(read_delivery(key, raw).results for key, raw in rows)])


def read_delivery(key: bytes, raw: bytes) -> Delivery:
    """Return a delivery row from its bytes. Raises RowUnreadable."""
    return read_versioned(_decoder, _versions, ROW_VERSION, key, raw)


def read_versioned(
    decoder: msgspec.json.Decoder[V],
    versions: msgspec.json.Decoder[Any],
    known: int,
    key: bytes,
    raw: bytes,
) -> V:
    """Decode a row with a version.

    A row of a later version is never called broken, whatever that version has changed in it.
    """
    try:
        row = decoder.decode(raw)
    except msgspec.DecodeError as error:
        _check_version(read_row(versions, key, raw).version, known, key)
        raise unreadable(key, str(error)) from None
    _check_version(row.version, known, key)
    return row


def _check_version(version: int, known: int, key: bytes) -> None:
    if version > known:
        name = key.decode("utf-8", "replace")
        raise RowUnreadable(
            f"the row {name} has version {version}, and this program reads up to {known}: run the "
            "later version that wrote it",
        )


def read_row(decoder: msgspec.json.Decoder[T], key: bytes, raw: bytes) -> T:
    """Decode a row. Raises RowUnreadable."""
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise unreadable(key, str(error)) from None


def unreadable(key: bytes, why: str) -> RowUnreadable:
    """Return the error to raise for a row that does not decode."""
    name = key.decode("utf-8", "replace")
    return RowUnreadable(
        f"the row {name} of the state topic cannot be read ({why}): restore it, or write a "
        "tombstone for its "
        "key there, which deletes it (then a lead may be sent again, and a lane's budget "
        "starts at 0)",
    )
