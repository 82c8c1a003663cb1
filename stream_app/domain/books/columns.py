"""What a record counts as in the books: the same for `stream-app books` and for the gateway's `GET /books`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

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

MOVING: Final[frozenset[Column]] = frozenset({"held", "under_way", "waiting"})
"""The columns of leads that are not at rest."""

MEANING: Final[Mapping[str, str]] = {
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
    "replaced": "duplicate",
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
"""Statuses of records that are callbacks or commands. No column counts them."""
_NOT_A_LEAD: Final = "a callback or a command about the lead; the books do not count it"


def column(status: str, *, final: bool) -> Column | Literal["", "unknown"]:
    """Return the column of a record with this last status.

    It is "" if the record is not a lead, and "unknown" if the status is of a newer version. `final`: the destination
    has no callbacks, so that `accepted` is the end.
    """
    if status not in COLUMN:
        return "" if status in NOT_LEADS else "unknown"
    return "accepted_final" if final and status == "accepted" else COLUMN[status]


def meaning_of(name: str) -> str:
    """Return what it means that `column` returned this name."""
    return MEANING.get(name, "a status of a newer version") if name else _NOT_A_LEAD


class StatusCount(msgspec.Struct):
    """Records with a status or in a column, and how many of them have a row with the same status."""

    records: int = 0
    rows: int = 0

    def add(self, records: int, rows: int) -> None:
        self.records += records
        self.rows += rows


class Totals:
    """Adds records up by column. Input records = the sum of `columns`.

    Attributes:
        columns: By column. All columns are there, also those without a record.
        not_leads: Callbacks that settled no lead, erasures and corrections, by status.
    """

    def __init__(self) -> None:
        self.columns: dict[str, StatusCount] = {name: StatusCount() for name in COLUMNS}
        self.not_leads: Counter[str] = Counter()

    def add(self, status: str, records: int, rows: int = 0, *, final: bool) -> None:
        """Add records with this last status, of which `rows` have a row with the same status."""
        name = column(status, final=final)
        if name:
            self.columns.setdefault(name, StatusCount()).add(records, rows)
        else:
            self.not_leads[status] += records
