"""The present outage of Clay for display: since when, and how many calls failed."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.lane.breaker import Phase
from stream_app.domain.plural import count

_ONE_OUTAGE_MS: Final = 60_000
"""Failures further apart than this, while the circuit breaker is closed, belong to different outages."""


class Outage(msgspec.Struct, frozen=True):
    """Failed calls. `reason`: of the last one; `since_ms`, `last_ms`: the first and the last one; `calls`: how many."""

    reason: str
    since_ms: int
    last_ms: int
    calls: int


def failed(state: Outage | None, reason: str, phase: Phase, now_ms: int) -> Outage:
    """Return the outage after one more failed call, while the circuit breaker was in `phase`."""
    if state is None or (phase == "closed" and now_ms - state.last_ms > _ONE_OUTAGE_MS):
        return Outage(reason, now_ms, now_ms, 1)
    return Outage(reason, state.since_ms, now_ms, state.calls + 1)


def text(outage: Outage) -> str:
    """Return what Clay answers, and how many calls have failed."""
    kind, _, status = outage.reason.partition("_")
    says = f"Clay answers {status}" if kind == "http" else f"Clay does not answer ({outage.reason})"
    return f"{says}; {count(outage.calls, 'call has', 'calls have')} failed"
