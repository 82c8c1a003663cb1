"""What admission answers, in every field: each hold with its end and its words; and each order's
words and effect.
"""

from typing import Any

import msgspec
import pytest

from stream_app.domain.lane import overrides as controls
from stream_app.domain.lane.admission import (
    Grant,
    Held,
    at_limit,
    decide,
    decide_dead_letter,
    without_webhook,
    would_hold,
)
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.overrides import Order, OrderOutcome, obey
from stream_app.domain.limits import suspension
from stream_app.domain.limits.breaker import Breaker, Lease, Permit
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Period, Reservation
from stream_app.domain.limits.concurrency import Concurrency, StallDetector
from stream_app.domain.limits.rate import Rate
from stream_app.domain.limits.webhook_quota import Quota, Webhook
from stream_app.domain.plan import Actor, Destination, InForce
from stream_app.domain.views.lane_now import view
from tests.support.narrow import of_type

NOW_MS = 1_796_083_140_000  # a minute before midnight
BY = Actor("anna", "maintenance", NOW_MS)
WHO = "by anna at 2026-11-30 23:59:00 UTC: maintenance"
PEOPLE = Destination("people", "acme", ("hook1", "hook2"), callbacks=False)
POLICY = InForce("acme", "people", budget=BudgetPolicy(credits_per_day=100, hot_share=0.1))
LANE = Lane("acme", 0, rate=Rate(10.0, NOW_MS))
STOPPED = suspension.begin(POLICY.suspension, "http_401", "refused", NOW_MS, "people")
OUT = suspension.begin(POLICY.suspension, "full", "full", NOW_MS, "people")
USUAL = Concurrency(20.0, 400.0, 100)
POOL = (
    "destination people has no webhook left (hook1: 45,000 submissions, hook2: {}): make a "
    "new one on its table in "
    "Clay, add it to webhooks_env, then `stream-app lanes reload`"
)
NO_ROOM = "the next lead may cost 20 credits, and the budget credits_day has less left"


def lane(**changes: Any) -> Lane:
    return msgspec.structs.replace(LANE, **changes)


def used(spent: int, reserved: int = 0, day: str = "2026-11-30") -> Budget:
    return Budget((Period(day, spent, reserved),), (Period(day[:7], spent, reserved),))


