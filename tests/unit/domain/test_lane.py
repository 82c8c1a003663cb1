"""The lane as a whole: its parts together, its texts for an operator, and its view."""

from typing import Any

import msgspec
import pytest

from stream_app.domain.lane.admission import Grant, Held, decide
from stream_app.domain.lane.lane import Lane, for_new_owner, lifted, reconfigured
from stream_app.domain.lane.settlement import book_callback, charged, settled
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.breaker import BreakerPolicy, Outage
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Cost, Period
from stream_app.domain.limits.meters import Estimate, Meter
from stream_app.domain.limits.rate import Rate, RatePolicy
from stream_app.domain.limits.suspension import FloodGuardPolicy, Suspension, begin
from stream_app.domain.limits.webhook_quota import Quota, QuotaPolicy, Webhook
from stream_app.domain.model.outcome import Accepted, Denied, Outcome, Poison, Refused, WebhookOut
from stream_app.domain.plan import Actor, Change, Destination, InForce
from stream_app.domain.views.lane import AS_PROBE, DestinationView, LaneChange, LaneView, PartHold
from stream_app.domain.views.lane_news import news_of
from stream_app.domain.views.lane_now import held_since, view
from tests.support.narrow import of_type
from tests.unit.domain.lanes import granted

NOW_MS = 1_796_083_140_000
PEOPLE = Destination(
    "people",
    "acme",
    ("hook1", "hook2"),
    token_env="CLAY_TOKEN_PEOPLE",
    setup_id="one",
)
FREE = RatePolicy(rate_per_s=1_000, burst=10_000)
POLICY = InForce("acme", "people", rate=FREE, flood_guard=FloodGuardPolicy(run=5, share=0.5))
LANE = Lane("acme", 0)
OK = Accepted(200, 50)
BAD = Poison(422, 50, "no such column")


def _entry(lane: Lane, policy: InForce = POLICY, now_ms: int = NOW_MS) -> tuple[Lane, Grant]:
    lane, entry = granted(policy, lane, PEOPLE, now_ms)
    return lane, entry


def _call(lane: Lane, *outcomes: Outcome, policy: InForce = POLICY, now_ms: int = NOW_MS) -> Lane:
    for outcome in outcomes:
        lane, entry = _entry(lane, policy, now_ms)
        lane, _ = settled(policy, lane, entry, outcome, now_ms, 0.5, in_flight=1)
    return lane


def _held(lane: Lane, policy: InForce = POLICY, now_ms: int = NOW_MS) -> Held:
    return of_type(Held, decide(policy, lane, PEOPLE, now_ms, 0)[1])


def test_a_share_of_dead_letters_stops_the_lane_once_there_are_enough() -> None:
    mixed = (OK, OK, *(BAD, BAD, BAD, BAD, OK) * 19)
    lane = _call(LANE, *mixed, OK, BAD)
    assert lane.suspension is None
    assert "78 of the last 100 leads became dead letters" in _held(_call(lane, BAD)).text


def test_a_probe_decides_whether_the_flood_is_over() -> None:
    lane = _call(LANE, *[BAD] * 5)
    first_ms = NOW_MS + 300_000
    again = _call(lane, BAD, now_ms=first_ms)
    assert again.suspension is not None
    assert again.suspension.probe_at_ms == first_ms + 600_000, "its probe was bad too"
    over = _call(again, OK, now_ms=first_ms + 600_000)
    assert over.suspension is None
    assert _call(over, BAD, BAD, BAD, BAD, now_ms=first_ms + 600_000).suspension is None, (
        "the count begins again"
    )


def test_an_operator_who_lifts_a_flood_has_its_share_counted_anew() -> None:
    policy = msgspec.structs.replace(POLICY, flood_guard=FloodGuardPolicy(run=1_000, share=0.5))
    stopped = _call(LANE, *[BAD] * 100, policy=policy)
    assert stopped.suspension is not None
    assert _call(lifted(stopped), *[BAD] * 99, policy=policy).suspension is None


def test_an_operator_who_lifts_another_suspension_forgets_no_dead_letters() -> None:
    refused = begin(POLICY.suspension, "http_401", "refused", NOW_MS, "people")
    lane = msgspec.structs.replace(_call(LANE, *[BAD] * 4), suspension=refused)
    stopped = _call(lifted(lane), BAD).suspension
    assert stopped is not None
    assert stopped.reason == "flood_guard"


