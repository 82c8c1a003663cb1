"""What Clay answers while it fails: since when, and how many calls it has cost. For people; nothing decides by it."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.lane.breaker import Phase
from stream_app.domain.plural import count

_ONE_OUTAGE_MS: Final = 60_000
"""Failures that lie further apart, while the circuit breaker is closed, belong to different outages."""


class Outage(msgspec.Struct, frozen=True):
    """Calls that failed. `reason`: of the last one; `since_ms` and `last_ms`: the first and the last one; `calls`."""

    reason: str
    since_ms: int
    last_ms: int
    calls: int


def failed(state: Outage | None, reason: str, phase: Phase, now_ms: int) -> Outage:
    """One more call has failed, while the circuit breaker was in `phase`."""
    if state is None or (phase == "closed" and now_ms - state.last_ms > _ONE_OUTAGE_MS):
        return Outage(reason, now_ms, now_ms, 1)
    return Outage(reason, state.since_ms, now_ms, state.calls + 1)


def text(outage: Outage) -> str:
    """What Clay answers, and how many calls have failed."""
    kind, _, status = outage.reason.partition("_")
    says = f"Clay answers {status}" if kind == "http" else f"Clay does not answer ({outage.reason})"
    return f"{says}; {count(outage.calls, 'call has', 'calls have')} failed"
