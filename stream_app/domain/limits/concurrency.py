"""How many POSTs may be in flight: what the rate needs, and less while Clay is slow.

What the rate needs depends on the time that each POST takes.

It is a gradient algorithm, as in Netflix's concurrency-limits (Gradient2). While answers take about
their usual time, the limit grows to twice what the rate keeps in flight (Little's law). So a
process that is killed leaves few requests without an answer. While answers take longer, the limit
shrinks in proportion. The usual time adapts slowly, so a Clay that stays slower is fully used
again. Calls with little concurrency say nothing about the limit.

A call is in flight from its grant to its answer, so the commit of its row is part of that time,
which depends on Kafka and on the neighbours in the partition. The time is learned from the last
calls, so the lane keeps its rate when commits become slow, and keeps few calls in flight while they
are quick.

A Clay that accepts requests and answers none is a stall (`StallDetector`). The breaker learns of
that only from timeouts. So if no answer comes for well over the usual time, no more requests are
sent than the breaker needs to open, until one is answered.
"""

import math
from typing import Final

import msgspec

from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.model.numbers import Real, Whole
from stream_app.domain.model.outcome import Outcome, Uncertain
from stream_app.domain.model.ranges import Wait
from stream_app.domain.model.text import count

_USUAL_CALLS = 600  # what is usual is the mean of about this many
_FIRST_CALLS = 10
_QUEUE = 4.0  # by how much the limit tries to grow
_SMOOTHING = 0.2
_MIN_GRADIENT = 0.5
_BACK_TO_USUAL = 0.95
_HEADROOM = 2.0
MIN_LIMIT = 5  # the lowest limit, and the first one, unless the configuration allows fewer
TOLERANCE = 2.0  # multiple of the usual latency up to which the limit does not shrink
_LAST_CALLS = 20  # how long a call is in flight is the mean of about this many
IN_FLIGHT: Final = "in_flight"  # the reason of a hold that an answer ends
STALLED: Final = "no_answer"  # its reason once a stall is certain
_MIN_PATIENCE_MS = 500  # below that it may be our own pause
_UNKNOWN_MS = 2_000  # while it is not known what is usual
_KNOWN_CALLS = 10
_SURE_MS = 1_000


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """The limit, and what it was learned from.

    Attributes:
        limit: 0 if it is not known yet, so that `MIN_LIMIT` applies.
        usual_ms: The mean latency over `calls`.
        calls: Calls so far, up to the number over which the mean is taken.
        held_ms: How long a call is in flight now, from its grant to its answer; 0 if that is not
            known yet.
    """

    limit: Real = 0.0
    usual_ms: Real = 0.0
    calls: Whole = 0
    held_ms: Real = 0.0


def current(max_limit: int, state: Concurrency) -> int:
    """Return the present limit, `max_limit` at most."""
    return min(max_limit, max(MIN_LIMIT, round(state.limit)))


def most_per_s(limit: int, state: Concurrency) -> float:
    """Return how many calls a second `limit` calls in flight allow (Little's law)."""
    return limit * 1000 / state.held_ms if state.held_ms else math.inf


def answered(
    max_limit: int,
    state: Concurrency,
    latency_ms: int,
    held_ms: int,
    in_flight: int,
    rate_per_s: float,
) -> Concurrency:
    """Return the state after a call.

    Args:
        max_limit: The highest limit that the configuration allows.
        state: The state before.
        latency_ms: From the start of the exchange to Clay's answer.
        held_ms: From the grant to the answer; 0 if this call does not show it.
        in_flight: This call and all that ran beside it.
        rate_per_s: The highest rate of the lane.
    """
    took_ms = float(max(1, latency_ms))
    calls = min(state.calls + 1, _USUAL_CALLS)
    usual_ms = state.usual_ms + (took_ms - state.usual_ms) / calls
    if calls > _FIRST_CALLS and usual_ms > 2 * took_ms:
        usual_ms *= _BACK_TO_USUAL
    min_limit = min(MIN_LIMIT, max_limit)
    limit = state.limit or float(min_limit)
    if in_flight >= limit / 2 and calls > _FIRST_CALLS:
        gradient = max(_MIN_GRADIENT, min(1.0, TOLERANCE * usual_ms / took_ms))
        limit += _SMOOTHING * (limit * gradient + _QUEUE - limit)
    place_ms = state.held_ms
    if held_ms:
        # The first one counts in full: a row of an earlier version has none, whatever number of
        # calls it has.
        place_ms += (held_ms - place_ms) / (min(calls, _LAST_CALLS) if place_ms else 1)
    needed = _HEADROOM * rate_per_s * max(place_ms, float(held_ms), took_ms) / 1000
    return Concurrency(
        max(float(min_limit), min(float(max_limit), needed, limit)),
        usual_ms,
        calls,
        place_ms,
    )


class StallDetector(msgspec.Struct, frozen=True):
    """How many requests are `waiting`, none of them answered since `since_ms` (epoch ms)."""

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


def ended(
    state: StallDetector,
    outcome: Outcome | None,
    in_flight: int,
    now_ms: int,
) -> StallDetector:
    """Return the state after a request ended, answered or not; `in_flight` are left."""
    if not in_flight:
        return NOTHING
    is_answer = outcome is not None and (
        not isinstance(outcome, Uncertain) or outcome.http_status is not None
    )
    return StallDetector(now_ms, in_flight) if is_answer else state


def permit(
    trips: BreakerPolicy,
    max_limit: int,
    state: StallDetector,
    usual: Concurrency,
    now_ms: int,
) -> Unanswered | None:
    """Return None if a request may be sent, else when to ask again if none is answered before."""
    lost_ms = state.since_ms + int(trips.probe_lease_s * 1000)  # longer than the longest request
    suspicious_ms = certain_ms(state, usual) - _SURE_MS
    enough = min(trips.consecutive_failures, current(max_limit, usual))
    if state.waiting < enough or not suspicious_ms <= now_ms < lost_ms:
        return None
    if now_ms < suspicious_ms + _SURE_MS:
        return Unanswered(suspicious_ms + _SURE_MS, IN_FLIGHT)
    sent = count(state.waiting, "request")
    text = f"{sent} went out and Clay has answered none of them: no more go before one has ended"
    return Unanswered(min(lost_ms, now_ms + int(trips.open_s * 1000)), STALLED, text)


def certain_ms(state: StallDetector, usual: Concurrency) -> int:
    """Return when a stall is certain if no request is answered before, epoch ms."""
    patience_ms = _UNKNOWN_MS
    if usual.calls >= _KNOWN_CALLS:
        patience_ms = max(_MIN_PATIENCE_MS, int(TOLERANCE * usual.usual_ms))
    return state.since_ms + patience_ms + _SURE_MS
