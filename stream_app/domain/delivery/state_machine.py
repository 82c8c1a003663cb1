"""A lead's row: where it is on its way to Clay, and what may happen next. All transitions are in this file.

A *story* is the life of one input record, told by the events of one origin in sequence. A *delivery* is the row of one
lead (workspace, destination, lead id) and holds the story that counts for it; a second record of the same lead or
person is a duplicate, with a short story of its own and no row.

States only move forward along `NEXT`. A row holds no personal data.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stream_app.domain.delivery.envelope import Envelope, Way
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.messages import Status

ROW_VERSION: Final = 1

_GATE: Final[frozenset[Status]] = frozenset(
    {
        *("held_budget", "held_paused", "held_outage", "deferred", "sending", "expired", "parked", "suppressed"),
        *("served_from_cache", "served_locally"),
    }
)
_CALLBACK: Final[frozenset[Status]] = frozenset({"enriched", "partial", "no_data", "enrich_error"})
_SHOWN: Final[frozenset[Status]] = frozenset({"accepted"})
"""After a POST: a callback has shown that Clay has the lead, whatever was thought of it until then."""

NEXT: Final[dict[Status | None, frozenset[Status]]] = {
    None: frozenset(
        {
            *("received", "rejected_invalid", "duplicate", "rerouted", "parked"),
            *("callback_duplicate", "callback_unmatched", "erased", "cost_corrected"),
        }
    ),
    "rerouted": frozenset({"received", "rejected_invalid", "duplicate", "parked"}),
    "received": _GATE,
    "held_budget": _GATE | _SHOWN,
    "held_paused": _GATE | _SHOWN,
    "held_outage": _GATE | _SHOWN,
    "sending": frozenset({"accepted", "refused", "send_uncertain", "rejected_invalid", "dead_lettered", "parked"}),
    "refused": _GATE | _SHOWN | {"dead_lettered"},
    "send_uncertain": frozenset({"accepted", "parked", "replayed"}),
    "accepted": _CALLBACK | {"callback_overdue"},
    "callback_overdue": _CALLBACK | {"parked", "credits_exhausted_suspected"},
    "credits_exhausted_suspected": _CALLBACK | {"parked"},
    "deferred": _SHOWN | {"replayed"},
    "served_locally": frozenset({"deferred"}),
    "dead_lettered": _SHOWN | {"replayed"},
    "parked": _SHOWN | {"replayed"},
    "replayed": _GATE | _SHOWN,
    "expired": _SHOWN,
    "suppressed": _SHOWN,
    "rejected_invalid": _SHOWN,
    "partial": frozenset({"enriched"}),
}
"""Legal steps of a story. What is not a key is final."""

RESUMABLE: Final = frozenset[Status]({"received", "held_budget", "held_paused", "held_outage", "refused", "replayed"})
"""A row left so by a crash proves that nothing is at Clay: the lead goes on as if it had just come."""

RESUBMITTABLE: Final = frozenset[Status]({"rejected_invalid", "expired", "suppressed"})
"""Ended and, if `sends` is 0, never at Clay: then a new record of the same lead starts a new story."""

SETTLED: Final = frozenset[Status]({"accepted", "enriched", "partial", "no_data", "enrich_error", "served_from_cache"})
"""Paid for (or served): the freshness window counts from here, after it the lead may be bought again."""


class Delivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One lead's row (value). Its key is `delivery_key`. Fields are only ever appended.

    at_ms       epoch ms of the last step; `first_at_ms` of the story's first; `failed_at_ms` of its first failure or 0.
    seq         of the story's last event.
    attempt     failed POSTs in this replay; `sends` those of all that ended as uncertain or were never called back
                about: they may be at Clay.
    reservation what the lane holds for it, while it may still cost something.
    webhook_id  of the last POST; '' when there was none in this story.
    returns     how often it was replayed since it came or an operator sent it back, over all epochs.
    booked      what its last POST was booked at once nothing was reserved for it any more, while a callback may still
                say that it was something else.
    results     version of the last result that was published of this lead.
    person, company  hashes of whom it is about (domain/lead/lead.py), where a result may come.
    probe       of its last POST: since when the stop was that it went through as a probe, 0 if none.
    people      core.lead.hashes of whom it is about; () where `person` is all that there is.
    """

    version: int
    state: Status
    origin: str
    seq: int
    at_ms: int
    first_at_ms: int
    trace_id: str
    attempt: int = 0
    replay: int = 0
    epoch: int = 0
    sends: int = 0
    failed_at_ms: int = 0
    reservation: Reservation | None = None
    webhook_id: str = ""
    final: bool = False
    returns: int = 0
    booked: Reservation | None = None
    results: int = 0
    person: str = ""
    company: str = ""
    probe: int = 0
    people: tuple[str, ...] = ()


KINDS: Final = frozenset({b"c/", b"d/", b"e/", b"f/", b"k/", b"l/", b"o/", b"p/", b"s/", b"x/"})
"""How the keys of rows begin; k/ is domain/lane/command.py's, p/ domain/lead/person.py's, e/, s/ and x/
domain/lead/suppression.py's.
"""


def delivery_key(workspace: str, destination: str, lead_id: str, forced_origin: str = "") -> bytes:
    """Row key of a lead. `forced_origin`: the origin of a forced one, which is a delivery of its own each time."""
    key = f"d/{workspace}/{destination}/{lead_id}"
    return f"{key}!{forced_origin}".encode() if forced_origin else key.encode()


