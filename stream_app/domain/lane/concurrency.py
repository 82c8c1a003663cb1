"""How many POSTs may be in flight: what the rate and the usual latency need, and less while Clay is slow.

A gradient algorithm, as in Netflix's concurrency-limits (Gradient2). While answers take about their usual time, the
limit follows twice the number in flight: it grows fast while more than half of it is used, and shrinks slowly while
less is. So a process that is killed leaves few requests without an answer. While answers take longer, the limit shrinks
in proportion. The usual time adapts slowly, so a Clay that stays slower is fully used again.
"""

from typing import Annotated, ClassVar

import msgspec

from stream_app.domain.lane.bounds import Policy
from stream_app.domain.ranges import Range

_USUAL_CALLS = 600  # what is usual is the mean of about so many
_FIRST_CALLS = 10
_QUEUE = 4.0  # so much more than a slow Clay needs is tried
_SMOOTHING = 0.2
_GROWTH = 0.02  # a burst of 20 does not double the limit
_LEAST_GRADIENT = 0.5
_BACK_TO_USUAL = 0.95
_HEADROOM = 2  # times what is in flight
_UNUSED = 0.05  # share of an unused limit that a call takes away


class ConcurrencyPolicy(Policy, frozen=True):
    """The limit starts at `least` and ends at `most`. Latency of `tolerance` times the usual does not shrink it yet."""

    ORDERED: ClassVar = (("least", "most"),)

    least: Annotated[int, Range(1, 10_000)] = 5
    most: Annotated[int, Range(1, 10_000)] = 100
    tolerance: Annotated[float, Range(1, 10)] = 2.0


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """`limit` 0: not known yet, so `least` applies. `usual_ms`: mean latency over `calls`."""

    limit: float = 0.0
    usual_ms: float = 0.0
    calls: int = 0


def current(policy: ConcurrencyPolicy, state: Concurrency) -> int:
    """Return the present limit."""
    return min(policy.most, max(policy.least, round(state.limit)))


def answered(policy: ConcurrencyPolicy, state: Concurrency, latency_ms: int, in_flight: int) -> Concurrency:
    """Return the state after a call. `in_flight` counts this call and all that ran beside it."""
    took_ms = float(max(1, latency_ms))
    calls = min(state.calls + 1, _USUAL_CALLS)
    usual_ms = state.usual_ms + (took_ms - state.usual_ms) / calls
    if calls > _FIRST_CALLS and usual_ms > 2 * took_ms:
        usual_ms *= _BACK_TO_USUAL
    limit = state.limit or float(policy.least)
    if in_flight < limit / _HEADROOM:
        limit -= _UNUSED * (limit - _HEADROOM * in_flight)
    elif calls > _FIRST_CALLS:
        gradient = max(_LEAST_GRADIENT, min(1.0, policy.tolerance * usual_ms / took_ms))
        step = _GROWTH * (limit + _QUEUE) if gradient == 1.0 else _SMOOTHING * (limit * gradient + _QUEUE - limit)
        limit += step
    return Concurrency(max(float(policy.least), min(float(policy.most), limit)), usual_ms, calls)
