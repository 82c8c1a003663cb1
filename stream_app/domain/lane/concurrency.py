"""How many POSTs may be in flight. The limit follows Clay's latency, so that a slow Clay gets less load.

A gradient algorithm, as in Netflix's concurrency-limits (Gradient2). While answers take about their usual time, the
limit grows to its maximum. If they take longer, it shrinks in proportion. The usual time adapts slowly, so a Clay that
stays slower is fully used again. Calls with little concurrency say nothing about the limit.
"""

import msgspec

from stream_app.domain.lane.bounds import out_of_order, out_of_range

_USUAL_CALLS = 600  # what is usual is the mean of about so many
_FIRST_CALLS = 10
_QUEUE = 4.0  # by how much the limit tries to grow
_SMOOTHING = 0.2
_LEAST_GRADIENT = 0.5
_BACK_TO_USUAL = 0.95


class ConcurrencyPolicy(msgspec.Struct, frozen=True):
    """The limit is between `least` and `most`. Latency up to `tolerance` times the usual does not shrink it."""

    least: int = 4
    most: int = 100
    tolerance: float = 2.0


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """`limit` 0: not known yet, so `most` applies. `usual_ms`: mean latency over `calls`."""

    limit: float = 0.0
    usual_ms: float = 0.0
    calls: int = 0


def problems(policy: ConcurrencyPolicy) -> list[str]:
    """Return what is wrong with the policy, one line per key."""
    return out_of_range(policy, least=(1, 10_000), most=(1, 10_000), tolerance=(1, 10)) + out_of_order(
        policy, "least", "most"
    )


def current(policy: ConcurrencyPolicy, state: Concurrency) -> int:
    """Return the present limit."""
    if not state.limit:
        return policy.most
    return max(min(policy.least, policy.most), min(policy.most, round(state.limit)))


def answered(policy: ConcurrencyPolicy, state: Concurrency, latency_ms: int, in_flight: int) -> Concurrency:
    """Return the state after a call. `in_flight` counts this call and all that ran beside it."""
    took_ms = float(max(1, latency_ms))
    calls = min(state.calls + 1, _USUAL_CALLS)
    usual_ms = state.usual_ms + (took_ms - state.usual_ms) / calls
    if calls > _FIRST_CALLS and usual_ms > 2 * took_ms:
        usual_ms *= _BACK_TO_USUAL
    limit = state.limit or float(policy.most)
    if in_flight >= limit / 2 and calls > _FIRST_CALLS:
        gradient = max(_LEAST_GRADIENT, min(1.0, policy.tolerance * usual_ms / took_ms))
        limit += _SMOOTHING * (limit * gradient + _QUEUE - limit)
        limit = max(float(policy.least), min(float(policy.most), limit))
    return Concurrency(limit, usual_ms, calls)
