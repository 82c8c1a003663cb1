"""The legal paths of a lead, written down a second time for the checkers of a run.

The product's own table (`stream_app.domain.delivery.state_machine.NEXT`) is not used, so that the
checkers find a step that it allows by mistake. tests/unit/domain/test_resolve.py compares the two.
"""

from typing import Final

from stream_app.domain.model.messages import Status


def _all(*names: Status) -> frozenset[Status]:
    return frozenset(names)


_AT_THE_GATE: Final = _all(
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
)
_GATE_OR_SHOWN: Final = _AT_THE_GATE | _all("accepted")
_ANSWERED: Final = _all("enriched", "partial", "no_data", "enrich_error")

LEGAL: Final[dict[Status | None, frozenset[Status]]] = {
    None: _all(
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
    ),
    "rerouted": _all("received", "rejected_invalid", "duplicate", "suppressed", "parked"),
    "received": _AT_THE_GATE,
    "held_budget": _GATE_OR_SHOWN,
    "held_paused": _GATE_OR_SHOWN,
    "held_outage": _GATE_OR_SHOWN,
    "sending": _all(
        "accepted",
        "refused",
        "send_uncertain",
        "rejected_invalid",
        "dead_lettered",
        "parked",
    ),
    "refused": _GATE_OR_SHOWN | _all("dead_lettered"),
    "send_uncertain": _all("accepted", "parked", "replayed"),
    "accepted": _ANSWERED | _all("callback_overdue"),
    "callback_overdue": _ANSWERED | _all("parked", "credits_exhausted_suspected"),
    "credits_exhausted_suspected": _ANSWERED | _all("parked"),
    "deferred": _all("accepted", "replayed", "replaced"),
    "served_locally": _all("deferred"),
    "dead_lettered": _all("accepted", "replayed", "replaced", "suppressed"),
    "parked": _all("accepted", "replayed", "replaced", "confirmed", "suppressed"),
    "confirmed": _ANSWERED,
    "replayed": _GATE_OR_SHOWN,
    "expired": _all("accepted"),
    "suppressed": _all("accepted"),
    "rejected_invalid": _all("accepted", "suppressed"),
    "partial": _all("enriched"),
}
"""What may follow; nothing follows what is not a key."""


def follows(before: Status | None, status: Status) -> bool:
    """True if an event of this status may come next."""
    return status in LEGAL.get(before, frozenset())
