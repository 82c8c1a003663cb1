"""The view of a lane, its health, and whose failure a refusal is."""

from typing import Any

import msgspec
import pytest

from benchmarks import lane as lane_benchmark
from stream_app.domain.delivery.outcome import Accepted, Denied, RateLimited, Refused
from stream_app.domain.lane.admission import Grant, admit
from stream_app.domain.lane.breaker import SUCCESSES_TO_CLOSE, BreakerPolicy
from stream_app.domain.lane.budget import BudgetPolicy
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.settlement import settle
from stream_app.domain.lane.view import view
from tests.unit.domain.test_lane import LANE, NOW_MS, OK, PEOPLE, POLICY, _call, _entry


def test_the_view_agrees_with_the_admission() -> None:
    policy = msgspec.structs.replace(POLICY, budget=BudgetPolicy(credits_per_day=30))
    lane, _ = _entry(LANE, policy)
    seen = view(policy, lane, [PEOPLE], NOW_MS)
    assert (seen.holds, seen.since_ms) == ("budget_credits_day", NOW_MS)
    assert seen.until_ms == seen.meters["credits_day"].ends_ms
    later = view(policy, lane, [PEOPLE], NOW_MS + 9_000, seen)
    assert later.since_ms == NOW_MS, "since it was first seen"
    assert view(policy, lane, [], NOW_MS).holds == ""


def test_a_lane_that_only_probes_is_still_held() -> None:
    lane = _call(LANE, Denied(401, 50, "refused"))
    seen = view(POLICY, lane, [PEOPLE], NOW_MS + 300_000)
    assert (seen.holds, seen.since_ms) == ("http_401", NOW_MS)
    assert seen.lifts.startswith("a probe that Clay accepts")


def test_a_row_of_an_older_version_is_read() -> None:
    stopped = b'{"reason":"http_401","text":"t","since_ms":1,"probe_at_ms":2,"backoff_ms":3}'
    lane = msgspec.json.decode(b'{"workspace":"acme","partition":0,"suspension":' + stopped + b"}", type=Lane)
    assert lane.suspension is not None
    assert _call(lane, OK).suspension is None


def test_an_attempt_in_a_run_of_others_failures_is_an_outages() -> None:
    """A lead could use up its attempts before the breaker opened, and an outage made a dead letter."""
    refused = Refused("http_503", 50, http_status=503)
    lane = LANE
    reports = []
    for _ in range(3):
        lane, entry = _entry(lane)
        lane, report = settle(POLICY, lane, entry, refused, NOW_MS, 0.5)
        reports.append(report)
    assert [report.run for report in reports] == [1, 2, 3]
    alone, beside = 0, 0
    for report in reports:
        alone = report.attempts(alone)
    for report in reports[1:]:
        beside = report.attempts(beside)
    assert (alone, beside) == (3, 0)


@pytest.mark.parametrize("others", [{"others_wait": True}, {"in_flight": 2}])
def test_a_run_of_a_leads_own_failures_is_one_attempt_while_others_are_there_to_tell(others: dict[str, Any]) -> None:
    """One that is retried before another lead is sent could use up its attempts in the first moment of an outage."""
    refused = Refused("http_503", 50, http_status=503)
    lane, attempts = LANE, list[int]()
    for outcome in (refused, refused, OK, refused):
        lane, entry = _entry(lane)
        lane, report = settle(POLICY, lane, entry, outcome, NOW_MS, 0.5, **others)
        if outcome is refused:
            attempts.append(report.attempts(attempts[-1] if attempts else 0))
    assert attempts == [1, 1, 2]


def test_a_429_says_nothing_about_health_and_trips_nothing() -> None:
    lane = LANE
    for _ in range(10):
        lane, entry = admit(POLICY, lane, PEOPLE, NOW_MS, 0)
        assert isinstance(entry, Grant)
        lane, report = settle(POLICY, lane, entry, RateLimited(429, 5, "1"), NOW_MS, 0.5)
        assert (report.counts, report.wait_until_ms >= NOW_MS + 1_000) == (False, True)
        lane = msgspec.structs.replace(lane, rate=LANE.rate)
    assert (lane.breaker, lane.window) == (LANE.breaker, LANE.window)
    assert view(POLICY, lane, [PEOPLE], NOW_MS).meters["credits_day"].reserved == 0


