"""Detects that Clay accepts requests and answers none, before the first of them times out.

The breaker learns of that only from timeouts. By then a lane at full rate has sent a hundred requests, all of them
uncertain. So if no answer comes for well over the usual time, no more requests are sent than the breaker needs to open,
until one is answered.
"""

from typing import Final

import msgspec

from stream_app.domain.delivery.outcome import Outcome, Uncertain
from stream_app.domain.lane.bounds import Wait
from stream_app.domain.lane.breaker import BreakerPolicy
from stream_app.domain.lane.concurrency import Concurrency, ConcurrencyPolicy
from stream_app.domain.plural import count

REASON: Final = "no_answer"
"""The reason of the hold once the stall is certain."""

_LEAST_MS = 500  # below that it may be our own pause
_UNKNOWN_MS = 2_000  # while it is not known what is usual
_KNOWN_CALLS = 10
_SURE_MS = 1_000


class StallDetector(msgspec.Struct, frozen=True, omit_defaults=True):
    """`begun`: requests sent since the last answer, the first of them at `since_ms`."""

    since_ms: int = 0
    begun: int = 0


class Unanswered(Wait, frozen=True):
    """Why no request may be sent. `text` is '' as long as the stall is not certain."""

    reason: str
    text: str = ""


NOTHING = StallDetector()


def begun(state: StallDetector, now_ms: int) -> StallDetector:
    """Return the state after a request was sent."""
    return StallDetector(state.since_ms if state.begun else now_ms, state.begun + 1)


def ended(state: StallDetector, outcome: Outcome | None, under_way: int) -> StallDetector:
    """Return the state after a request ended, answered or not; `under_way` are left."""
    answered = outcome is not None and (not isinstance(outcome, Uncertain) or outcome.http_status is not None)
    return NOTHING if answered or under_way <= 0 else state


def permit(
    trips: BreakerPolicy, policy: ConcurrencyPolicy, state: StallDetector, usual: Concurrency, now_ms: int
) -> Unanswered | None:
    """Return None if a request may be sent, else when to ask again if none is answered before."""
    lost_ms = state.since_ms + int(trips.probe_lease_s * 1000)  # longer than the longest request
    suspicious_ms = state.since_ms + _patience_ms(policy, usual)
    if state.begun < trips.consecutive_failures or not suspicious_ms <= now_ms < lost_ms:
        return None
    if now_ms < suspicious_ms + _SURE_MS:
        return Unanswered(suspicious_ms + _SURE_MS, "in_flight")
    text = (
        f"{count(state.begun, 'request')} went out and Clay has answered none of them: no more go before one has ended"
    )
    return Unanswered(min(lost_ms, now_ms + int(trips.open_s * 1000)), REASON, text)


def _patience_ms(policy: ConcurrencyPolicy, usual: Concurrency) -> int:
    if usual.calls < _KNOWN_CALLS:
        return _UNKNOWN_MS
    return max(_LEAST_MS, int(policy.tolerance * usual.usual_ms))
