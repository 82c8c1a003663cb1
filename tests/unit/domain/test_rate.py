"""The rate: never more than the bucket allows, never before Retry-After in all its forms, never
held absurdly long.
"""

import heapq
import random
from math import ceil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from stream_app.domain.limits import rate
from stream_app.domain.limits.rate import Rate, RatePolicy
from stream_app.domain.model.ranges import Wait

POLICY = RatePolicy(rate_per_s=8.0, burst=10)
CLAY_PER_S = 10.0
CLAY_BURST = 20
NOW_MS = 1_795_500_000_000
FULL = Rate(tokens=10.0, at_ms=NOW_MS)
AFTER_ONE = msgspec.structs.replace(FULL, blocked_until_ms=NOW_MS - 120_000)
"""There was a 429 some minutes ago."""


class RateMachine(RuleBasedStateMachine):
    """The model is a bucket that only ever fills, at full rate, for each ms that the clock went
    forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.state = rate.empty_after_takeover(Rate(), NOW_MS)
        self.most = 0.0
        self.blocked_until_ms = 0
        self.policy = POLICY

    @rule(rate_per_s=st.sampled_from([2.0, 8.0]), burst=st.sampled_from([3, 10]))
    def changed_live(self, rate_per_s: float, burst: int) -> None:
        self.policy = RatePolicy(rate_per_s=rate_per_s, burst=burst)

    @rule(step_ms=st.one_of(st.integers(0, 2_000), st.sampled_from([60_000, 10**7])))
    def time_passes(self, step_ms: int) -> None:
        self.now_ms += step_ms
        self.most = min(10.0, self.most + step_ms * 8 / 1000)

    @rule(step_ms=st.sampled_from([-1, -900, -4_999, -5_001, -3_600_000, -(10**11)]))
    def clock_steps_back(self, step_ms: int) -> None:
        self.now_ms += step_ms

    def _look_at_the_clock(self) -> None:
        """A block is cut to its longest from the moment at which the clock is first seen to be
        behind it.
        """
        self.blocked_until_ms = min(self.blocked_until_ms, self.now_ms + 3_600_000)

    @rule(times=st.integers(1, 12))
    def take(self, times: int) -> None:
        self._look_at_the_clock()
        for _ in range(times):
            self.state, wait = rate.take(self.policy, self.state, self.now_ms)
            assert self.state.tokens <= self.policy.burst
            least_per_s = min(rate.FLOOR_PER_S, self.policy.rate_per_s)
            assert least_per_s <= rate.current(self.policy, self.state) <= self.policy.rate_per_s
            if wait is None:
                assert self.now_ms >= self.blocked_until_ms
                assert self.most >= 1.0 - 1e-6
                self.most -= 1.0
            else:
                longest_ms = (
                    3_600_000 if self.now_ms < self.state.blocked_until_ms else 2_000 + 5_000
                )
                assert self.now_ms < wait.until_ms <= self.now_ms + longest_ms
                assert wait.until_ms >= self.blocked_until_ms

    @rule()
    def wait_and_take(self) -> None:
        """A request at the time that was given gets a token soon: after a block the bucket has to
        fill first.
        """
        for _ in range(4):
            self._look_at_the_clock()
            self.state, wait = rate.take(self.policy, self.state, self.now_ms)
            if wait is None:
                self.most -= 1.0
                return
            self.time_passes(wait.until_ms - self.now_ms)
        pytest.fail("still waiting")

    @rule(retry_after_ms=st.one_of(st.none(), st.integers(0, 10**9)), random=st.floats(0, 1))
    def answered_429(self, retry_after_ms: int | None, random: float) -> None:
        self._look_at_the_clock()
        before = self.state
        self.state = rate.on_429(self.policy, before, self.now_ms, retry_after_ms, random)
        asked_ms = min(max(retry_after_ms or 0, 1_000), 3_600_000)
        assert self.state.blocked_until_ms >= self.now_ms + asked_ms
        assert self.state.blocked_until_ms <= self.now_ms + 3_600_000
        self.blocked_until_ms = max(self.blocked_until_ms, self.now_ms + asked_ms)
        self.most = 0.0

    @rule()
    def take_over(self) -> None:
        row = msgspec.json.encode(self.state)
        self.state = rate.empty_after_takeover(msgspec.json.decode(row, type=Rate), self.now_ms)
        self.most = 0.0


TestRateMachine = RateMachine.TestCase
TestRateMachine.settings = settings(stateful_step_count=40)


@pytest.mark.parametrize("rate_per_s", [0.01, 1.0, 3.0, 8.0, 1_000.0])
def test_the_next_token_comes_at_the_time_that_was_said_and_not_before(rate_per_s: float) -> None:
    policy = RatePolicy(rate_per_s=rate_per_s, burst=5)
    state = Rate(at_ms=NOW_MS)
    state, wait = rate.take(policy, state, NOW_MS)
    assert wait == Wait(NOW_MS + ceil(1000 / rate_per_s))
    assert rate.take(policy, state, wait.until_ms - 1)[1] is not None
    assert rate.take(policy, state, wait.until_ms)[1] is None


def test_each_429_event_cuts_the_rate_once_down_to_the_floor() -> None:
    state = AFTER_ONE
    now_ms = NOW_MS
    rates = []
    for _ in range(12):
        for _in_flight in range(5):
            state = rate.on_429(POLICY, state, now_ms, 1_000, 0.5)
        rates.append(rate.current(POLICY, state))
        now_ms = state.blocked_until_ms
    assert rates == pytest.approx([8.0 * 0.75**cuts for cuts in range(1, 10)] + [0.5, 0.5, 0.5])


def test_the_floor_is_no_higher_than_the_configured_rate() -> None:
    policy = RatePolicy(rate_per_s=0.1, burst=1)
    assert rate.current(policy, rate.on_429(policy, AFTER_ONE, NOW_MS, 1_000, 0.5)) == 0.1


def test_the_first_429_in_ten_minutes_waits_and_cuts_nothing() -> None:
    """After an idle time both buckets are full: a burst takes all that Clay has to spare, and the
    rate is right.
    """
    spared = rate.on_429(POLICY, FULL, NOW_MS, None, 0.5)
    assert rate.current(POLICY, spared) == 8.0
    assert spared.tokens == 0.0
    assert spared.blocked_until_ms > NOW_MS
    for after_s, left_per_s in ((2, 6.0), (599, 6.0), (610, 8.0)):
        again = rate.on_429(POLICY, spared, NOW_MS + after_s * 1_000, None, 0.5)
        assert rate.current(POLICY, again) == left_per_s
    cut = rate.on_429(POLICY, AFTER_ONE, NOW_MS, None, 0.5)
    state, _ = rate.take(POLICY, cut, NOW_MS + 20_000)
    assert rate.current(POLICY, rate.on_429(POLICY, state, NOW_MS + 20_000, None, 0.5)) < 6.0


@pytest.mark.parametrize(("after_ms", "rate_per_s"), [(600_000, 6.0), (600_001, 8.0)])
def test_a_429_is_spared_only_when_the_last_block_ended_more_than_ten_minutes_ago(
    after_ms: int,
    rate_per_s: float,
) -> None:
    state = msgspec.structs.replace(FULL, blocked_until_ms=NOW_MS - after_ms)
    limited = rate.on_429(POLICY, state, NOW_MS, 1_000, 0.5)
    assert rate.current(POLICY, limited) == rate_per_s


@pytest.mark.parametrize(
    ("after_ms", "sent", "run"),
    [(60_000, 1, 4), (60_001, 1, 0), (1_000, 10, 4), (1_000, 11, 0)],
)
def test_the_backoff_goes_on_for_a_minute_and_a_burst_and_then_begins_again(
    after_ms: int,
    sent: int,
    run: int,
) -> None:
    state = msgspec.structs.replace(
        FULL,
        blocked_until_ms=NOW_MS - after_ms,
        sent=sent,
        run=3,
    )
    assert rate.on_429(POLICY, state, NOW_MS, None, 0.5).run == run


def test_a_retry_after_of_64_characters_is_read_and_a_longer_one_is_not() -> None:
    assert rate.parse_retry_after("7".rjust(64, "0"), NOW_MS) == 7_000
    assert rate.parse_retry_after("7".rjust(65, "0"), NOW_MS) is None


def test_the_rate_recovers_fast_to_near_the_last_limit_then_slowly_then_ever_faster() -> None:
    state = rate.on_429(POLICY, AFTER_ONE, NOW_MS, 1_000, 0.5)
    rates = []
    for after_s in (0, 10, 24, 34, 134, 144, 154):
        state, _ = rate.take(POLICY, state, NOW_MS + 1_000 + after_s * 1000)
        rates.append(round(rate.current(POLICY, state), 2))
    assert rates == [6.0, 6.5, 7.2, 7.21, 7.31, 7.62, 8.0]
    assert state.cut_per_s == 0.0, "forgotten"
    assert state.limit_per_s == 0.0, "forgotten"


def _sent(state: Rate, from_ms: int, to_ms: int) -> Rate:
    """Return the state after the lane sent as much as it could."""
    while from_ms < to_ms:
        state, wait = rate.take(POLICY, state, from_ms)
        from_ms = wait.until_ms if wait else from_ms
    return state


def test_two_429s_measure_the_limit_of_clay() -> None:
    state = rate.on_429(POLICY, AFTER_ONE, NOW_MS, 1_000, 0.5)
    assert rate.current(POLICY, state) == 6.0, "not measured yet"
    state = _sent(state, NOW_MS + 1_000, NOW_MS + 21_000)
    allowed = state.sent - 1
    state = rate.on_429(POLICY, state, NOW_MS + 21_000, 1_000, 0.5)
    assert rate.current(POLICY, state) == pytest.approx(allowed / 21)
    for _in_flight in range(3):
        state = rate.on_429(POLICY, state, NOW_MS + 22_500, 1_000, 0.5, latency_ms=2_000)
    assert state.limited_ms == NOW_MS + 21_000, "sent before the 429: no new measurement"
    assert state.sent == -3, "sent before the 429: no new measurement"
    assert state.accepted > 0 < state.accepted_ms
    state, _ = rate.take(POLICY, state, NOW_MS + 3_600_000)
    assert state.cut_per_s == 0, "forgotten"
    assert state.limit_per_s == 0, "forgotten"
    assert state.accepted == 0, "forgotten"
    assert state.accepted_ms == 0, "forgotten"


def test_what_clay_took_before_the_last_429_weighs_half_of_what_it_took_since() -> None:
    state = Rate(
        at_ms=NOW_MS,
        limited_ms=NOW_MS - 10_000,
        sent=101,
        quiet_ms=10_000,
        accepted=100,
        accepted_ms=40_000,
    )
    state = rate.on_429(POLICY, state, NOW_MS, 1_000, 0.5)
    assert state.accepted == 50 + 100
    assert state.accepted_ms == 20_000 + 10_000
    assert state.limit_per_s == pytest.approx(5.0), "it took 2.5 a second before, and 10 since"


def test_a_lane_that_had_no_429_before_has_measured_nothing() -> None:
    """How full Clay's bucket was when the lane began is not known."""
    state = Rate(at_ms=NOW_MS, sent=801, quiet_ms=100_000)
    assert state.limited_ms == 0
    state = rate.on_429(POLICY, state, NOW_MS, 1_000, 0.5)
    assert state.accepted == 0
    assert state.accepted_ms == 0
    assert rate.current(POLICY, state) == 8.0