@pytest.mark.parametrize(("block_ms", "reason"), [(0, "rate"), (1, "rate_limited")])
def test_a_lane_is_called_limited_by_clay_as_long_as_the_retry_after_blocks(
    block_ms: int,
    reason: str,
) -> None:
    """At its end, the lane waits for its own rate only: the bucket did not fill meanwhile."""
    blocked = lane(rate=Rate(0.0, NOW_MS, blocked_until_ms=NOW_MS + block_ms))
    _, answer = decide(POLICY, blocked, PEOPLE, NOW_MS, 0)
    assert of_type(Held, answer).reason == reason


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        (
            {"pause": BY},
            Held("paused", "paused by anna: maintenance", NOW_MS + 60_000, "held_paused"),
        ),
        (
            {"quota": Quota({"hook1": Webhook(45_000), "hook2": Webhook(1, "by anna")})},
            Held("no_webhook", POOL.format("by anna"), NOW_MS + 60_000, "held_paused"),
        ),
        (
            {"quota": Quota({"hook1": Webhook(45_000), "hook2": Webhook(1, "", OUT)})},
            Held("webhook_out", POOL.format("full (403)"), NOW_MS + 300_000, "held_paused"),
        ),
        ({"suspension": STOPPED}, Held("http_401", "refused", NOW_MS + 300_000, "held_paused")),
        (
            {"breaker": Breaker("open", 3, NOW_MS, NOW_MS + 5, "failure_rate", NOW_MS)},
            Held(
                "breaker_open",
                "the circuit breaker is open: too many of the last calls have failed",
                NOW_MS + 5,
                "held_outage",
            ),
        ),
        (
            {
                "breaker": Breaker(
                    "half_open",
                    3,
                    NOW_MS,
                    0,
                    "slow_rate",
                    lease=Lease(1, NOW_MS + 9_000),
                    next_lease=2,
                ),
            },
            Held(
                "breaker_open",
                "the circuit breaker is half open: too many of the last calls were slow",
                NOW_MS + 5_000,
                "held_outage",
            ),
        ),
        (
            {
                "breaker": Breaker(
                    "half_open",
                    3,
                    NOW_MS,
                    0,
                    "slow_rate",
                    lease=Lease(1, NOW_MS + 900),
                    next_lease=2,
                ),
            },
            Held(
                "breaker_open",
                "the circuit breaker is half open: too many of the last calls were slow",
                NOW_MS + 900,
                "held_outage",
            ),
        ),
        ({"rate": Rate(0.5, NOW_MS)}, Held("rate", "waits for the rate limit", NOW_MS + 50)),
        (
            {"rate": Rate(5.0, NOW_MS, 0.0, NOW_MS + 7_000)},
            Held("rate_limited", "Clay said 429 and when to come back", NOW_MS + 7_000),
        ),
        (
            {"budget": used(70, 11)},
            Held("budget_credits_day", NO_ROOM, NOW_MS + 60_000, "held_budget"),
        ),
        (
            {"budget": used(1, day="2026-12-01")},
            Held(
                "budget_clock",
                "this machine's clock is behind the books of the budget",
                NOW_MS + 1_000,
                "held_budget",
            ),
        ),
    ],
)
def test_a_hold_says_why_until_when_and_takes_nothing(changes: dict[str, Any], held: Held) -> None:
    before = lane(**changes)
    assert decide(POLICY, before, PEOPLE, NOW_MS, 0) == (before, held)
    assert would_hold(POLICY, before, PEOPLE, NOW_MS, True, StallDetector()) is (
        held.status is not None
    )
    seen = view(POLICY, before, [PEOPLE], NOW_MS)
    if held.reason not in ("rate", "rate_limited"):
        ends_ms = 0 if held.reason in ("paused", "no_webhook", "budget_clock") else held.until_ms
        is_probing = before.breaker.phase == "half_open"
        assert seen.holds == held.reason
        assert seen.text == held.text
        assert is_probing or seen.until_ms == ends_ms


def test_a_hold_keeps_no_probe_that_a_clock_step_moved_too_far() -> None:
    latest_ms = NOW_MS + int(POLICY.suspension.probe_cap_s * 1000)
    late = msgspec.structs.replace(STOPPED, probe_at_ms=latest_ms + 9 * 86_400_000)
    bounded = msgspec.structs.replace(STOPPED, probe_at_ms=latest_ms)
    gone_late = Quota(dict.fromkeys(PEOPLE.webhook_ids, Webhook(1, "", late)))
    gone_bounded = Quota(dict.fromkeys(PEOPLE.webhook_ids, Webhook(1, "", bounded)))
    assert decide(POLICY, lane(suspension=late), PEOPLE, NOW_MS, 0)[0] == lane(suspension=bounded)
    assert decide(POLICY, lane(quota=gone_late), PEOPLE, NOW_MS, 0)[0] == lane(quota=gone_bounded)


def test_a_grant_takes_a_token_a_reservation_and_a_submission_and_names_its_probes() -> None:
    other = msgspec.structs.replace(STOPPED, destination="firms", one_destination=True)
    after, grant = decide(POLICY, lane(suspension=other), PEOPLE, NOW_MS, 77)
    assert grant == Grant(
        PEOPLE,
        Reservation("2026-11-30", "2026-11", 20, 5),
        "hook1",
        Permit(0),
        None,
        77,
    )
    assert after.rate.tokens == 9.0
    assert after.quota.webhooks == {"hook1": Webhook(1)}
    assert after.budget.days[0].credits_reserved == 20
    assert not would_hold(POLICY, LANE, PEOPLE, NOW_MS, True, StallDetector())
    later_ms = NOW_MS + 300_000
    gone = Quota({name: Webhook(1, "", STOPPED) for name in PEOPLE.webhook_ids})
    for probing in ({"suspension": STOPPED}, {"quota": gone}, {"breaker": Breaker("half_open", 1)}):
        assert would_hold(POLICY, lane(**probing), PEOPLE, later_ms, True, StallDetector()), (
            "only as a probe"
        )
        assert isinstance(decide(POLICY, lane(**probing), PEOPLE, later_ms, 0)[1], Grant)


