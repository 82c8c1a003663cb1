"""The limit of POSTs under way: it follows latency, within its bounds, and does not jam."""

import heapq
import random
from collections import deque

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lane import concurrency
from stream_app.domain.lane.concurrency import Concurrency

MOST = 100
RATE_PER_S = 1_000.0


def _after(state: Concurrency, calls: int, latency_ms: int, in_flight: int | None = None) -> Concurrency:
    for _ in range(calls):
        beside = concurrency.current(MOST, state) if in_flight is None else in_flight
        state = concurrency.answered(MOST, state, latency_ms, beside, RATE_PER_S)
    return state


def test_it_starts_at_the_least_and_grows_while_all_of_it_is_used() -> None:
    assert concurrency.current(MOST, Concurrency()) == 5
    assert concurrency.current(MOST, _after(Concurrency(), 30, 300)) > 15
    assert concurrency.current(MOST, _after(Concurrency(), 1_000, 300)) == 100


@pytest.mark.parametrize("latency_ms", [50, 200, 1_000, 4_000])
def test_the_limit_is_what_rate_and_latency_need_with_some_headroom(latency_ms: int) -> None:
    """Ten a second for ten minutes, and a burst of 20 every minute: Little's law says how many are in flight."""
    state, chance, ends = Concurrency(), random.Random(latency_ms), list[tuple[float, float]]()
    now_ms, limits, waited_ms = 0.0, list[int](), list[float]()
    due = sorted([100.0 * number for number in range(6_000)] + [60_000.0 * minute for minute in range(10)] * 20)
    for at_ms in due:
        now_ms = max(now_ms, at_ms)
        while ends and (ends[0][0] <= now_ms or len(ends) >= concurrency.current(MOST, state)):
            end_ms, took_ms = heapq.heappop(ends)
            now_ms = max(now_ms, end_ms)
            state = concurrency.answered(MOST, state, int(took_ms), len(ends) + 1, 10.0)
        waited_ms.append(now_ms - at_ms)
        took_ms = latency_ms * chance.uniform(0.7, 1.3)
        heapq.heappush(ends, (now_ms + took_ms, took_ms))
        limits.append(concurrency.current(MOST, state))
    needed = 10 * latency_ms / 1_000
    assert max(limits[1_000:]) <= 2.6 * (needed + 1) + 5
    assert sorted(waited_ms[1_000:])[len(waited_ms[1_000:]) * 95 // 100] <= latency_ms, "it is no brake"


def test_it_shrinks_while_answers_take_much_longer_and_grows_back() -> None:
    usual = _after(Concurrency(), 500, 300)
    slow = _after(usual, 20, 3_000)
    assert 5 <= concurrency.current(MOST, slow) < 50
    assert concurrency.current(MOST, _after(slow, 200, 300)) == 100


def test_a_lasting_slowness_becomes_the_usual_latency() -> None:
    assert concurrency.current(MOST, _after(_after(Concurrency(), 500, 300), 5_000, 3_000)) == 100


def test_slow_calls_do_not_shrink_a_limit_that_is_not_used() -> None:
    usual = _after(Concurrency(), 500, 300)
    assert _after(usual, 50, 3_000, in_flight=3).limit == _after(usual, 50, 300, in_flight=3).limit


def test_a_clay_that_queues_beyond_its_capacity_is_not_pressed() -> None:
    """Clay serves 20 at a time in 200 ms; the rest queue. Pressed with 100 each call takes a second; so it settles."""
    state, busy, now_ms, under_way = Concurrency(), deque([0] * 20), 0, deque[tuple[int, int]]()
    last_ms = 0
    for _ in range(6_000):
        while len(under_way) >= concurrency.current(MOST, state):
            ends_ms, took_ms = under_way.popleft()
            now_ms = max(now_ms, ends_ms)
            state = concurrency.answered(MOST, state, took_ms, len(under_way) + 1, RATE_PER_S)
            last_ms = took_ms
        free_ms = max(now_ms, busy.popleft())
        busy.append(free_ms + 200)
        under_way.append((free_ms + 200, free_ms + 200 - now_ms))
    assert last_ms <= 1_000


@given(st.lists(st.tuples(st.integers(-5, 10**9), st.integers(-1, 200)), max_size=100))
def test_it_never_leaves_its_bounds_and_survives_a_restart(calls: list[tuple[int, int]]) -> None:
    state = Concurrency()
    for latency_ms, in_flight in calls:
        state = concurrency.answered(MOST, state, latency_ms, in_flight, RATE_PER_S)
        assert 5 <= concurrency.current(MOST, state) <= 100
    assert msgspec.json.decode(msgspec.json.encode(state), type=Concurrency) == state
    assert concurrency.current(3, state) == 3, "most is made smaller live"