@pytest.mark.parametrize("why", ["idle", "taken over"])
def test_a_lane_that_had_nothing_to_send_has_measured_nothing(why: str) -> None:
    state = rate.on_429(POLICY, AFTER_ONE, NOW_MS, 1_000, 0.5)
    state = _sent(state, NOW_MS + 1_000, NOW_MS + 2_000)
    now_ms = NOW_MS + (10_000 if why == "idle" else 3_000)
    if why == "taken over":
        state = rate.empty_after_takeover(state, now_ms)
    before_per_s = rate.current(POLICY, rate.take(POLICY, state, now_ms)[0])
    state = rate.on_429(POLICY, state, now_ms, 1_000, 0.5)
    assert rate.current(POLICY, state) == pytest.approx(0.75 * before_per_s)
    assert state.limit_per_s == pytest.approx(0.9 * before_per_s)


@pytest.mark.parametrize(
    ("changes", "accepted", "limit_per_s"),
    [
        ({}, 100, 5.0),
        ({"sent": 2}, 1, 0.05),
        # More calls that were under way at the last 429 were refused, too, than went since.
        ({"sent": -2}, 0, 7.2),
        ({"quiet_ms": 0}, 0, 7.2),
        # The clock was set back.
        ({"limited_ms": NOW_MS}, 0, 7.2),
        ({"limited_ms": NOW_MS + 1}, 0, 7.2),
    ],
)
def test_a_429_measures_only_a_time_in_which_clay_took_calls(
    changes: dict[str, int],
    accepted: int,
    limit_per_s: float,
) -> None:
    before = Rate(at_ms=NOW_MS, limited_ms=NOW_MS - 20_000, sent=101, quiet_ms=20_000)
    before = msgspec.structs.replace(before, **changes)
    state = rate.on_429(POLICY, before, NOW_MS, 1_000, 0.5)
    assert state.accepted == accepted
    assert state.limit_per_s == pytest.approx(limit_per_s)


