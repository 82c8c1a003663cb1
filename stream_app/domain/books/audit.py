"""Says what is wrong with one record: compares its history with its input record, its copies and its row."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.books.history import RecordHistory
from stream_app.domain.delivery.state_machine import RESUMABLE, SETTLED
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.messages import Status

_AT_WORK: Final[frozenset[str]] = RESUMABLE | {"sending"}
"""A worker must hold the record, or the next owner must read it again."""

_AWAY: Final[frozenset[str]] = frozenset({"rerouted", "deferred", "dead_lettered", "send_uncertain"})
"""A copy of the record must be on its way back."""

_ROWLESS: Final[frozenset[Status]] = frozenset(
    {"duplicate", "rejected_invalid", "rerouted", "expired", "suppressed", "served_locally", "replaced"}
)
"""Ended without a row, or with a row that another record of the lead may have taken over."""

MOVING: Final = "moving"
"""The history and its row were read while they were changing, so they cannot be compared."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a delivery's row says. `unconfirmed`: what was booked for it and neither Clay nor an operator confirmed."""

    workspace: str
    destination: str
    lead_id: str
    status: str
    seq: int
    reserved: Reservation | None
    unconfirmed: Reservation | None


class Found(msgspec.Struct, frozen=True, gc=False):
    """What was found of a record beside its events.

    Attributes:
        is_input: It is an input record on a lead topic.
        passed: The worker group's committed offset is beyond it.
        copy: A copy of it waits in a topic, and its group has not passed that copy.
        row: The row that its history has.
        gone: Retention has deleted it.
        final: Its destination has no callbacks.
    """

    partition: int
    is_input: bool
    passed: bool
    copy: bool
    row: Row | None
    gone: bool
    final: bool


class Terms(msgspec.Struct, frozen=True):
    """What applies to all records.

    Attributes:
        stale_ms: The row of a lead that settled before this time may be deleted. Epoch ms.
        trimmed: Retention has deleted events.
        inexact: Partitions whose rows and events are not of the same moment.
    """

    stale_ms: int
    trimmed: bool
    inexact: frozenset[int]


def audit(history: RecordHistory, found: Found, terms: Terms) -> str:
    """Return what does not add up; "" if everything does; MOVING if that cannot be said."""
    status, in_hand = history.status, found.copy or (found.is_input and not found.passed)
    if not found.is_input and not found.gone:
        if status:
            return "a history without a record: its origin is no input record of a lead topic"
        return "it has a row, but no record of a lead topic is there" if found.row else ""
    if not status and found.is_input and found.passed:
        hint = "; retention has removed events, perhaps its own" if terms.trimmed else ""
        return f"lost: the worker's group has passed it, and it has no event{hint}"
    if history.headless and not history.rerouted and not terms.trimmed:
        return MOVING if in_hand else "its first event is missing"
    if status in _AT_WORK and not in_hand:
        return f"left at {status}: its group has passed the record, and no worker continues it"
    if status in _AWAY and not in_hand:
        return f"left at {status}: no copy of it is on its way back"
    wrong = _against_row(history, found, terms)
    movable = found.partition in terms.inexact or (terms.inexact and history.rerouted)
    return MOVING if wrong and movable else wrong


def _against_row(history: RecordHistory, found: Found, terms: Terms) -> str:
    status, row = history.status, found.row
    if row is not None:
        if row.status == status and row.seq == history.seq:
            return ""
        events = f"{status} (event {history.seq})" if status else "nothing"
        return f"its row says {row.status} (event {row.seq}), its events {events}"
    if not status or status in _ROWLESS or (status == "parked" and history.rerouted and history.seq == 2):
        return ""
    if status in SETTLED and (status != "accepted" or found.final):
        if history.at_ms < terms.stale_ms:
            return ""
        return f"{status}, and its row is gone before the freshness window: it could be paid twice"
    return f"{status}, but it has no row"
