"""What an outage of Clay costs in calls, and how soon its end is found."""

import math
import random

import pytest

from stream_app.domain.lane import breaker
from stream_app.domain.lane.breaker import Breaker, BreakerPolicy, Permit
from tests.unit.domain.test_breaker import NOW_MS, QUIET


class Outage:
    """An outage of Clay at 8 leads a second: what it costs, and when the first lead is taken after it."""

    def __init__(self, lasts_s: float, host_answers: bool, latency_ms: int, seed: int) -> None:
        policy, chance = BreakerPolicy(), random.Random(seed)
        self.wasted, self.back_s = 0, math.inf
        state, now_ms, ends_ms = Breaker(), NOW_MS, NOW_MS + int(lasts_s * 1000)
        check_ms, answered = NOW_MS, list[tuple[int, Permit, bool]]()
        while (now_ms < ends_ms + 20_000 and state.phase != "closed") or now_ms < ends_ms:
            while answered and answered[0][0] <= now_ms:
                _, permit, ok = answered.pop(0)
                verdict: breaker.Verdict = "ok" if ok else "failure"
                state = breaker.on_result(policy, state, permit, verdict, QUIET, now_ms, chance.random())
            if now_ms >= check_ms:
                check_ms += 1_000
                state = breaker.host_checked(policy, state, host_answers or now_ms >= ends_ms, now_ms)
            state, answer = breaker.permit(policy, state, now_ms)
            if isinstance(answer, Permit):
                ok = now_ms >= ends_ms
                self.wasted += not ok
                self.back_s = min(self.back_s, (now_ms - ends_ms) / 1000) if ok else self.back_s
                answered.append((now_ms + latency_ms, answer, ok))
            now_ms += 125


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("latency_ms", [50, 300])
def test_an_outage_of_the_host_wastes_few_calls_and_ends_within_two_seconds(latency_ms: int, seed: int) -> None:
    for lasts_s in (3.0, 12.0, 60.0, 61.7):
        outage = Outage(lasts_s, False, latency_ms, seed)
        assert outage.wasted <= 5 + 3 + lasts_s / 9
        assert outage.back_s <= 1.5


@pytest.mark.parametrize("seed", range(5))
def test_an_outage_of_the_webhook_alone_is_found_by_probes_only(seed: int) -> None:
    outage = Outage(60.0, True, 100, seed)
    assert outage.wasted <= 20
    assert outage.back_s <= 5.0