def _with_clay(limit_per_s: float, jitter_ms: int) -> tuple[int, int]:
    """Run the default rate against Clay's bucket for half an hour: calls that it took, and that it
    answered 429.

    Args:
        limit_per_s: What flows into Clay's bucket.
        jitter_ms: How much longer than others a request may take.
    """
    policy = RatePolicy()
    chance = random.Random(7)
    now_ms = NOW_MS
    last_ms = NOW_MS
    state = rate.empty_after_takeover(Rate(), now_ms)
    tokens = float(CLAY_BURST)
    number = 0
    consumed = 0
    limited = 0
    # at, number, Clay's answer (None: it arrives)
    under_way: list[tuple[int, int, bool | None]] = []
    while now_ms < NOW_MS + 1_800_000:
        while under_way and under_way[0][0] <= now_ms:
            at_ms, _, took = heapq.heappop(under_way)
            if took is None:
                tokens = min(CLAY_BURST, tokens + (at_ms - last_ms) / 1_000 * limit_per_s)
                last_ms = at_ms
                number = number + 1
                took = tokens >= 1
                tokens -= took
                heapq.heappush(under_way, (at_ms + 125, number, took))
                continue
            consumed = consumed + took
            limited = limited + (not took)
            if not took:
                state = rate.on_429(policy, state, at_ms, None, chance.random(), 250)
        state, wait = rate.take(policy, state, now_ms)
        if wait is None:
            number += 1
            heapq.heappush(
                under_way,
                (now_ms + 100 + chance.randrange(jitter_ms + 1), number, None),
            )
        else:
            now_ms = max(now_ms + 1, min([wait.until_ms, *(at_ms for at_ms, *_ in under_way[:1])]))
    return consumed, limited