def test_a_refused_token_stops_the_lane_and_says_whose_it_is() -> None:
    lane = _call(
        LANE,
        OK,
        Denied(401, 50, "Clay refuses this token: set the right one, then resume the lane"),
    )
    held = _held(lane)
    assert held.reason == "http_401"
    assert held.text.startswith("destination people (token: CLAY_TOKEN_PEOPLE)")
    assert lane.budget.days[-1].credits_reserved == 20, "the refused one gave its reservation back"


def test_a_new_token_is_tried_at_once_and_the_same_one_is_not() -> None:
    lane = _call(LANE, Denied(401, 50, "refused"))
    assert reconfigured(POLICY, lane, [PEOPLE], NOW_MS + 5) == lane
    assert reconfigured(POLICY, lane, [], NOW_MS + 5) == lane
    renewed = msgspec.structs.replace(PEOPLE, setup_id="two")
    lane = reconfigured(POLICY, lane, [renewed], NOW_MS + 5)
    lane, entry = _entry(lane, now_ms=NOW_MS + 5)
    assert isinstance(_held(lane, now_ms=NOW_MS + 5), Held), "one probe, not a flood of them"
    lane, _ = settled(POLICY, lane, entry, OK, NOW_MS + 60, 0.5)
    assert lane.suspension is None


GONE = WebhookOut(404, 50, "gone", "HTTP 404: Clay does not know it")
FULL = WebhookOut(403, 50, "full", "HTTP 403: it is full (Clay said: Record limit reached)")
REFUSED = WebhookOut(403, 50, "refused", "HTTP 403: Clay refuses it")
INACTIVE = WebhookOut(400, 50, "inactive", "HTTP 400: its workflow is not active")
OUT = [GONE, FULL, REFUSED, INACTIVE]


@pytest.mark.parametrize("out", OUT)
def test_a_webhook_that_takes_no_leads_is_suspended_and_probed_until_it_is_back(
    out: WebhookOut,
) -> None:
    lane = _call(LANE, out)
    probe_s = POLICY.suspension.probe_s
    lane, entry = _entry(lane)
    assert entry.webhook_id == "hook2", "the next of the pool takes its leads"
    assert entry.webhook_probe is None, "the next of the pool takes its leads"
    lane, _ = settled(POLICY, lane, entry, OK, NOW_MS, 0.5)

    due_ms = NOW_MS + int(probe_s * 1_000)
    lane, probe = _entry(lane, now_ms=due_ms)
    assert probe.webhook_id == "hook1"
    assert probe.webhook_probe is not None
    lane, other = _entry(lane, now_ms=due_ms)
    assert other.webhook_id == "hook2", "one probe at a time"
    lane, report = settled(POLICY, lane, probe, out, due_ms, 0.5)
    assert f"webhook hook1 of people takes no leads (2 submissions counted here): {out.text}" in (
        report.text
    )
    assert _entry(lane, now_ms=due_ms + int(probe_s * 1_000))[1].webhook_id == "hook2", (
        "the next after twice the time"
    )

    due_ms += int(2 * probe_s * 1_000)
    lane, probe = _entry(lane, now_ms=due_ms)
    lane, _ = settled(POLICY, lane, probe, Refused("dns", 5), due_ms, 0.5)
    assert quota.suspended(lane.quota), "that proved nothing"
    lane, probe = _entry(lane, now_ms=due_ms + int(2 * probe_s * 1_000))
    lane, _ = settled(POLICY, lane, probe, OK, due_ms, 0.5)
    assert not quota.suspended(lane.quota)
    assert [_entry(lane, now_ms=due_ms)[1].webhook_id for _ in range(2)] == ["hook1", "hook1"]
    assert lane.suspension is None
    assert sum(day.credits_reserved for day in lane.budget.days) == 60, "a refusal costs nothing"


