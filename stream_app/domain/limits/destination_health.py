"""The health of one destination, in a lane that has several.

Clay fails as a whole, or one table fails alone. Failed calls of several destinations are Clay's,
and count for the breaker of the lane. As long as the others have not failed within a minute, the
failed calls of one destination say nothing about them: they count for the breaker of that
destination, which then holds its leads and no other.
"""

from typing import Final

import msgspec

from stream_app.domain.limits import breaker, window
from stream_app.domain.limits.breaker import Breaker, BreakerPolicy, Mode, Outage, Permit
from stream_app.domain.limits.window import Window, WindowTotals
from stream_app.domain.model.numbers import TimeMs
from stream_app.domain.model.ranges import Wait

_TOGETHER_MS: Final = 60_000
"""Destinations whose last calls failed within this time of each other fail together."""
_MAX_FAILING: Final = 2
"""How many failing destinations are known: whichever fails next, one of them is another one."""


class DestinationHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last five minutes of a destination, and the breaker of its own failures.

    `outage`: the calls that failed while it failed alone.
    """

    calls: Window = Window()
    breaker: Breaker = Breaker()
    outage: Outage | None = None


class Failing(msgspec.Struct, frozen=True):
    """A destination whose last call failed, and when (epoch ms)."""

    destination: str
    at_ms: TimeMs


def noted(
    failing: tuple[Failing, ...],
    destination: str,
    ok: bool,
    now_ms: int,
) -> tuple[Failing, ...]:
    """Return the destinations whose last call failed, after one more call; the latest first."""
    others = tuple(one for one in failing if one.destination != destination)
    if ok:
        return others if len(others) < len(failing) else failing
    return (Failing(destination, now_ms), *others)[:_MAX_FAILING]


def fails_alone(failing: tuple[Failing, ...], destination: str, now_ms: int) -> bool:
    """Return True if the last calls of other destinations did not fail, or long ago."""
    return all(
        one.destination == destination or now_ms - one.at_ms > _TOGETHER_MS for one in failing
    )


def permit(
    policy: BreakerPolicy,
    state: DestinationHealth,
    now_ms: int,
    mode: Mode,
) -> tuple[DestinationHealth, Permit | Wait]:
    """Decide whether a call to the destination may start now, as far as its own failures say.

    Keep the returned state in any case. `mode`: that of the lane's breaker. Where an operator has
    opened that, it holds the lead anyway.
    """
    after, answer = breaker.permit(
        policy,
        state.breaker,
        now_ms,
        "auto" if mode == "open" else mode,
    )
    return _with_breaker(state, after), answer


def recorded(
    policy: BreakerPolicy,
    state: DestinationHealth,
    permit: Permit | None,
    now_ms: int,
    rand: float,
    mode: Mode,
    *,
    failure: str,
    slow: bool,
    alone: bool,
) -> DestinationHealth:
    """Return the destination after one more call.

    Args:
        policy: That of the lane's breaker.
        state: The destination before.
        permit: With which the call started; None: it had none.
        now_ms: The present time, epoch ms.
        rand: From 0 to 1.
        mode: That of the lane's breaker.
        failure: Why the call failed; '' if Clay took the lead.
        slow: It took long.
        alone: If it failed, the destination fails alone. Any other failure is the lane's.
    """
    ok = not failure
    calls = window.record(window.FIVE_MINUTES, state.calls, now_ms, ok, slow)
    after = state.breaker
    outage = state.outage
    if failure and alone:
        outage = breaker.record_failure(outage, failure, after.cause, now_ms)
    if permit is not None and (ok or alone):
        verdict: breaker.CallVerdict = "ok" if ok else "failure"
        # Failures in a row open it, and no share of failed calls: the window has those of outages
        # of the lane, too.
        after = breaker.on_result(policy, after, permit, verdict, WindowTotals, now_ms, rand, mode)
    elif permit is not None:
        after = breaker.release_probe(after, permit)
    return DestinationHealth(calls, after, outage)


def released(state: DestinationHealth, permit: Permit) -> DestinationHealth:
    """Return the destination after a call that says nothing about its health."""
    return _with_breaker(state, breaker.release_probe(state.breaker, permit))


def _with_breaker(state: DestinationHealth, after: Breaker) -> DestinationHealth:
    return state if after is state.breaker else msgspec.structs.replace(state, breaker=after)
