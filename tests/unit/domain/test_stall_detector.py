"""Clay that answers nothing: when a lane believes it, and that it never believes it for good."""

from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.delivery.outcome import Accepted, RateLimited, Refused, Uncertain
from stream_app.domain.lane import stall_detector
from stream_app.domain.lane.breaker import BreakerPolicy
from stream_app.domain.lane.concurrency import Concurrency
from stream_app.domain.lane.stall_detector import StallDetector, Unanswered

TRIPS = BreakerPolicy(consecutive_failures=5, open_s=5, probe_lease_s=120)
MOST = 100
USUAL = Concurrency(limit=20.0, usual_ms=400.0, calls=100)
ANSWER, TIMED_OUT = Accepted(200, 200), Uncertain("request_timeout", 30_000)
NOW_MS = 1_796_083_140_000


def out(count: int, state: StallDetector | None = None, now_ms: int = NOW_MS) -> StallDetector:
    state = state or StallDetector()
    for _ in range(count):
        state = stall_detector.begun(state, now_ms)
    return state


def permit(state: StallDetector, after_ms: int, usual: Concurrency = USUAL) -> Unanswered | None:
    return stall_detector.permit(TRIPS, MOST, state, usual, NOW_MS + after_ms)


def test_no_more_go_than_trip_the_breaker_once_nothing_was_answered_for_longer_than_usual() -> None:
    assert permit(out(5), 799) is None
    assert permit(out(4), 60_000) is None
    assert permit(out(5), 800) == Unanswered(NOW_MS + 1_800, "in_flight")
    held = permit(out(5), 1_800)
    assert held is not None
    assert (held.reason, held.until_ms, held.text[:19]) == (
        "no_answer",
        NOW_MS + 6_800,
        "5 requests went out",
    )


def test_fewer_are_enough_if_no_more_may_be_in_flight() -> None:
    usual = Concurrency(limit=3.0, usual_ms=400.0, calls=100)
    assert stall_detector.permit(TRIPS, 3, out(2), usual, NOW_MS + 800) is None
    assert stall_detector.permit(TRIPS, 3, out(3), usual, NOW_MS + 800) == Unanswered(NOW_MS + 1_800, "in_flight")


def test_the_usual_latency_needs_ten_calls_and_has_a_minimum() -> None:
    assert permit(out(50), 1_999, Concurrency(usual_ms=1.0, calls=9)) is None
    assert permit(out(50), 2_000, Concurrency(usual_ms=1.0, calls=9)) is not None
    assert permit(out(50), 499, Concurrency(usual_ms=1.0, calls=10)) is None
    assert permit(out(50), 500, Concurrency(usual_ms=1.0, calls=10)) is not None


def test_an_answer_ends_it_and_a_time_out_only_when_nothing_is_under_way_any_more() -> None:
    state = out(5)
    for lost in (TIMED_OUT, None):
        assert stall_detector.ended(state, lost, 4, NOW_MS + 9) == state
        assert stall_detector.ended(state, lost, 0, NOW_MS + 9) == StallDetector()
    for answer in (ANSWER, Uncertain("http_500", 200, 500), RateLimited(429, 200), Refused("http_503", 200)):
        assert stall_detector.ended(state, answer, 4, NOW_MS + 9) == StallDetector(NOW_MS + 9, 4)
        assert stall_detector.ended(state, answer, 0, NOW_MS + 9) == StallDetector()


@given(
    st.lists(st.tuples(st.sampled_from(["out", "answer", "time-out"]), st.integers(0, 3_000)), max_size=60),
    st.integers(0, 5_000),
)
def test_a_stall_holds_only_while_requests_wait_and_ends(steps: list[tuple[str, int]], usual_ms: int) -> None:
    state, under_way, now_ms, usual = StallDetector(), 0, NOW_MS, Concurrency(usual_ms=usual_ms, calls=100)
    for what, pause_ms in steps:
        now_ms += pause_ms
        if what == "out":
            state, under_way = stall_detector.begun(state, now_ms), under_way + 1
        elif under_way:
            under_way -= 1
            state = stall_detector.ended(state, ANSWER if what == "answer" else TIMED_OUT, under_way, now_ms)
        held = stall_detector.permit(TRIPS, MOST, state, usual, now_ms)
        if held is not None:
            assert under_way > 0
            assert now_ms < held.until_ms <= now_ms + 5_000
            assert state.waiting >= TRIPS.consecutive_failures
    assert stall_detector.permit(TRIPS, MOST, state, usual, state.since_ms + 120_000) is None, "lost in our books"
    assert stall_detector.permit(TRIPS, MOST, state, usual, state.since_ms - 60_000) is None, "the clock stepped back"