def test_a_destination_whose_webhooks_are_all_out_is_held_alone_with_the_words_of_clay() -> None:
    lane = _call(LANE, FULL, GONE)
    firms = msgspec.structs.replace(PEOPLE, alias="firms", webhook_ids=("hook3",))
    held = _held(lane)
    assert held.reason == "webhook_out"
    assert "hook1: full (403), hook2: gone (404)" in held.text
    assert lane.suspension is None
    assert isinstance(decide(POLICY, lane, firms, NOW_MS, 0)[1], Grant), "the lane goes on"
    seen = view(POLICY, lane, [PEOPLE, firms], NOW_MS)
    assert seen.holds == ""
    assert [(part.holds, part.destinations) for part in seen.partly] == [
        ("webhook_out", ("people",)),
    ]
    stopped = quota.suspended(lane.quota)
    assert FULL.text in stopped["hook1"].text


def test_a_workflow_that_is_not_active_is_to_be_made_active() -> None:
    place = msgspec.structs.replace(PEOPLE, kind="workflow", webhook_ids=("hook1",))
    lane, grant = granted(POLICY, LANE, place, NOW_MS)
    lane, settlement = settled(POLICY, lane, grant, INACTIVE, NOW_MS, 0.5)
    assert not settlement.counts
    held = of_type(Held, decide(POLICY, lane, place, NOW_MS, 0)[1])
    assert held.reason == "webhook_out"
    assert "hook1: not active (400)" in held.text
    assert "publish or resume it in Clay" in held.text
    assert "table" not in held.text
    assert view(POLICY, lane, [place], NOW_MS).submissions_left == {}, "it has no end"


def test_a_full_webhook_has_no_submissions_left_whatever_was_counted() -> None:
    """Something else submits to it, too."""
    assert view(POLICY, LANE, [PEOPLE], NOW_MS).submissions_left == {"people": 90_000}
    lane = _call(LANE, FULL)
    assert view(POLICY, lane, [PEOPLE], NOW_MS).submissions_left == {"people": 45_000}
    lane = _call(LANE, GONE)
    assert view(POLICY, lane, [PEOPLE], NOW_MS).submissions_left == {"people": 89_999}


def test_a_webhook_that_left_the_pool_is_not_reported_as_out() -> None:
    lane = _call(LANE, FULL)
    before = view(POLICY, lane, [PEOPLE], NOW_MS)
    assert before.webhooks["hook1"].suspension is not None
    renewed = msgspec.structs.replace(PEOPLE, webhook_ids=("hook2", "hook3"))
    after = view(POLICY, lane, [renewed], NOW_MS + 5, before)
    assert after.webhooks["hook1"] == Webhook(1), "its count stays, for it may return"
    assert after.news == (), "it is not back either"


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [([GONE, FULL], "webhook_out"), ([Denied(401, 50, "refused")], "http_401")],
)
def test_a_lane_of_which_the_next_lead_goes_only_as_a_probe_is_still_held(
    outcomes: list[Outcome],
    reason: str,
) -> None:
    lane = _call(LANE, *outcomes)
    due_ms = NOW_MS + int(POLICY.suspension.probe_s * 1_000)
    seen = view(POLICY, lane, [PEOPLE], due_ms + 5)
    assert seen.holds == reason
    assert seen.since_ms == NOW_MS
    assert view(POLICY, _call(lane, OK, now_ms=due_ms), [PEOPLE], due_ms).holds == ""


def test_a_destination_that_is_suspended_alone_is_held_and_its_lane_runs() -> None:
    firms = msgspec.structs.replace(PEOPLE, alias="firms", webhook_ids=("hook3",))
    suspended = begin(
        POLICY.suspension,
        "yield_fell",
        "Clay finds no e-mail",
        NOW_MS,
        "people",
        one_destination=True,
    )
    lane = msgspec.structs.replace(LANE, suspension=suspended)
    runs = view(POLICY, LANE, [PEOPLE, firms], NOW_MS)
    seen = view(POLICY, lane, [PEOPLE, firms], NOW_MS, runs)
    due_ms = NOW_MS + int(POLICY.suspension.probe_s * 1_000)
    assert seen.holds == ""
    held = PartHold(("people",), "yield_fell", "Clay finds no e-mail", due_ms, since_ms=NOW_MS)
    assert seen.partly == (held,)
    assert seen.turns == {"people": due_ms}
    text = "yield fell: Clay finds no e-mail"
    assert seen.news == (LaneChange("held_in_part", text, "yield_fell"),)
    due = view(POLICY, lane, [PEOPLE, firms], due_ms, seen)
    assert due.holds == ""
    assert due.partly == (msgspec.structs.replace(held, until_ms=0, probe_due=True),)
    assert due.turns == {"people": AS_PROBE}
    assert due.news == ()
    over = view(POLICY, LANE, [PEOPLE, firms], due_ms, due)
    assert over.partly == ()
    assert over.news == (LaneChange("moves", "no longer yield fell", "yield_fell"),)
    alone = view(POLICY, lane, [PEOPLE], NOW_MS)
    assert alone.holds == "yield_fell", "its only destination is the whole lane"
    assert alone.partly == ()


