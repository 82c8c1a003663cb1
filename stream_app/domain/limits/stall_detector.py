"""Detects that Clay accepts requests and answers none, before the first of them times out.

The breaker learns of that only from timeouts. So if no answer comes for well over the usual time, no more requests are
sent than the breaker needs to open, until one is answered.
"""

from typing import Final

import msgspec

from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.limits.concurrency import TOLERANCE, Concurrency, current
from stream_app.domain.model.outcome import Outcome, Uncertain
from stream_app.domain.model.ranges import Wait
from stream_app.domain.model.text import count

REASON: Final = "no_answer"
"""The reason of the hold once the stall is certain."""

_LEAST_MS = 500  # below that it may be our own pause
_UNKNOWN_MS = 2_000  # while it is not known what is usual
_KNOWN_CALLS = 10
_SURE_MS = 1_000


class StallDetector(msgspec.Struct, frozen=True):
    """`waiting`: requests in flight, none of which was answered since `since_ms` (epoch ms)."""

    since_ms: int = 0
    waiting: int = 0


class Unanswered(Wait, frozen=True):
    """Why no request may be sent. `text` is '' as long as the stall is not certain."""

    reason: str
    text: str = ""


NOTHING = StallDetector()


def begun(state: StallDetector, now_ms: int) -> StallDetector:
    """Return the state after a request was sent."""
    return StallDetector(state.since_ms if state.waiting else now_ms, state.waiting + 1)


def ended(state: StallDetector, outcome: Outcome | None, in_flight: int, now_ms: int) -> StallDetector:
    """Return the state after a request ended, answered or not; `in_flight` are left."""
    if in_flight <= 0:
        return NOTHING
    answered = outcome is not None and (not isinstance(outcome, Uncertain) or outcome.http_status is not None)
    return StallDetector(now_ms, in_flight) if answered else state


def permit(trips: BreakerPolicy, most: int, state: StallDetector, usual: Concurrency, now_ms: int) -> Unanswered | None:
    """Return None if a request may be sent, else when to ask again if none is answered before."""
    lost_ms = state.since_ms + int(trips.probe_lease_s * 1000)  # longer than the longest request
    suspicious_ms = certain_ms(state, usual) - _SURE_MS
    enough = min(trips.consecutive_failures, current(most, usual))
    if state.waiting < enough or not suspicious_ms <= now_ms < lost_ms:
        return None
    if now_ms < suspicious_ms + _SURE_MS:
        return Unanswered(suspicious_ms + _SURE_MS, "in_flight")
    sent = count(state.waiting, "request")
    text = f"{sent} went out and Clay has answered none of them: no more go before one has ended"
    return Unanswered(min(lost_ms, now_ms + int(trips.open_s * 1000)), REASON, text)


def certain_ms(state: StallDetector, usual: Concurrency) -> int:
    """Return when a stall is certain if no request is answered before, epoch ms."""
    patience_ms = _UNKNOWN_MS
    if usual.calls >= _KNOWN_CALLS:
        patience_ms = max(_LEAST_MS, int(TOLERANCE * usual.usual_ms))
    return state.since_ms + patience_ms + _SURE_MS
