"""The published view of a lane: every field of it, and every change that is news, with nothing beside it."""

from typing import Any

import msgspec
import pytest

from stream_app.domain.lane.admission import Grant, decide
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.settlement import settled
from stream_app.domain.lane.view import LaneView, _news, view
from stream_app.domain.limits.breaker import Outage
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.limits.meters import Estimate, Meter
from stream_app.domain.limits.rate import Rate
from stream_app.domain.limits.suspension import Suspension
from stream_app.domain.limits.webhook_quota import Quota, QuotaPolicy, Webhook
from stream_app.domain.model.outcome import Accepted, Refused
from stream_app.domain.plan import Actor, Change, Destination, Workspace

NOW_MS = 1_796_083_140_000  # 23:59 UTC on 2026-11-30
PEOPLE = Destination("people", "acme", ("hook1", "hook2"), callbacks=False)
POLICY = Workspace("acme", "people", budget=BudgetPolicy(credits_per_day=100, credits_per_month=900))
BY = Actor("anna", "maintenance", NOW_MS - 60_000)
WHO = "by anna at 2026-11-30 23:58:00 UTC: maintenance"


def test_a_view_has_all_that_is_known_of_its_lane() -> None:
    lane = Lane("acme", 3, rate=Rate(10.0, NOW_MS))
    for latency_ms in (40, 60, 900, 4_000):
        lane, grant = decide(POLICY, lane, PEOPLE, NOW_MS, 0)
        assert isinstance(grant, Grant)
        outcome = Refused("http_503", latency_ms, 503) if latency_ms == 900 else Accepted(200, latency_ms)
        lane, _ = settled(POLICY, lane, grant, outcome, NOW_MS, 0.5)
    lane, _ = decide(POLICY, lane, PEOPLE, NOW_MS, 0)
    midnight_ms = NOW_MS + 60_000
    day: dict[str, Any] = {"period": "2026-11-30"}
    month: dict[str, Any] = {"period": "2026-11"}
    spans: dict[str, Any] = {"ends_ms": midnight_ms, "begins_ms": midnight_ms - 86_400_000}
    of_month: dict[str, Any] = {"ends_ms": midnight_ms, "begins_ms": midnight_ms - 30 * 86_400_000}
    assert view(POLICY, lane, [PEOPLE], NOW_MS) == LaneView(
        "acme", 3, NOW_MS, "closed", "insufficient_data", 75.0, 10.0,
        credits_spent_day=18, credits_reserved_day=20, credits_spent_month=18, credits_reserved_month=20,
        credits_cap_day=100, credits_cap_month=900, submissions=5,
        meters={
            "credits_day": Meter(cap=100, spent=18, reserved=20, **day, **spans),
            "actions_day": Meter(cap=None, spent=3, reserved=5, **day, **spans),
            "credits_month": Meter(cap=900, spent=18, reserved=20, **month, **of_month),
            "actions_month": Meter(cap=None, spent=3, reserved=5, **month, **of_month),
        },
        estimates={"people": Estimate(6.0, 1.0)}, webhooks={"hook1": Webhook(5)}, calls=4, p50_ms=100, p95_ms=4600,
        p99_ms=4920, concurrency=5, submissions_left={"people": 89_995},
    )  # fmt: skip


BEFORE = LaneView("acme", 3, NOW_MS, "closed", "healthy", 100.0, 10.0)
DAY = Meter("2026-11-30", NOW_MS, 100, 40, warned=0)
GONE = Suspension("http_404", "webhook w is gone", NOW_MS, NOW_MS, 1)


