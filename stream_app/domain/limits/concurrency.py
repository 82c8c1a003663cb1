"""How many POSTs may be in flight: what the rate and the usual latency need, and less while Clay is slow.

A gradient algorithm, as in Netflix's concurrency-limits (Gradient2). While answers take about their usual time, the
limit grows to twice what the rate and that time keep in flight (Little's law). So a process that is killed leaves few
requests without an answer. While answers take longer, the limit shrinks in proportion. The usual time adapts slowly, so
a Clay that stays slower is fully used again. Calls with little concurrency say nothing about the limit.
"""

import msgspec

_USUAL_CALLS = 600  # what is usual is the mean of about so many
_FIRST_CALLS = 10
_QUEUE = 4.0  # by how much the limit tries to grow
_SMOOTHING = 0.2
_LEAST_GRADIENT = 0.5
_BACK_TO_USUAL = 0.95
_HEADROOM = 2.0
LEAST = 5
"""The lowest limit, and the first one, unless the configuration allows fewer."""
TOLERANCE = 2.0
"""Multiple of the usual latency up to which the limit does not shrink."""
_OWN_MS = 100.0  # a slot is taken while the step before the POST is committed, too


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """`limit` 0: not known yet, so `LEAST` applies. `usual_ms`: mean latency over `calls`."""

    limit: float = 0.0
    usual_ms: float = 0.0
    calls: int = 0


def current(most: int, state: Concurrency) -> int:
    """Return the present limit, `most` at most."""
    return min(most, max(LEAST, round(state.limit)))


def answered(most: int, state: Concurrency, latency_ms: int, in_flight: int, rate_per_s: float) -> Concurrency:
    """Return the state after a call.

    `in_flight`: this call and all that ran beside it. `rate_per_s`: the highest rate of the lane.
    """
    took_ms = float(max(1, latency_ms))
    calls = min(state.calls + 1, _USUAL_CALLS)
    usual_ms = state.usual_ms + (took_ms - state.usual_ms) / calls
    if calls > _FIRST_CALLS and usual_ms > 2 * took_ms:
        usual_ms *= _BACK_TO_USUAL
    least = min(LEAST, most)
    limit = state.limit or float(least)
    if in_flight >= limit / 2 and calls > _FIRST_CALLS:
        gradient = max(_LEAST_GRADIENT, min(1.0, TOLERANCE * usual_ms / took_ms))
        limit += _SMOOTHING * (limit * gradient + _QUEUE - limit)
    needed = _HEADROOM * rate_per_s * (max(usual_ms, took_ms) + _OWN_MS) / 1000
    return Concurrency(max(float(least), min(float(most), needed, limit)), usual_ms, calls)