def lead_of(key: bytes) -> tuple[str, str, str]:
    """Workspace, destination and lead id of a lead's row key."""
    workspace, destination, lead_id = key[2:].decode().split("/", 2)
    return workspace, destination, lead_id.partition("!")[0]


def forced_key(workspace: str, destination: str, lead_id: str) -> bytes:
    """Row key of the alias that leads from a lead to its latest forced delivery; its value is that row's key."""
    return f"f/{workspace}/{destination}/{lead_id}".encode()


def mark_key(place: str) -> bytes:
    """Row key of a record that is concluded and has no delivery row (any more): a redelivery repeats nothing."""
    return f"o/{place}".encode()


def marked_place(key: bytes) -> tuple[str, int, int] | None:
    """Topic, partition and offset of the record that a row marks; None for rows of other kinds."""
    if not key.startswith(b"o/"):
        return None
    topic, partition, offset = key[2:].decode().rsplit("/", 2)
    return topic, int(partition), int(offset)


def passed_key(topic: str) -> bytes:
    """Row key of how far the group had come in a topic when marks before that were dropped."""
    return f"c/{topic}".encode()


def passed_offset(key: bytes, value: bytes) -> tuple[str, int]:
    """Topic and offset of such a row."""
    return key[2:].decode(), int(value)


def lane_key(workspace: str) -> bytes:
    """Row key of a lane."""
    return f"l/{workspace}".encode()


_BEGINS: Final[dict[Way, Status]] = {
    "": "received",
    "rerouted": "received",
    "replayed": "replayed",
    "redriven": "replayed",
    "deferred": "replayed",
    "uncertain": "send_uncertain",
}


def begin(
    envelope: Envelope, now_ms: int, person: str = "", company: str = "", people: tuple[str, ...] = ()
) -> Delivery:
    """A row for a story that has none: new, or (ways that come back) its row was lost and it goes on where it was.

    person, company  whom it is about, where a result may come that is to say so. people: all that he is known by.
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
        people=people if any(each not in ("", person) for each in people) else (),
    )


def step(row: Delivery, state: Status, now_ms: int, **changes: object) -> Delivery:
    """The row one legal step on. Raises ValueError on a step that `NEXT` does not allow: that is a bug."""
    if state not in NEXT.get(row.state, frozenset()):
        raise ValueError(f"illegal step {row.state} -> {state} of {row.origin}: a bug in the line")
    return msgspec.structs.replace(row, state=state, seq=row.seq + 1, at_ms=max(now_ms, row.at_ms), **changes)


Meeting = Literal[
    "settles",  # it is the answer that the row waits for
    "duplicate",  # the row has its answer
    "unmatched",  # nothing at Clay is known that it could be about
]


def meet(row: Delivery | None, outcome: Status) -> Meeting:
    """What a callback with that outcome is to the row of its lead."""
    if row is None:
        return "unmatched"
    steps = NEXT.get(row.state, frozenset())
    if outcome in steps:
        return "settles"
    if row.state in _CALLBACK:
        return "duplicate"
    return "settles" if "accepted" in steps and row.webhook_id else "unmatched"


Verdict = Literal[
    "fresh",  # no story counts for this lead: begin one
    "resume",  # its own story, interrupted before anything could be at Clay: go on
    "return",  # it comes back from a delay and its row was waiting for just that
    "uncertain",  # a predecessor had committed `sending`: it may be at Clay
    "decide",  # the grace of an uncertain send is over
    "done",  # a redelivery, or a copy that its row has already passed: nothing to do
    "duplicate",  # another record of a lead whose story counts
]


def judge(row: Delivery | None, envelope: Envelope, now_ms: int, freshness_ms: int) -> Verdict:
    """The station *seen?*: what a record is to the row of its lead. `row` is never one that this process works on."""
    if row is None:
        return "decide" if envelope.way == "uncertain" else "fresh"
    if row.origin == envelope.origin:
        return _judge_own_story(row, envelope)
    if envelope.way not in ("", "rerouted"):
        return "done"  # it comes back for a story that another one has replaced
    if (row.state in RESUBMITTABLE and not row.sends) or (row.final and now_ms - row.at_ms > freshness_ms):
        return "fresh"
    return "duplicate"


def _judge_own_story(row: Delivery, envelope: Envelope) -> Verdict:
    here, there = (row.epoch, row.replay), (envelope.epoch, envelope.replay)
    if row.state in ("dead_lettered", "parked"):
        if envelope.way == "redriven":
            # An operator's: good for the very letter that was the last word on this lead.
            return "return" if envelope.seq == row.seq else "done"
        if row.state == "parked" and row.sends:
            return "done"  # it may be at Clay: no rewind sends it again, only a human who names it
        successor = there[0] > here[0] or there == (here[0], here[1] + 1)
        return "return" if envelope.way == "replayed" and successor else "done"
    if there != here:
        return "done"
    if row.state == "sending":
        return "uncertain"
    if row.state == "deferred":
        return "return" if envelope.way == "deferred" and envelope.seq == row.seq else "done"
    if row.state == "send_uncertain":
        # Of copies only the one that was written with this very step: an earlier one's grace is not this one's.
        return "decide" if envelope.way == "uncertain" and envelope.seq == row.seq else "done"
    return "resume" if row.state in RESUMABLE else "done"
