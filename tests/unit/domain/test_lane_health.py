"""What a lane learns from Clay's answers: its health, how many POSTs may be under way, stalls, and
turns.
"""

import math
import random
from collections import deque

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lane.lane import Horizon, Lane, postpone, sends_per_s
from stream_app.domain.limits import concurrency, window
from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.limits.concurrency import Concurrency, StallDetector, Unanswered
from stream_app.domain.limits.rate import Rate, RatePolicy
from stream_app.domain.limits.window import LAST_MINUTE, Window, WindowSpan, WindowTotals
from stream_app.domain.model.outcome import Accepted, RateLimited, Refused, Uncertain
from stream_app.domain.plan import InForce
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.lane_now import view
from tests.support.narrow import present

NOW_MS = 1_795_500_000_000
SPAN_MS = 60_000


def _recorded(calls: list[tuple[int, bool, bool]], span: WindowSpan = LAST_MINUTE) -> Window:
    state = Window()
    for at_ms, ok, slow in calls:
        state = window.record(span, state, at_ms, ok, slow, 100)
    return state


@given(st.lists(st.tuples(st.integers(0, 20_000), st.booleans(), st.booleans()), max_size=40))
def test_counts_exactly_the_calls_of_the_last_slots(steps: list[tuple[int, bool, bool]]) -> None:
    at_ms = NOW_MS
    calls = []
    for step_ms, ok, slow in steps:
        at_ms += step_ms
        calls.append((at_ms, ok, slow))
    oldest_slot = at_ms // 6_000 - 9
    inside = [(ok, slow) for then_ms, ok, slow in calls if then_ms // 6_000 >= oldest_slot]
    expected = WindowTotals(
        success=sum(ok for ok, _ in inside),
        failure=sum(not ok for ok, _ in inside),
        slow=sum(ok and slow for ok, slow in inside),
    )
    state = _recorded(calls)
    assert window.totals(LAST_MINUTE, state, at_ms) == expected
    assert len(state.buckets) <= LAST_MINUTE.buckets


@given(st.lists(st.integers(-(10**13), 10**13), min_size=1, max_size=30))
def test_a_stepping_clock_neither_crashes_nor_keeps_old_calls(times: list[int]) -> None:
    state = _recorded([(at_ms, True, False) for at_ms in times])
    assert len(state.buckets) <= LAST_MINUTE.buckets
    assert [bucket.slot for bucket in state.buckets] == sorted(
        {bucket.slot for bucket in state.buckets},
    )
    assert window.totals(LAST_MINUTE, state, times[-1]).calls >= 1
    assert window.totals(LAST_MINUTE, state, times[-1] + 2 * SPAN_MS).calls == 0


def test_a_clock_that_steps_back_forgets_no_failure() -> None:
    state = _recorded([(NOW_MS + n, False, False) for n in range(5)])
    back_ms = NOW_MS - 3_600_000
    state = window.record(LAST_MINUTE, state, back_ms, True, False, 100)
    assert window.totals(LAST_MINUTE, state, back_ms) == WindowTotals(success=1, failure=5)
    assert window.totals(LAST_MINUTE, state, back_ms + SPAN_MS) == WindowTotals()


def test_health_is_of_the_last_five_minutes() -> None:
    state = _recorded([(NOW_MS, False, False)], window.FIVE_MINUTES)
    later_ms = (NOW_MS + 299_999, NOW_MS + 300_000)
    assert [window.totals(window.FIVE_MINUTES, state, now_ms).calls for now_ms in later_ms] == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("success", "failure", "slow", "status"),
    [
        (10, 9, 0, "insufficient_data"),
        (96, 4, 0, "healthy"),
        (95, 5, 0, "degraded"),
        (81, 19, 0, "degraded"),
        (80, 20, 0, "unhealthy"),
        (100, 0, 10, "degraded"),
        (100, 0, 100, "unhealthy"),
        (0, 20, 0, "unhealthy"),
    ],
)
def test_status_by_score(success: int, failure: int, slow: int, status: str) -> None:
    assert window.status(WindowTotals(success, failure, slow), None) == status