def test_a_stalled_clay_holds_and_so_does_a_full_line_until_it_surely_has_stalled() -> None:
    usual = lane(concurrency=USUAL)
    text = "5 requests went out and Clay has answered none of them: no more go before one has ended"
    unanswered = StallDetector(NOW_MS - 60_000, 5)
    stalled = decide(POLICY, usual, PEOPLE, NOW_MS, 0, True, unanswered)
    assert stalled == (usual, Held("no_answer", text, NOW_MS + 5_000, "held_outage"))
    seen = view(POLICY, usual, [PEOPLE], NOW_MS, stall=unanswered)
    assert seen.holds == "no_answer"
    assert seen.since_ms == NOW_MS - 60_000
    assert at_limit(POLICY, usual, StallDetector(NOW_MS - 100, 2), NOW_MS) == Held(
        "in_flight",
        "",
        NOW_MS + 1_700,
    )
    assert at_limit(POLICY, LANE, StallDetector(), NOW_MS) == Held("in_flight", "", 0)


def test_a_dead_letter_waits_only_for_a_flood_of_them() -> None:
    free = Grant(PEOPLE, Reservation("", "", 0, 0), "", Permit(0), None, 5)
    flood = lane(suspension=msgspec.structs.replace(STOPPED, reason="flood_guard", text="flood"))
    for before, waits in ((LANE, True), (lane(suspension=STOPPED), True), (flood, False)):
        assert decide_dead_letter(POLICY, before, PEOPLE, NOW_MS, 5, waits) == (before, free)
    assert decide_dead_letter(POLICY, flood, PEOPLE, NOW_MS, 5, True)[1] == Held(
        "flood_guard",
        "flood",
        NOW_MS + 300_000,
    )
    after, grant = decide_dead_letter(POLICY, flood, PEOPLE, NOW_MS + 300_000, 5, True)
    assert isinstance(grant, Grant)
    assert grant.suspension_probe is not None
    assert after.suspension is not None
    assert after.suspension.probe == grant.suspension_probe.number == 1


RESET = "reset: the breaker is closed with an empty window, and no suspension"


IN_FORCE = {"pause": BY, "suspension": STOPPED}
TRIPPED = {"breaker": Breaker("open", 3, 1, 2, "failure_rate")}
FULL = {"quota": Quota({"hook2": Webhook(3, "", OUT)})}
CAPS = controls.ChangeBudget({"credits_per_day": 50, "actions_per_day": None}, shadow=True)
CHANGED = (
    "budget.credits_per_day: 100 -> 50, budget.actions_per_day: unlimited -> unlimited, "
    "budget.shadow: false -> true"
)
FORCED_OPEN = "the breaker is forced open: nothing is sent until `auto`, `close` or `reset`"
FORCED_CLOSED = "the breaker is forced closed: nothing trips it until `auto`, `trip` or `reset`"