@pytest.mark.parametrize(
    ("was", "now", "news"),
    [({}, {"rate_per_s": 5.0, "calls": 9, "at_ms": NOW_MS + 1}, []),
     ({}, {"paused_by": BY}, [("paused", f"paused {WHO}")]),
     ({"paused_by": BY}, {}, [("resumed", "resumed")]),
     ({}, {"mode": "open", "mode_by": BY}, [("mode", f"the breaker's mode is open, {WHO}")]),
     ({"mode": "open"}, {}, [("mode", "the breaker's mode is auto")]),
     ({}, {"changes": (Change("rate.burst", 20, 3, BY),)}, [("changed", f"rate.burst: 20 -> 3, {WHO}")]),
     ({"changes": (Change("rate.burst", 20, 3, BY),)}, {}, []),
     ({"breaker": "open"}, {}, [("breaker_closed", "the circuit breaker is closed")]),
     ({}, {"breaker": "open", "text": "too many failed", "outage": Outage("reset", NOW_MS, NOW_MS, 1)},
      [("breaker_open", "Clay does not answer (reset); 1 call has failed since 23:59 UTC; too many failed")]),
     ({}, {"health": "degraded", "calls": 1, "score": 51.5, "p95_ms": 7},
      [("health_degraded", "1 call, score 51.5, p95 7 ms")]),
     ({}, {"holds": "paused", "text": "by anna"}, [("held", "paused: by anna")]),
     ({"holds": "paused"}, {}, [("moves", "no longer paused")]),
     ({}, {"holds": "budget_credits_day", "text": "all used"}, [("held", "budget credits day: all used")]),
     ({"holds": "breaker_open"}, {}, [("moves", "no longer breaker open")]),
     ({}, {"breaker": "half_open"}, [("breaker_half_open", "the circuit breaker is half open")]),
     ({"holds": "paused"}, {"holds": "paused", "text": "again"}, []),
     ({}, {"webhooks": {"w": Webhook(2)}}, []),
     ({}, {"webhooks": {"w": Webhook(3)}},
      [("quota_warning", "webhook w is left after 2 more submissions: add a new one")]),
     ({"webhooks": {"w": Webhook(2)}}, {"webhooks": {"w": Webhook(4)}},
      [("quota_warning", "webhook w is left after 1 more submission: add a new one")]),
     ({"webhooks": {"w": Webhook(3)}}, {"webhooks": {"w": Webhook(4)}}, []),
     ({}, {"webhooks": {"w": Webhook(0, "by anna")}}, [("webhook_dead", "webhook w is out of use: by anna")]),
     ({"webhooks": {"w": Webhook(0, "by anna")}}, {"webhooks": {"w": Webhook(0, "by joe")}}, []),
     ({}, {"webhooks": {"w": Webhook(0, "", GONE)}}, [("webhook_gone", "webhook w is gone")]),
     ({"webhooks": {"w": Webhook(0, "", GONE)}}, {"webhooks": {"w": Webhook(0)}},
      [("webhook_back", "webhook w is in use again")]),
     ({}, {"meters": {"credits_day": DAY}}, []),
     ({"meters": {"credits_day": DAY}},
      {"meters": {"credits_day": msgspec.structs.replace(DAY, spent=70, reserved=11, warned=80)}},
      [("budget_80", "credits_day: 81 of 100 for 2026-11-30 are used")]),
     ({"meters": {"credits_day": msgspec.structs.replace(DAY, warned=80)}},
      {"meters": {"credits_day": msgspec.structs.replace(DAY, warned=50)}}, []),
     ({"meters": {"credits_day": msgspec.structs.replace(DAY, warned=80)}},
      {"meters": {"credits_day": msgspec.structs.replace(DAY, period="2026-12-01", warned=50)}},
      [("budget_new_period", "credits_day: 2026-12-01 begins"),
      ("budget_50", "credits_day: 40 of 100 for 2026-12-01 are used")]),
     ({"meters": {"credits_day": DAY}}, {"meters": {"credits_day": msgspec.structs.replace(DAY, period="2026-12-01")}},
      [])],
)  # fmt: skip
def test_each_change_is_news_once(was: dict[str, Any], now: dict[str, Any], news: list[tuple[str, str]]) -> None:
    before, after = msgspec.structs.replace(BEFORE, **was), msgspec.structs.replace(BEFORE, **now)
    changes = list(_news(QuotaPolicy(warn_at=3, rotate_at=5), before, after))
    assert [(change.kind, change.text) for change in changes] == news


def test_how_many_submissions_are_left_and_counted_is_of_all_webhooks() -> None:
    lane = Lane("acme", 3, quota=Quota({"hook1": Webhook(44_000), "hook2": Webhook(1), "of another": Webhook(7)}))
    seen = view(POLICY, lane, [PEOPLE], NOW_MS)
    assert (seen.submissions, seen.submissions_left) == (44_008, {"people": 1_000 + 44_999})