@pytest.mark.parametrize("per_s", [0.2, 1, 10])
@pytest.mark.parametrize("failing", [0.05, 0.2, 0.125])
def test_a_lane_at_the_border_of_two_states_is_not_reported_again_and_again(
    per_s: float,
    failing: float,
) -> None:
    """Half an hour in which as many calls fail as tell two states apart, for five lanes."""
    changes = 0
    for seed in range(5):
        chance = random.Random(seed)
        state = Window()
        before = LaneView("acme", 0, 0, "closed", "healthy", 100, 10)
        at_ms = NOW_MS
        for number in range(int(1_800 * per_s)):
            at_ms += round(1_000 / per_s)
            ok = chance.random() >= failing
            state = window.record(window.FIVE_MINUTES, state, at_ms, ok, False, None)
            if number % per_s >= 1:  # a lane publishes its state once a second at most
                continue
            seen = view(InForce("acme"), Lane("acme", 0, health=state), [], at_ms, before)
            changes += sum(change.kind.startswith("health_") for change in seen.news)
            before = seen
    assert changes <= 5 * 5, "once each ten minutes at most, and the first ones"


@pytest.mark.parametrize(
    ("success", "failure", "before", "status"),
    [
        (285, 15, "healthy", "healthy"),  # 95: it may be chance
        (285, 15, "degraded", "degraded"),
        (270, 30, "healthy", "degraded"),  # 90: it is not
        (295, 5, "degraded", "healthy"),
        (20, 0, "degraded", "healthy"),  # nothing fails
        (20, 0, "unhealthy", "healthy"),
        (235, 65, "degraded", "degraded"),  # 78
        (200, 100, "degraded", "unhealthy"),
        (0, 300, "healthy", "unhealthy"),  # at once, not by steps
        (250, 50, "unhealthy", "unhealthy"),  # 83
        (270, 30, "unhealthy", "degraded"),
        (12, 0, "healthy", "healthy"),  # fewer calls than a first status needs
        (9, 0, "healthy", "insufficient_data"),
        (12, 0, "insufficient_data", "insufficient_data"),
        (20, 0, "insufficient_data", "healthy"),
    ],
)
def test_a_status_changes_when_the_score_is_clearly_past_the_border(
    success: int,
    failure: int,
    before: window.HealthStatus,
    status: window.HealthStatus,
) -> None:
    assert window.status(WindowTotals(success, failure), before) == status


def test_the_score_without_a_call_is_that_of_no_failure() -> None:
    assert [
        window.score(counts) for counts in (WindowTotals(), WindowTotals(9), WindowTotals(0, 1))
    ] == [
        100.0,
        100.0,
        0.0,
    ]


@given(st.lists(st.integers(0, 59_999), min_size=1, max_size=200))
def test_percentiles_lie_in_the_cell_of_the_true_one(latencies: list[int]) -> None:
    state = Window()
    for latency_ms in latencies:
        state = window.record(LAST_MINUTE, state, NOW_MS, True, False, latency_ms)
    latency = present(window.latency(LAST_MINUTE, state, NOW_MS))
    ordered = sorted(latencies)
    for share, estimate in ((0.50, latency.p50_ms), (0.95, latency.p95_ms), (0.99, latency.p99_ms)):
        true = ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
        high = next(bound for bound in window.LATENCY_BOUNDS_MS if true <= bound)
        low = max((bound for bound in window.LATENCY_BOUNDS_MS if bound < high), default=0)
        assert low <= estimate <= high


def test_the_cells_of_a_row_mean_what_they_meant_when_it_was_written() -> None:
    """Only another number of cells shows that a row is of another version."""
    cells = [
        Window((window.Bucket(0, latencies=(0,) * cell + (1,) + (0,) * (18 - cell)),))
        for cell in range(18)
    ]
    assert [shown.p99_ms for row in cells if (shown := window.latency(LAST_MINUTE, row, 0))] == [
        25,
        50,
        100,
        150,
        200,
        299,
        498,
        748,
        998,
        1_495,
        1_995,
        2_990,
        4_980,
        7_475,
        9_975,
        14_950,
        29_850,
        59_700,
    ]


