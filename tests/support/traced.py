"""Histories of which traces are made."""

from typing import Any

from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.spans import clay_of

CALLER = "00f067aa0ba902b7"
CLAY = {"people": clay_of(["api.clay.com"])}
ORIGIN = "leads/3/7"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def history(
    *steps: tuple[Status, int] | tuple[Status, int, dict[str, Any]],
    **first: Any,
) -> list[StatusEvent]:
    """The events of one lead: status, time and further fields of each."""
    return [
        StatusEvent(
            f"{ORIGIN}#{seq}",
            "crm-17",
            status,
            seq,
            at_ms,
            ORIGIN,
            "acme",
            "people",
            **{"trace_id": TRACE_ID, **(more[0] if more else {}), **(first if seq == 1 else {})},
        )
        for seq, (status, at_ms, *more) in enumerate(steps, 1)
    ]


REPLAYED = history(
    ("received", 0),
    ("sending", 5),
    ("refused", 105, {"reason": "http_503", "http_status": 503}),
    ("sending", 600, {"attempt": 1}),
    ("dead_lettered", 700, {"reason": "http_503", "http_status": 503, "attempt": 2}),
    ("replayed", 10_000, {"replay": 1}),
    ("sending", 10_010, {"replay": 1}),
    ("accepted", 10_100, {"http_status": 200, "replay": 1}),
    ("enriched", 70_000, {"credits": 6, "replay": 1}),
    parent_id=CALLER,
    sampled=True,
)
RUN = history(
    ("received", 0),
    ("sending", 5),
    ("accepted", 105, {"http_status": 202, "run": "run_1"}),
    ("enriched", 20_105, {"credits": 6}),
    parent_id=CALLER,
    sampled=True,
)
"""Of a lead that a routine has run."""