def test_health_covers_five_minutes_and_survives_a_reset_of_the_breaker() -> None:
    policy = msgspec.structs.replace(POLICY, breaker=BreakerPolicy(consecutive_failures=30, min_calls=1_000))
    lane = _call(LANE, *[Refused("dns", 40)] * 30, policy=policy)
    assert lane.breaker.phase == "open"
    after_ms = NOW_MS + int(policy.breaker.open_cap_s * 1_000)
    for _ in range(SUCCESSES_TO_CLOSE):
        lane, probe = _entry(lane, policy, after_ms)
        lane, _ = settle(policy, lane, probe, OK, after_ms, 0.5)
    assert (lane.breaker.phase, lane.window.buckets) == ("closed", ())
    seen = view(policy, lane, [PEOPLE], after_ms)
    assert (seen.calls, seen.health, seen.score) == (33, "unhealthy", 9.1)
    assert view(policy, lane, [PEOPLE], NOW_MS + 270_000).calls == 33
    assert view(policy, lane, [PEOPLE], NOW_MS + 330_000).calls == 3, "the last five minutes, by buckets of 30 s"


def test_a_late_failure_counts_for_the_health_and_for_nothing_else() -> None:
    policy = msgspec.structs.replace(POLICY, breaker=BreakerPolicy(consecutive_failures=5))
    lane, late = _entry(LANE, policy)
    lane = _call(lane, *[Refused("dns", 40)] * 5, policy=policy)
    before = lane
    lane, _ = settle(policy, lane, late, Refused("dns", 40), NOW_MS, 0.5)
    assert (lane.breaker, lane.window) == (before.breaker, before.window)
    assert view(policy, lane, [PEOPLE], NOW_MS).calls == 6


def test_the_latency_of_the_window_and_a_turn_of_its_health_are_reported() -> None:
    policy = msgspec.structs.replace(POLICY, breaker=BreakerPolicy(mode="shadow"))  # it would forget the window
    before, lane = view(policy, LANE, [PEOPLE], NOW_MS), LANE
    for number in range(100):
        lane, entry = admit(policy, lane, PEOPLE, NOW_MS, 0)
        assert isinstance(entry, Grant)
        lane, _ = settle(policy, lane, entry, Accepted(200, 40 if number < 94 else 900), NOW_MS, 0.5)
    well = view(policy, lane, [PEOPLE], NOW_MS, before)
    assert [(news.kind, news.text) for news in well.news] == [
        ("health_healthy", f"100 calls, score 100, p95 {well.p95_ms} ms")
    ]
    assert well.p50_ms < 100 < 500 < well.p95_ms <= well.p99_ms
    for _ in range(30):
        lane, entry = admit(policy, lane, PEOPLE, NOW_MS, 0)
        assert isinstance(entry, Grant)
        lane, _ = settle(policy, lane, entry, Refused("http_503", 5), NOW_MS, 0.5)
    ill = view(policy, lane, [PEOPLE], NOW_MS, well)
    assert [news.kind for news in ill.news if news.kind.startswith("health")] == ["health_unhealthy"]


def test_the_benchmark_of_the_lane_fails_above_40_us(monkeypatch: pytest.MonkeyPatch) -> None:
    def took(us: float) -> None:
        parts = dict.fromkeys(["admit + settle", "row, a commit", "view, a commit"], 1.0)
        monkeypatch.setattr(lane_benchmark, "measure", lambda _: parts | {"admit + settle + callback": us})
        lane_benchmark.main()

    monkeypatch.setattr("sys.argv", ["lane", "--json"])
    took(39.9)
    with pytest.raises(SystemExit, match=r"admit \+ settle \+ callback takes 40\.1 us, more than 40"):
        took(40.1)