@pytest.mark.parametrize(
    ("before", "order", "says"),
    [
        ({}, controls.Pause(), f"paused {WHO}; leads wait on Kafka until `resume`"),
        (
            IN_FORCE,
            controls.Resume(),
            f"resumed: lifted the pause {WHO} and the suspension (http_401)",
        ),
        (
            FULL,
            controls.Resume(),
            "resumed: lifted the suspension of webhook hook2 (full (403))",
        ),
        ({}, controls.Trip(), FORCED_OPEN),
        ({}, controls.Close(), FORCED_CLOSED),
        (
            {},
            controls.Shadow(),
            "the breaker is in shadow: it decides and reports, and holds nothing",
        ),
        ({}, controls.Auto(), "the breaker decides by itself"),
        (TRIPPED, controls.Auto(), "the breaker decides by itself, and is open (failure_rate)"),
        ({"pause": BY}, controls.Reset(), f"{RESET}; still in force: the pause {WHO}"),
        (
            {"rate": Rate(blocked_until_ms=NOW_MS + 1)},
            controls.Reset(),
            f"{RESET}; still in force: Clay's Retry-After",
        ),
        ({"rate": Rate(blocked_until_ms=NOW_MS)}, controls.Reset(), RESET),
        ({}, CAPS, CHANGED),
        ({}, controls.ChangeRate(2.5, 3), "rate.rate_per_s: 10 -> 2.5, rate.burst: 20 -> 3"),
        ({}, controls.Correct(9), "spent elsewhere is now: credits_day 9, credits_month 9"),
        ({}, controls.Correct(2, -4, period="month"), "spent elsewhere is now: credits_month 2"),
        ({}, controls.Correct(-1), "spent elsewhere is now: nothing"),
        (
            {},
            controls.ChangeQuota("hook1", use=False),
            f"webhook hook1: 0 submissions, out of use ({WHO})",
        ),
        ({}, controls.ChangeQuota("hook1", count=7), "webhook hook1: 7 submissions, in use"),
        (
            FULL,
            controls.ChangeQuota("hook2", count=1),
            "webhook hook2: 1 submission, suspended: full (403)",
        ),
    ],
)
def test_an_order_changes_the_lane_and_says_how(
    before: dict[str, Any],
    order: Order,
    says: str,
) -> None:
    was = lane(**before)
    answer = obey(POLICY, was, order, BY, dict.fromkeys(PEOPLE.webhook_ids, 50_000))
    assert answer.text == says
    assert answer.done is True
    assert answer.lane != was


def test_a_breaker_that_is_forced_is_in_that_phase_at_once() -> None:
    closed = obey(POLICY, lane(**TRIPPED), controls.Close(), BY, {}).lane
    opened = obey(POLICY, lane(), controls.Trip(), BY, {}).lane
    assert closed.breaker.phase == "closed"
    assert opened.breaker.phase == "open"


def test_an_order_that_is_in_force_already_changes_nothing() -> None:
    paused = lane(pause=BY)
    same = controls.ChangeBudget({"credits_per_day": 100})
    for was, order, says in (
        (paused, controls.Pause(), f"the lane was paused already, {WHO}"),
        (LANE, controls.Resume(), "the lane was neither paused nor suspended"),
        (LANE, same, "budget.credits_per_day: 100 -> 100"),
    ):
        assert obey(POLICY, was, order, Actor("ben", "me too", NOW_MS + 1)) == OrderOutcome(
            was,
            says,
        )


@pytest.mark.parametrize("stopped", [None, OUT])
def test_a_routine_that_clay_does_not_start_is_no_webhook(
    stopped: suspension.Suspension | None,
) -> None:
    routine = msgspec.structs.replace(PEOPLE, kind="routine", webhook_ids=("function:t_1",))
    out = Webhook(1, "" if stopped else "by anna", stopped)
    held = without_webhook(lane(quota=Quota({"function:t_1": out})), routine, None, NOW_MS)
    assert held.text.startswith("Clay does not start the routine of destination people (function:")
    assert "switch its API on in Clay" in held.text
    assert "webhook" not in held.text


def test_a_ceiling_of_one_credit_is_told_as_one() -> None:
    people = msgspec.structs.replace(PEOPLE, ceiling_credits=1, estimate_credits=1)
    _, held = decide(POLICY, lane(budget=used(100)), people, NOW_MS, 0)
    assert of_type(Held, held).text == NO_ROOM.replace("20 credits", "1 credit")
