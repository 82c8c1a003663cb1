"""Shares are decimals as an operator writes them, wherever a whole number is compared with one."""

from functools import partial

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.domain.lane import breaker, flood_guard
from stream_app.domain.lane.bounds import exact
from stream_app.domain.lane.breaker import Breaker, BreakerPolicy, Permit
from stream_app.domain.lane.flood_guard import FloodGuard, FloodGuardPolicy
from stream_app.domain.lane.health import Totals


@given(thousandths=st.integers(0, 1_000), whole=st.integers(0, 10**12))
@example(thousandths=900, whole=10)
def test_a_share_of_a_whole_is_exact(thousandths: int, whole: int) -> None:
    share = exact(thousandths / 1_000)
    assert whole * share * 1_000 == whole * thousandths
    assert whole * (1 - share) * 1_000 == whole * (1_000 - thousandths)


@pytest.mark.parametrize("percent", range(1, 101))
def test_breaker_trips_at_its_rate_and_not_below(percent: int) -> None:
    policy = BreakerPolicy(failure_rate=percent / 100, consecutive_failures=1_000)
    for failed, phase in ((percent, "open"), (percent - 1, "closed")):
        totals = partial(Totals, success=100 - failed, failure=failed)
        state = breaker.on_result(policy, Breaker(), Permit(0), "failure", totals, 1, 0.0)
        assert state.phase == phase, failed


@pytest.mark.parametrize("percent", range(1, 101))
def test_flood_guard_stops_above_its_share_and_not_at_it(percent: int) -> None:
    policy = FloodGuardPolicy(share=percent / 100)
    for dead_letters, stops in ((percent, False), (percent + 1, True)):
        if dead_letters <= 100:
            assert (
                bool(flood_guard.verdict(policy, FloodGuard(), Totals(100 - dead_letters, dead_letters=dead_letters)))
                == stops
            )


def test_an_integer_in_place_of_a_float_is_a_share_too() -> None:
    policy = msgspec.convert({"failure_rate": 1}, BreakerPolicy)
    assert exact(policy.failure_rate) == 1