@pytest.mark.parametrize("setup_id", ["0", "two"])
def test_a_suspended_webhook_is_probed_at_once_after_a_reconfiguration(setup_id: str) -> None:
    lane = _call(LANE, GONE)
    assert reconfigured(POLICY, lane, [PEOPLE], NOW_MS + 5) == lane
    renewed = msgspec.structs.replace(PEOPLE, setup_id=setup_id)
    lane = reconfigured(POLICY, lane, [renewed], NOW_MS + 5)
    assert _entry(lane, now_ms=NOW_MS + 5)[1].webhook_id == "hook1"


def test_a_lower_cap_reaches_its_soft_limits_at_once() -> None:
    spent = Budget(months=(Period("2026-11", 60),))
    lane = msgspec.structs.replace(LANE, budget=spent)
    capped = msgspec.structs.replace(POLICY, budget=BudgetPolicy(credits_per_month=100))
    [month] = reconfigured(capped, lane, [PEOPLE], NOW_MS).budget.months
    assert month.credits_warned == 50


@pytest.mark.parametrize(
    ("known_ms", "blocked_until_ms"),
    [(None, 5_000), (4_000, 5_000), (9_000, 9_000)],
)
def test_a_new_owner_keeps_to_the_later_retry_after_of_its_row_and_its_memory(
    known_ms: int | None,
    blocked_until_ms: int,
) -> None:
    """What the process knew of the lane was perhaps not committed."""
    row = msgspec.structs.replace(LANE, rate=Rate(blocked_until_ms=NOW_MS + 5_000))
    known = None
    if known_ms is not None:
        known = msgspec.structs.replace(LANE, rate=Rate(blocked_until_ms=NOW_MS + known_ms))
    lane = for_new_owner(row, NOW_MS, known)
    assert lane.rate.blocked_until_ms == NOW_MS + blocked_until_ms


def test_a_probe_that_the_budget_refuses_keeps_its_turn() -> None:
    lane = _call(_call(LANE, GONE), GONE)
    due_ms = NOW_MS + int(POLICY.suspension.probe_s * 1_000)
    poor = msgspec.structs.replace(POLICY, budget=BudgetPolicy(credits_per_day=19))
    lane, answer = decide(poor, lane, PEOPLE, due_ms, 0)
    assert isinstance(answer, Held)
    assert answer.reason == "budget_credits_day"
    assert _entry(lane, now_ms=due_ms)[1].webhook_probe is not None


def test_a_lead_that_only_reservations_hold_comes_back_once_they_are_settled() -> None:
    policy = msgspec.structs.replace(POLICY, budget=BudgetPolicy(credits_per_day=30))
    noon_ms = NOW_MS - 12 * 3_600_000
    lane, entry = _entry(LANE, policy, noon_ms)
    held = _held(lane, policy, noon_ms)
    assert held.until_ms == NOW_MS + 60_000, "a waiting lead gets the next day as its time"
    assert held.back_ms == noon_ms + int(PEOPLE.callback_deadline_s * 1000)
    without = of_type(
        Held,
        decide(policy, lane, msgspec.structs.replace(PEOPLE, callbacks=False), noon_ms, 0)[1],
    )
    assert without.back_ms == noon_ms + int(POLICY.breaker.probe_lease_s * 1000), (
        "longer than any request"
    )
    lane = charged(lane, entry.reservation)
    spent = _held(lane, policy, noon_ms)
    assert spent.until_ms == NOW_MS + 60_000
    assert spent.back_ms == 0