def test_latency_above_the_last_bound_and_without_calls() -> None:
    assert window.latency(LAST_MINUTE, Window(), NOW_MS) is None
    state = window.record(LAST_MINUTE, Window(), NOW_MS, False, True, 10**9)
    assert window.latency(LAST_MINUTE, state, NOW_MS) == window.Latency(60_000, 60_000, 60_000)


def test_rows_of_other_versions_are_read() -> None:
    row = b'{"buckets": [{"slot": %d, "success": 3, "latencies": [1, 2], "later": 1}], "later": {}}'
    state = msgspec.json.decode(row % (NOW_MS // 6_000), type=Window)
    state = window.record(LAST_MINUTE, state, NOW_MS, True, False, 10)
    assert window.totals(LAST_MINUTE, state, NOW_MS).success == 4
    assert state.buckets[0].latencies == (1, *[0] * 18), (
        "a call is counted once, in cells of this version"
    )
    assert msgspec.json.decode(msgspec.json.encode(state), type=Window) == state


MAX_LIMIT = 100
RATE_PER_S = 1_000.0


def _after(
    state: Concurrency,
    calls: int,
    latency_ms: int,
    in_flight: int | None = None,
) -> Concurrency:
    """Calls whose rows take 100 ms to commit."""
    for _ in range(calls):
        beside = concurrency.current(MAX_LIMIT, state) if in_flight is None else in_flight
        state = concurrency.answered(
            MAX_LIMIT,
            state,
            latency_ms,
            latency_ms + 100,
            beside,
            RATE_PER_S,
        )
    return state


@pytest.mark.parametrize(
    ("known_ms", "latency_ms", "held_ms", "limit"),
    [
        (0.0, 300, 400, 8.0),  # the first call
        (400.0, 300, 400, 8.0),
        (400.0, 300, 800, 16.0),  # one that takes longer raises the limit at once
        (800.0, 300, 400, 15.6),  # one that takes less moves the mean by a twentieth
        # its own place is not known, but it took at least as long as its answer
        (400.0, 800, 0, 16.0),
        (0.0, 300, 0, 6.0),
        (400.0, 300, 100_000, 50.0),
        (100.0, 90, 100, 5.0),
    ],
)
def test_more_than_twice_what_the_rate_needs_is_given_back(
    known_ms: float,
    latency_ms: int,
    held_ms: int,
    limit: float,
) -> None:
    before = Concurrency(50.0, 300.0, 10**9, known_ms)
    state = concurrency.answered(MAX_LIMIT, before, latency_ms, held_ms, 0, 10.0)
    assert state.limit == pytest.approx(limit)


def test_how_long_a_call_takes_its_place_is_the_mean_of_the_last_twenty() -> None:
    state = Concurrency()
    means_ms = []
    for held_ms in (600, 300, 300, 0, 340):
        state = concurrency.answered(MAX_LIMIT, state, 100, held_ms, 1, 10.0)
        means_ms.append(state.held_ms)
    assert means_ms == pytest.approx([600, 450, 400, 400, 388]), "the mean of those that show it"
    of_an_earlier_version = Concurrency(5.0, 100.0, 600)
    first = concurrency.answered(MAX_LIMIT, of_an_earlier_version, 100, 600, 1, 10.0)
    assert first.held_ms == 600, "whatever number of calls did not show it"
    later = _after(state, 400, 900)
    assert later.held_ms == pytest.approx(1_000, abs=1), "what was before is forgotten"
    assert concurrency.answered(MAX_LIMIT, later, 900, 3_000, 1, 10.0).held_ms == pytest.approx(
        1_100,
        abs=1,
    )
    assert [concurrency.most_per_s(limit, later) for limit in (5, 20)] == pytest.approx(
        [5, 20],
        rel=0.01,
    )
    assert concurrency.most_per_s(5, Concurrency()) == math.inf, "not known yet"


def test_a_lasting_slowness_becomes_the_usual_latency() -> None:
    assert (
        concurrency.current(MAX_LIMIT, _after(_after(Concurrency(), 500, 300), 5_000, 3_000)) == 100
    )
    long = _after(Concurrency(), 10_000, 300)
    assert long.calls == 600, "the mean of the last 600 or so"
    assert _after(long, 1, 900).usual_ms == 301, "the mean of the last 600 or so"


def test_ten_calls_show_what_is_usual_before_the_limit_grows() -> None:
    """And more than twice as fast a call as usual moves the mean by a twentieth of it."""
    assert [_after(Concurrency(), calls, 300, in_flight=9).limit for calls in (10, 11, 12)] == [
        5,
        5.8,
        6.6,
    ]
    usual = Concurrency(5.0, 400.0, 99)
    assert _after(usual, 1, 199).usual_ms == pytest.approx(400 - 2.01), "half is not fast"
    assert _after(usual, 1, 198).usual_ms == pytest.approx((400 - 2.02) * 0.95)
    assert _after(Concurrency(5.0, 23.0, 11), 1, 11).usual_ms == 22, "half of the mean is not fast"
    for calls, mean_ms in ((8, 360), (9, 364), (10, (400 - 360 / 11) * 0.95)):
        known = Concurrency(5.0, 400.0, calls)
        assert _after(known, 1, 40).usual_ms == pytest.approx(mean_ms), "ten are too few"
    assert _after(Concurrency(20.0, 400.0, 99), 1, 1_000).limit == pytest.approx(20.048), (
        "slow, and not twice so"
    )


def test_slow_calls_do_not_shrink_a_limit_that_is_not_used() -> None:
    usual = _after(Concurrency(), 500, 300)
    assert _after(usual, 50, 3_000, in_flight=3).limit == _after(usual, 50, 300, in_flight=3).limit
    odd = msgspec.structs.replace(usual, limit=7.0)
    assert [_after(odd, 1, 3_000, in_flight=used).limit == 7.0 for used in (3, 4)] == [True, False]
    even = msgspec.structs.replace(usual, limit=20.0)
    assert [_after(even, 1, 3_000, in_flight=used).limit == 20 for used in (9, 10)] == [True, False]


def test_one_call_moves_the_limit_by_little_however_long_it_took() -> None:
    known = Concurrency(20.0, 400.0, 99)
    assert _after(known, 1, 30_000).limit == pytest.approx(18.8), "by a tenth of it, and 0.8 back"
    assert _after(known, 1, 0).limit == pytest.approx(20.8), "within the same millisecond"


def test_the_first_slow_call_shrinks_a_limit_that_had_grown_to_its_highest() -> None:
    grown = _after(Concurrency(99.9, 400.0, 99), 50, 400)
    assert grown.limit == MAX_LIMIT
    assert concurrency.current(MAX_LIMIT, _after(grown, 1, 30_000)) == 91


def test_a_clay_that_queues_beyond_its_capacity_is_not_pressed() -> None:
    """Clay serves 20 at a time in 200 ms; the rest queue.

    Pressed with 100 each call takes a second; so it settles.
    """
    state = Concurrency()
    busy = deque([0] * 20)
    now_ms = 0
    under_way = deque[tuple[int, int]]()
    last_ms = 0
    for _ in range(6_000):
        while len(under_way) >= concurrency.current(MAX_LIMIT, state):
            ends_ms, took_ms = under_way.popleft()
            now_ms = max(now_ms, ends_ms)
            state = concurrency.answered(
                MAX_LIMIT,
                state,
                took_ms,
                took_ms,
                len(under_way) + 1,
                RATE_PER_S,
            )
            last_ms = took_ms
        free_ms = max(now_ms, busy.popleft())
        busy.append(free_ms + 200)
        under_way.append((free_ms + 200, free_ms + 200 - now_ms))
    assert last_ms <= 1_000


@given(st.lists(st.tuples(st.integers(-5, 10**9), st.integers(-1, 200)), max_size=100))
def test_it_never_leaves_its_bounds_and_survives_a_restart(calls: list[tuple[int, int]]) -> None:
    state = Concurrency()
    for latency_ms, in_flight in calls:
        state = concurrency.answered(
            MAX_LIMIT,
            state,
            latency_ms,
            latency_ms,
            in_flight,
            RATE_PER_S,
        )
        assert 5 <= concurrency.current(MAX_LIMIT, state) <= 100
    assert msgspec.json.decode(msgspec.json.encode(state), type=Concurrency) == state
    assert concurrency.current(3, state) == 3, "most is made smaller live"


TRIPS = BreakerPolicy(consecutive_failures=5, open_s=5, probe_lease_s=120)
USUAL = Concurrency(limit=20.0, usual_ms=400.0, calls=100)
ANSWER = Accepted(200, 200)
TIMED_OUT = Uncertain("request_timeout", 30_000)


def out(count: int, state: StallDetector | None = None, now_ms: int = NOW_MS) -> StallDetector:
    state = state or StallDetector()
    for _ in range(count):
        state = concurrency.begun(state, now_ms)
    return state


def permit(state: StallDetector, after_ms: int, usual: Concurrency = USUAL) -> Unanswered | None:
    return concurrency.permit(TRIPS, MAX_LIMIT, state, usual, NOW_MS + after_ms)


def test_no_more_go_than_trip_the_breaker_once_nothing_was_answered_for_longer_than_usual() -> None:
    assert permit(out(5), 799) is None
    assert permit(out(4), 60_000) is None
    assert [permit(out(5), after_ms) is None for after_ms in (119_999, 120_000, 120_001)] == [
        False,
        True,
        True,
    ]
    assert permit(out(5), 800) == Unanswered(NOW_MS + 1_800, "in_flight")
    one_by_one = out(1, out(4), NOW_MS + 700)
    assert permit(one_by_one, 800) == permit(out(5), 800), "as long as the first of them waits"
    held = present(permit(out(5), 1_800))
    assert held.reason == "no_answer"
    assert held.until_ms == NOW_MS + 6_800
    assert held.text[:19] == "5 requests went out"
    late = present(permit(out(5), 118_000))
    assert late.until_ms == NOW_MS + 120_000, "no longer than a request may take"


def test_fewer_are_enough_if_no_more_may_be_in_flight() -> None:
    usual = Concurrency(limit=3.0, usual_ms=400.0, calls=100)
    assert concurrency.permit(TRIPS, 3, out(2), usual, NOW_MS + 800) is None
    assert concurrency.permit(TRIPS, 3, out(3), usual, NOW_MS + 800) == Unanswered(
        NOW_MS + 1_800,
        "in_flight",
    )


def test_as_many_as_the_present_limit_are_enough_where_the_breaker_needs_more() -> None:
    usual = Concurrency(limit=6.0, usual_ms=400.0, calls=100)
    slow_to_trip = BreakerPolicy(consecutive_failures=20, open_s=5, probe_lease_s=120)
    held = [
        concurrency.permit(slow_to_trip, MAX_LIMIT, out(count), usual, NOW_MS + 1_800) is not None
        for count in (5, 6)
    ]
    assert held == [False, True]


def test_the_usual_latency_needs_ten_calls_and_has_a_minimum() -> None:
    for calls, least_ms in ((9, 2_000), (10, 500)):
        usual = Concurrency(usual_ms=1.0, calls=calls)
        assert [
            permit(out(50), after_ms, usual) is None for after_ms in (least_ms - 1, least_ms)
        ] == [True, False]


def test_an_answer_ends_it_and_a_time_out_only_when_nothing_is_under_way_any_more() -> None:
    state = out(5)
    for lost in (TIMED_OUT, None):
        assert concurrency.ended(state, lost, 4, NOW_MS + 9) == state
        assert concurrency.ended(state, lost, 0, NOW_MS + 9) == StallDetector()
    for answer in (
        ANSWER,
        Uncertain("http_500", 200, 500),
        RateLimited(429, 200),
        Refused("http_503", 200),
    ):
        assert concurrency.ended(state, answer, 4, NOW_MS + 9) == StallDetector(NOW_MS + 9, 4)
        assert concurrency.ended(state, answer, 0, NOW_MS + 9) == StallDetector()


@given(
    st.lists(
        st.tuples(st.sampled_from(["out", "answer", "time-out"]), st.integers(0, 3_000)),
        max_size=60,
    ),
    st.integers(0, 5_000),
)
def test_a_stall_holds_only_while_requests_wait_and_ends(
    steps: list[tuple[str, int]],
    usual_ms: int,
) -> None:
    state = StallDetector()
    under_way = 0
    now_ms = NOW_MS
    usual = Concurrency(usual_ms=usual_ms, calls=100)
    for what, pause_ms in steps:
        now_ms += pause_ms
        if what == "out":
            state = concurrency.begun(state, now_ms)
            under_way = under_way + 1
        elif under_way:
            under_way -= 1
            state = concurrency.ended(
                state,
                ANSWER if what == "answer" else TIMED_OUT,
                under_way,
                now_ms,
            )
        held = concurrency.permit(TRIPS, MAX_LIMIT, state, usual, now_ms)
        if held is not None:
            assert under_way > 0
            assert now_ms < held.until_ms <= now_ms + 5_000
            assert state.waiting >= TRIPS.consecutive_failures
    assert concurrency.permit(TRIPS, MAX_LIMIT, state, usual, state.since_ms + 120_000) is None, (
        "lost in our books"
    )
    assert concurrency.permit(TRIPS, MAX_LIMIT, state, usual, state.since_ms - 60_000) is None, (
        "the clock stepped back"
    )


ACME = InForce("acme", "people", rate=RatePolicy(rate_per_s=8.0))


BOTH = Horizon(returned_ms=11_000, new_ms=900_000)


@pytest.mark.parametrize(
    ("horizon", "per_s", "returned", "due_ms"),
    [
        (BOTH, 8.0, True, 11_125),
        (BOTH, 8.0, False, 900_125),
        (Horizon(returned_ms=50_000), 8.0, False, 50_125),
        (Horizon(), 1_000.0, False, 10_001),
    ],
)
def test_leads_that_returned_before_come_back_ahead_of_new_ones(
    horizon: Horizon,
    per_s: float,
    returned: bool,
    due_ms: int,
) -> None:
    assert postpone(horizon, 10_000, per_s, returned=returned)[1] == due_ms


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=50),
    st.floats(0.01, 1_000),
)
def test_no_two_leads_of_a_kind_have_the_same_turn(
    asked: list[tuple[int, bool]],
    per_s: float,
) -> None:
    horizon = Horizon()
    dues: dict[bool, list[int]] = {False: [], True: []}
    for at_ms, returned in asked:
        horizon, due_ms = postpone(horizon, at_ms, per_s, returned=returned)
        assert due_ms > at_ms
        dues[returned].append(due_ms)
    for times in dues.values():
        assert times == sorted(set(times))


def test_a_lane_sends_at_its_present_rate_and_no_faster_than_clay_answers() -> None:
    lane = Lane("acme", 0)
    assert sends_per_s(ACME, lane) == 8.0
    cut = msgspec.structs.replace(lane, rate=Rate(cut_per_s=6.0))
    assert sends_per_s(ACME, cut) == 2.0
    slow = msgspec.structs.replace(
        lane,
        concurrency=Concurrency(usual_ms=100.0, calls=100, held_ms=50_000.0),
    )
    assert sends_per_s(ACME, slow) == ACME.max_in_flight / 50
