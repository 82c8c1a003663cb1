"""The sliding window: what counts, for how long, and what it says about health."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lane import health as window
from stream_app.domain.lane.health import LAST_MINUTE, Span, Totals, Window

NOW_MS = 1_795_500_000_000
SPAN_MS = 60_000


def _recorded(calls: list[tuple[int, bool, bool]], span: Span = LAST_MINUTE) -> Window:
    state = Window()
    for at_ms, ok, slow in calls:
        state = window.record(span, state, at_ms, ok, slow, 100)
    return state


@given(st.lists(st.tuples(st.integers(0, 20_000), st.booleans(), st.booleans()), max_size=40))
def test_counts_exactly_the_calls_of_the_last_slots(steps: list[tuple[int, bool, bool]]) -> None:
    at_ms, calls = NOW_MS, []
    for step_ms, ok, slow in steps:
        at_ms += step_ms
        calls.append((at_ms, ok, slow))
    oldest_slot = at_ms // 6_000 - 9
    inside = [(ok, slow) for then_ms, ok, slow in calls if then_ms // 6_000 >= oldest_slot]
    expected = Totals(
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
    assert [bucket.slot for bucket in state.buckets] == sorted({bucket.slot for bucket in state.buckets})
    assert window.totals(LAST_MINUTE, state, times[-1]).calls >= 1
    assert window.totals(LAST_MINUTE, state, times[-1] + 2 * SPAN_MS).calls == 0


def test_a_clock_that_steps_back_forgets_no_failure() -> None:
    state = _recorded([(NOW_MS + n, False, False) for n in range(5)])
    back_ms = NOW_MS - 3_600_000
    state = window.record(LAST_MINUTE, state, back_ms, True, False, 100)
    assert window.totals(LAST_MINUTE, state, back_ms) == Totals(success=1, failure=5)
    assert window.totals(LAST_MINUTE, state, back_ms + SPAN_MS) == Totals()


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
    assert window.status(Totals(success, failure, slow)) == status


@given(st.lists(st.integers(0, 59_999), min_size=1, max_size=200))
def test_percentiles_lie_in_the_cell_of_the_true_one(latencies: list[int]) -> None:
    state = Window()
    for latency_ms in latencies:
        state = window.record(LAST_MINUTE, state, NOW_MS, True, False, latency_ms)
    found = window.latency(LAST_MINUTE, state, NOW_MS)
    assert found is not None
    ordered = sorted(latencies)
    for share, estimate in ((0.50, found.p50_ms), (0.95, found.p95_ms), (0.99, found.p99_ms)):
        true = ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
        high = next(bound for bound in window.LATENCY_BOUNDS_MS if true <= bound)
        low = max((bound for bound in window.LATENCY_BOUNDS_MS if bound < high), default=0)
        assert low <= estimate <= high


def test_latency_above_the_last_bound_and_without_calls() -> None:
    assert window.latency(LAST_MINUTE, Window(), NOW_MS) is None
    state = window.record(LAST_MINUTE, Window(), NOW_MS, False, True, 10**9)
    assert window.latency(LAST_MINUTE, state, NOW_MS) == window.Latency(60_000, 60_000, 60_000)


def test_rows_of_other_versions_are_read() -> None:
    row = b'{"buckets": [{"slot": %d, "success": 3, "latencies": [1, 2], "later": 1}], "later": {}}'
    state = msgspec.json.decode(row % (NOW_MS // 6_000), type=Window)
    state = window.record(LAST_MINUTE, state, NOW_MS, True, False, 10)
    assert window.totals(LAST_MINUTE, state, NOW_MS).success == 4
    assert window.latency(LAST_MINUTE, state, NOW_MS) is not None
    assert msgspec.json.decode(msgspec.json.encode(state), type=Window) == state