def test_more_than_the_ceiling_is_booked_in_full_and_stops_the_lane() -> None:
    lane, entry = _entry(LANE)
    lane = book_callback(POLICY, lane, PEOPLE, entry.reservation, Cost(500, 1), NOW_MS)
    assert lane.budget.days[-1].credits_spent == 500
    learned = view(POLICY, lane, [PEOPLE], NOW_MS).estimates["people"]
    assert 6 < learned.credits < 20, "it learns within bounds"
    assert learned.leads == 1, "it learns within bounds"
    held = _held(lane)
    assert held.reason == "over_ceiling"
    assert "cost 500 credits and 1 Action, more than its ceiling of 20 and 5" in held.text


def test_a_lane_that_is_held_for_a_costly_lead_keeps_that_hold_when_the_next_one_comes() -> None:
    lane, first = _entry(LANE)
    lane, second = _entry(lane)
    held = book_callback(POLICY, lane, PEOPLE, first.reservation, Cost(500, 1), NOW_MS)
    later_ms = NOW_MS + 60_000
    both = book_callback(POLICY, held, PEOPLE, second.reservation, Cost(900, 1), later_ms)
    assert both.suspension == held.suspension
    assert both.budget.days[-1].credits_spent == 1_400


def test_a_hold_began_when_it_was_first_seen() -> None:
    policy = msgspec.structs.replace(POLICY, budget=BudgetPolicy(credits_per_day=30))
    lane, _ = _entry(LANE, policy)
    seen = view(policy, lane, [PEOPLE], NOW_MS)
    assert seen.holds == "budget_credits_day"
    assert seen.since_ms == NOW_MS
    lane = msgspec.structs.replace(lane, held_since=held_since(seen))
    assert view(policy, lane, [PEOPLE], NOW_MS + 9_000).since_ms == NOW_MS, (
        "its next owner knows that from its row"
    )


def test_a_suspension_lasts_longer_than_the_budget_that_keeps_its_probe_back() -> None:
    policy = msgspec.structs.replace(POLICY, budget=BudgetPolicy(credits_per_day=30))
    for outcomes, reason in (([GONE, GONE], "webhook_out"), ([Denied(401, 50, "no")], "http_401")):
        lane = _call(LANE, *outcomes, policy=policy)
        due_ms = NOW_MS + int(POLICY.suspension.probe_s * 1_000)
        lane = msgspec.structs.replace(lane, budget=_entry(LANE, policy, due_ms)[0].budget)
        assert _held(lane, policy, due_ms).reason == "budget_credits_day"
        seen = view(policy, lane, [PEOPLE], due_ms)
        midnight_ms = seen.meters["credits_day"].ends_ms
        assert seen.holds == reason
        assert seen.until_ms == midnight_ms
        assert seen.since_ms == NOW_MS
        assert [part.holds for part in seen.partly] == ["budget_credits_day"]
        later = seen.at(midnight_ms)
        assert later.holds == reason
        assert later.probe_due is True
        assert later.partly == ()
        assert view(policy, lane, [PEOPLE], midnight_ms).holds == reason, (
            "the lane itself says the same"
        )


def test_an_attempt_after_failures_of_others_is_an_outages() -> None:
    """A lead used up its attempts before the breaker opened: an outage made a dead letter."""
    lane = LANE
    in_a_row = []
    for _ in range(3):
        lane, entry = _entry(lane)
        lane, report = settled(
            POLICY,
            lane,
            entry,
            Refused("http_503", 50, http_status=503),
            NOW_MS,
            0.5,
        )
        in_a_row.append(report.in_a_row)
    assert in_a_row == [1, 2, 3]


def test_a_late_failure_counts_for_the_health_and_for_nothing_else() -> None:
    policy = msgspec.structs.replace(POLICY, breaker=BreakerPolicy(consecutive_failures=5))
    lane, late = _entry(LANE, policy)
    lane = _call(lane, *[Refused("dns", 40)] * 5, policy=policy)
    before = lane
    lane, _ = settled(policy, lane, late, Refused("dns", 40), NOW_MS, 0.5)
    assert lane.breaker == before.breaker
    assert lane.window == before.window
    assert view(policy, lane, [PEOPLE], NOW_MS).calls == 6


SILENT = Destination("people", "acme", ("hook1", "hook2"), callbacks=False)
CAPPED = InForce("acme", "people", budget=BudgetPolicy(credits_per_day=100, credits_per_month=900))
BY = Actor("anna", "maintenance", NOW_MS - 60_000)
WHO = "by anna at 2026-11-30 23:58:00 UTC: maintenance"