@pytest.mark.parametrize("jitter_ms", [0, 200])
def test_at_the_default_rate_all_of_the_quota_is_used_and_no_call_is_answered_429(
    jitter_ms: int,
) -> None:
    consumed, limited = _with_clay(CLAY_PER_S, jitter_ms)
    assert round(consumed / 1_800, 1) == CLAY_PER_S
    assert limited == 0


@pytest.mark.parametrize(("limit_per_s", "jitter_ms"), [(9.5, 0), (8.0, 200), (6.5, 0), (5.0, 200)])
def test_99_percent_of_the_rate_that_others_leave_is_used_and_fewer_than_one_in_400_is_answered_429(
    limit_per_s: float,
    jitter_ms: int,
) -> None:
    """Others use up to half of Clay's 10 a second."""
    consumed, limited = _with_clay(limit_per_s, jitter_ms)
    assert limited / (consumed + limited) < (0.002 if limit_per_s >= 8 else 0.0025)
    assert consumed >= 0.99 * limit_per_s * 1_800
    assert limited > 10, "it did look for the limit"


def test_a_rate_changed_live_takes_effect_at_once() -> None:
    cut = rate.on_429(POLICY, AFTER_ONE, NOW_MS, 1_000, 0.5)
    assert rate.current(RatePolicy(rate_per_s=6.0), cut) == 4.0
    assert rate.current(RatePolicy(rate_per_s=2.0), cut) == 0.5


