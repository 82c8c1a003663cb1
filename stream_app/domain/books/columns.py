"""The column of each status in the books, for `stream-app books` and for the gateway's `GET /books`."""

from __future__ import annotations

from typing import Final, Literal, get_args

from stream_app.domain.messages import Status

Column = Literal[
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

COLUMNS: Final[tuple[Column, ...]] = get_args(Column)
"""in = the sum of these. `waiting`: the worker's group has not passed the record, and it has no event yet."""

MEANING: Final[dict[Column, str]] = {
    "enriched": "Clay has answered, whatever it found",
    "accepted_final": "Clay took it, and nothing ever comes back",
    "served_from_cache": "answered with an earlier result",
    "served_locally": "answered without Clay",
    "rejected": "no lead, or not to be sent: it has ended",
    "duplicate": "another record of the same lead counts",
    "parked": "waits for a human",
    "held": "waits for its lane: budget, pause or outage",
    "under_way": "between two steps, at Clay, or on its way back",
    "waiting": "on Kafka, not taken yet",
}

COLUMN: Final[dict[Status, Column]] = {
    "received": "under_way",
    "rejected_invalid": "rejected",
    "suppressed": "rejected",
    "duplicate": "duplicate",
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
    {"callback_duplicate", "callback_unmatched", "erased", "cost_corrected"}
)
"""Statuses of histories that begin with a callback or a command. No column counts them."""


def column(status: Status, *, final: bool) -> Column | None:
    """Return the column of a history with this last status; None if the history is not of a lead.

    Args:
        status: The last status.
        final: True if the destination has no callbacks, so that `accepted` is the end.
    """
    return "accepted_final" if final and status == "accepted" else COLUMN.get(status)