def test_a_view_has_all_that_is_known_of_its_lane() -> None:
    lane = Lane("acme", 3, rate=Rate(10.0, NOW_MS))
    for latency_ms in (40, 60, 900, 4_000):
        lane, grant = granted(CAPPED, lane, SILENT, NOW_MS)
        outcome = (
            Refused("http_503", latency_ms, 503) if latency_ms == 900 else Accepted(200, latency_ms)
        )
        lane, _ = settled(CAPPED, lane, grant, outcome, NOW_MS, 0.5)
    lane, _ = decide(CAPPED, lane, SILENT, NOW_MS, 0)
    midnight_ms = NOW_MS + 60_000
    day: dict[str, Any] = {"period": "2026-11-30"}
    month: dict[str, Any] = {"period": "2026-11"}
    spans: dict[str, Any] = {"ends_ms": midnight_ms, "begins_ms": midnight_ms - 86_400_000}
    of_month: dict[str, Any] = {"ends_ms": midnight_ms, "begins_ms": midnight_ms - 30 * 86_400_000}
    assert view(CAPPED, lane, [SILENT], NOW_MS) == LaneView(
        "acme",
        3,
        NOW_MS,
        "closed",
        "insufficient_data",
        75.0,
        10.0,
        submissions=5,
        meters={
            "credits_day": Meter(cap=100, spent=18, reserved=20, **day, **spans),
            "actions_day": Meter(cap=None, spent=3, reserved=5, **day, **spans),
            "credits_month": Meter(cap=900, spent=18, reserved=20, **month, **of_month),
            "actions_month": Meter(cap=None, spent=3, reserved=5, **month, **of_month),
        },
        estimates={"people": Estimate(6.0, 1.0)},
        webhooks={"hook1": Webhook(5)},
        calls=4,
        p50_ms=100,
        p95_ms=4600,
        p99_ms=4920,
        concurrency=5,
        sends_per_s=10.0,
        submissions_left={"people": 89_995},
        destinations={"people": DestinationView(75.0, "insufficient_data", 4)},
    )


BEFORE = LaneView("acme", 3, NOW_MS, "closed", "healthy", 100.0, 10.0)
DAY = Meter("2026-11-30", NOW_MS, 100, 40, warned=0)
STOPPED = Suspension("gone", "webhook w is gone", NOW_MS, NOW_MS, 1)