@pytest.mark.parametrize("retry_after_ms", [None, 0])
def test_without_a_usable_retry_after_the_wait_doubles_to_a_minute_and_is_forgotten(
    retry_after_ms: int | None,
) -> None:
    for rand, expected in ((1.0, [1, 2, 4, 8, 16, 32, 60, 60]), (0.0, [1, 1, 2, 4, 8, 16, 30, 30])):
        state = FULL
        now_ms = NOW_MS
        waits = []
        for _ in range(8):
            state = rate.on_429(POLICY, state, now_ms, retry_after_ms, rand)
            waits.append((state.blocked_until_ms - now_ms) / 1000)
            now_ms = state.blocked_until_ms
        assert waits == expected
        state = rate.on_429(POLICY, state, now_ms + 60_001, retry_after_ms, rand)
        assert state.blocked_until_ms - (now_ms + 60_001) == 1_000


def test_the_429s_of_one_block_are_one_step_of_the_backoff() -> None:
    state = FULL
    for _in_flight in range(5):
        state = rate.on_429(POLICY, state, NOW_MS, None, 1.0)
    assert state.blocked_until_ms == NOW_MS + 1_000
    assert state.tokens == 0
    state = rate.on_429(POLICY, state, NOW_MS + 1_000, None, 1.0)
    assert state.blocked_until_ms == NOW_MS + 3_000


def test_the_bucket_does_not_fill_during_a_block() -> None:
    state = rate.on_429(POLICY, AFTER_ONE, NOW_MS, 60_000, 0.5)
    assert rate.take(POLICY, state, NOW_MS + 60_000)[1] is not None
    assert rate.take(POLICY, state, NOW_MS + 61_000)[0].tokens == pytest.approx(6 - 1)


SECOND_BEFORE_MS = 784_111_777_000 - 1_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("0", 0),
        ("0.0", 0),
        ("1", 1_000),
        (" 120 ", 120_000),
        ("1.5", 1_500),
        ("0.0001", 1),
        (".5", 500),
        ("9" * 30, 10**33),
        ("9" * 65, None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("soon", None),
        ("120s", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 1_000),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 1_000),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 1_000),
        ("Sun Nov  6 08:49:37 1994", 1_000),
        ("Sun, 06 Nov 1994 08:49:35 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
def test_retry_after_in_all_its_forms(value: str | None, expected: int | None) -> None:
    assert rate.parse_retry_after(value, SECOND_BEFORE_MS) == pytest.approx(expected)


@given(st.text(max_size=70), st.integers(-(10**14), 10**14))
@settings(max_examples=6 * settings().max_examples)
def test_no_text_crashes_the_parser(value: str, now_ms: int) -> None:
    wait_ms = rate.parse_retry_after(value, now_ms)
    assert wait_ms is None or wait_ms >= 0


@given(st.decimals(0, 10**6, places=3))
def test_decimal_seconds_are_never_rounded_down(seconds: object) -> None:
    wait_ms = rate.parse_retry_after(str(seconds), NOW_MS)
    assert wait_ms is not None
    assert 0 <= wait_ms - float(str(seconds)) * 1000 < 1.001 or wait_ms == ceil(
        float(str(seconds)) * 1000,
    )