@pytest.mark.parametrize(
    ("was", "now", "news"),
    [
        ({}, {"rate_per_s": 5.0, "calls": 9, "at_ms": NOW_MS + 1}, []),
        ({}, {"paused_by": BY}, [("paused", f"paused {WHO}")]),
        ({"paused_by": BY}, {}, [("resumed", "resumed")]),
        ({}, {"mode": "open", "mode_by": BY}, [("mode", f"the breaker's mode is open, {WHO}")]),
        ({"mode": "open"}, {}, [("mode", "the breaker's mode is auto")]),
        (
            {},
            {"changes": (Change("rate.burst", 20, 3, BY),)},
            [("changed", f"rate.burst: 20 -> 3, {WHO}")],
        ),
        # an edit of the configuration had ended it
        ({"changes": (Change("rate.burst", 30, 3, BY),)}, {}, []),
        ({"breaker": "open"}, {}, [("breaker_closed", "the circuit breaker is closed")]),
        (
            {},
            {
                "breaker": "open",
                "text": "too many failed",
                "outage": Outage("reset", NOW_MS, NOW_MS, 1),
            },
            [
                (
                    "breaker_open",
                    (
                        "Clay does not answer (reset); 1 call has failed since 23:59 UTC; too "
                        "many failed"
                    ),
                ),
            ],
        ),
        (
            {},
            {"health": "degraded", "calls": 1, "score": 51.5, "p95_ms": 7},
            [("health_degraded", "1 call, score 51.5, p95 7 ms")],
        ),
        (
            {"health": "degraded"},
            {"calls": 2},
            [("health_healthy", "2 calls, score 100, p95 0 ms")],
        ),
        ({}, {"holds": "paused", "text": "by anna"}, [("held", "paused: by anna")]),
        ({"holds": "paused"}, {}, [("moves", "no longer paused")]),
        (
            {},
            {"holds": "budget_credits_day", "text": "all used"},
            [("held", "budget credits day: all used")],
        ),
        ({}, {"webhooks": {"w": Webhook(2)}}, []),
        (
            {},
            {"webhooks": {"w": Webhook(3)}},
            [("quota_warning", "webhook w is left after 2 more submissions: add a new one")],
        ),
        (
            {"webhooks": {"w": Webhook(2)}},
            {"webhooks": {"w": Webhook(4)}},
            [("quota_warning", "webhook w is left after 1 more submission: add a new one")],
        ),
        ({"webhooks": {"w": Webhook(3)}}, {"webhooks": {"w": Webhook(4)}}, []),
        (
            {},
            {"webhooks": {"w": Webhook(0, "by anna")}},
            [("webhook_dead", "webhook w is out of use: by anna")],
        ),
        ({"webhooks": {"w": Webhook(0, "by anna")}}, {"webhooks": {"w": Webhook(0, "by joe")}}, []),
        ({}, {"webhooks": {"w": Webhook(0, "", STOPPED)}}, [("webhook_out", "webhook w is gone")]),
        (
            {"webhooks": {"w": Webhook(0, "", STOPPED)}},
            {"webhooks": {"w": Webhook(0)}},
            [("webhook_back", "webhook w is in use again")],
        ),
        ({}, {"meters": {"credits_day": DAY}}, []),
        (
            {"meters": {"credits_day": DAY}},
            {
                "meters": {
                    "credits_day": msgspec.structs.replace(DAY, spent=70, reserved=11, warned=80),
                },
            },
            [("budget_80", "credits_day: 81 of 100 for 2026-11-30 are used")],
        ),
        (
            {"meters": {"credits_day": msgspec.structs.replace(DAY, warned=80)}},
            {"meters": {"credits_day": msgspec.structs.replace(DAY, warned=50)}},
            [],
        ),
        (
            {"meters": {"credits_day": msgspec.structs.replace(DAY, warned=80)}},
            {
                "meters": {
                    "credits_day": msgspec.structs.replace(DAY, period="2026-12-01", warned=50),
                },
            },
            [
                ("budget_new_period", "credits_day: 2026-12-01 begins"),
                ("budget_50", "credits_day: 40 of 100 for 2026-12-01 are used"),
            ],
        ),
        (
            {"meters": {"credits_day": DAY}},
            {"meters": {"credits_day": msgspec.structs.replace(DAY, period="2026-12-01")}},
            [],
        ),
    ],
)
def test_each_change_is_news_once(
    was: dict[str, Any],
    now: dict[str, Any],
    news: list[tuple[str, str]],
) -> None:
    before = msgspec.structs.replace(BEFORE, **was)
    after = msgspec.structs.replace(BEFORE, **now)
    changes = list(
        news_of(
            InForce("acme", "people"),
            before,
            after,
            {"w": QuotaPolicy(warn_at=3, rotate_at=5).limits(50_000)},
        ),
    )
    assert [(change.kind, change.text) for change in changes] == news
    holds = after.holds or before.holds
    for change in changes:
        assert change.reason == (holds if change.kind in ("held", "moves") else "")


def test_how_many_submissions_are_left_and_counted_is_of_all_webhooks() -> None:
    lane = Lane(
        "acme",
        3,
        quota=Quota({"hook1": Webhook(44_000), "hook2": Webhook(1), "of another": Webhook(7)}),
    )
    seen = view(CAPPED, lane, [SILENT], NOW_MS)
    assert seen.submissions == 44_008
    assert seen.submissions_left == {"people": 1_000 + 44_999}


def test_a_destination_has_the_lifetime_that_it_is_configured_with() -> None:
    lane = Lane("acme", 3, quota=Quota({"hook1": Webhook(89), "hook2": Webhook(90)}))
    short = msgspec.structs.replace(SILENT, quota_lifetime=100)
    assert view(CAPPED, lane, [short], NOW_MS).submissions_left == {"people": 1}
    endless = msgspec.structs.replace(SILENT, quota_lifetime=0)
    full = Lane("acme", 3, quota=Quota({"hook1": Webhook(45_000), "hook2": Webhook(45_000)}))
    assert view(CAPPED, full, [endless], NOW_MS).submissions_left == {}
    assert view(CAPPED, full, [endless], NOW_MS).holds == ""
    assert view(CAPPED, full, [SILENT], NOW_MS).holds == "no_webhook"
