"""Orders of an operator: each changes just what it says, holds through a restart, and says what it
did.
"""

import math
import re
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stream_app.domain.commands import CommandKind, read_arguments, read_entries
from stream_app.domain.lane import overrides as controls
from stream_app.domain.lane.admission import Grant, Held, decide
from stream_app.domain.lane.lane import Lane, reconfigured
from stream_app.domain.lane.overrides import Order, obey
from stream_app.domain.lane.settlement import book_callback, settled
from stream_app.domain.limits.breaker import Breaker
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Cost, Period
from stream_app.domain.limits.rate import Rate, on_429
from stream_app.domain.model.outcome import Accepted, Outcome, Refused
from stream_app.domain.plan import Actor, Destination, Workspace, byline
from stream_app.domain.views.lane_now import view
from tests.support.narrow import of_type
from tests.unit.domain.lanes import granted

NOW_MS = 1_796_083_140_000
BY = Actor("anna", "maintenance", NOW_MS)
PEOPLE = Destination("people", "acme", ("hook1", "hook2"), callbacks=False)
POLICY = Workspace("acme", "people", budget=BudgetPolicy(credits_per_day=100))
LANE = Lane("acme", 0, rate=Rate(10.0, NOW_MS))
REFUSED = Refused("connect", 5)


def _ask(lane: Lane, policy: Workspace = POLICY) -> Grant | Held:
    return decide(lane.in_force(policy), lane, PEOPLE, NOW_MS, 0)[1]


def _granted(lane: Lane) -> Grant:
    return of_type(Grant, _ask(lane))


def _call(lane: Lane, outcome: Outcome, policy: Workspace = POLICY) -> Lane:
    lane, entry = granted(policy, lane, PEOPLE, NOW_MS)
    return settled(lane.in_force(policy), lane, entry, outcome, NOW_MS, 0.5)[0]


def _done(lane: Lane, order: Order, policy: Workspace = POLICY) -> Lane:
    answer = obey(policy, lane, order, BY, dict.fromkeys(PEOPLE.webhook_ids, 50_000))
    assert answer.done, answer.text
    again = msgspec.json.decode(msgspec.json.encode(answer.lane), type=Lane)
    assert again == answer.lane, "it survives a restart"
    return again


def test_a_pause_holds_until_it_is_resumed() -> None:
    paused = _done(LANE, controls.Pause())
    held = of_type(Held, _ask(paused))
    assert held.reason == "paused"
    assert held.text == "paused by anna: maintenance"
    assert held.status == "held_paused"
    seen = view(POLICY, paused, [PEOPLE], NOW_MS + 5_000)
    assert seen.holds == "paused"
    assert seen.paused_by == BY
    assert seen.since_ms == NOW_MS
    assert isinstance(_ask(_done(paused, controls.Resume())), Grant)


def test_a_forced_open_breaker_holds_at_any_time_and_ends_in_probes() -> None:
    forced = _done(LANE, controls.Trip())
    held = of_type(Held, decide(forced.in_force(POLICY), forced, PEOPLE, NOW_MS + 86_400_000, 0)[1])
    assert held.text == "the circuit breaker was forced open by anna: maintenance"
    outage = Breaker("open", 1, outage_ms=NOW_MS - 60_000)
    failing = msgspec.structs.replace(LANE, breaker=outage)
    seen = view(POLICY, _done(failing, controls.Trip()), [PEOPLE], NOW_MS + 5_000)
    assert seen.holds == "forced_open"
    assert seen.since_ms == NOW_MS, "the order holds it, and Clay failed before that"
    tripped = LANE
    for _ in range(5):
        tripped = _call(tripped, REFUSED)
    for lane, lifts in (
        (forced, "auto"),
        (_done(forced, controls.Pause()), "resume"),
        (tripped, "reset"),
    ):
        assert f"stream-app lanes {lifts} acme" in view(POLICY, lane, [PEOPLE], NOW_MS).lifts
    answer = obey(POLICY, forced, controls.Auto(), BY)
    assert "beginning with probes" in answer.text
    assert _granted(answer.lane).permit.lease is not None


def test_shadow_decides_and_counts_and_holds_nothing() -> None:
    lane = _done(LANE, controls.Shadow())
    for _ in range(8):
        lane = _call(lane, REFUSED)
    seen = view(POLICY, lane, [PEOPLE], NOW_MS)
    assert seen.breaker == "open"
    assert seen.mode == "shadow"
    assert seen.holds == ""
    assert seen.shadow_breaker == 3


@pytest.mark.parametrize(("block_ms", "is_told"), [(0, False), (1, True)])
def test_reset_tells_of_a_retry_after_as_long_as_it_blocks(
    block_ms: int,
    *,
    is_told: bool,
) -> None:
    lane = replace(LANE, rate=Rate(10.0, NOW_MS, blocked_until_ms=NOW_MS + block_ms))
    answer = obey(POLICY, lane, controls.Reset(), BY)
    assert ("still in force: Clay's Retry-After" in answer.text) is is_told


def test_the_id_of_a_webhook_has_at_most_64_characters() -> None:
    assert controls.ChangeQuota("w" * 64, count=1).webhook == "w" * 64
    with pytest.raises(ValueError, match="never by its URL"):
        controls.ChangeQuota("w" * 65, count=1)


def test_reset_clears_failures_but_neither_a_pause_nor_a_retry_after() -> None:
    lane = LANE
    for _ in range(5):
        lane = _call(lane, REFUSED)
    lane = replace(lane, rate=on_429(POLICY.rate, lane.rate, NOW_MS, 30_000, 0.5))
    answer = obey(POLICY, _done(lane, controls.Pause()), controls.Reset(), BY)
    assert answer.lane.breaker.phase == "closed"
    assert answer.lane.window.buckets == ()
    assert answer.lane.breaker.epoch > lane.breaker.epoch, "calls of before say nothing"
    assert answer.text.endswith("maintenance and Clay's Retry-After")
    assert answer.lane.rate.blocked_until_ms == NOW_MS + 30_000


def test_a_budget_changed_live_counts_for_the_very_next_lead() -> None:
    lane = LANE
    for _ in range(14):
        lane = replace(_call(lane, Accepted(200, 5)), rate=LANE.rate)
    assert isinstance(_ask(lane), Held)
    raised = _done(lane, controls.ChangeBudget({"credits_per_day": 120}))
    assert isinstance(_ask(raised), Grant)
    lowered = _done(lane, controls.ChangeBudget({"credits_per_day": 50}))
    assert isinstance(_ask(lowered), Held)
    assert isinstance(_ask(_done(lane, controls.ChangeBudget({"credits_per_day": None}))), Grant)
    assert _done(raised, controls.ChangeBudget({"credits_per_day": "configured"})).changes == ()


def test_a_configuration_edited_after_a_live_change_wins() -> None:
    lane = _done(LANE, controls.ChangeBudget({"credits_per_day": 10}))
    assert isinstance(_ask(lane), Held)
    edited = replace(POLICY, budget=BudgetPolicy(credits_per_day=40))
    assert isinstance(_ask(lane, edited), Grant)


def test_a_shadow_budget_lets_through_and_counts() -> None:
    lane = _done(LANE, controls.ChangeBudget({"credits_per_day": 25}, shadow=True))
    for _ in range(3):
        lane = _call(lane, Accepted(200, 5))
    assert view(POLICY, lane, [PEOPLE], NOW_MS).shadow_budget == 2
    assert isinstance(_ask(_done(lane, controls.ChangeBudget(shadow="configured"))), Held)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (
            controls.ChangeBudget({"credits_per_month": 50}),
            "credits_per_day = 100: must not be above",
        ),
        (
            controls.ChangeQuota("hook9", use=True),
            "there is no webhook hook9; there are hook1, hook2",
        ),
    ],
)
def test_an_order_that_makes_no_sense_changes_nothing_and_says_why(order: Order, says: str) -> None:
    answer = obey(POLICY, LANE, order, BY, dict.fromkeys(PEOPLE.webhook_ids, 50_000))
    assert answer.done is False
    assert answer.lane == LANE
    assert says in answer.text


@pytest.mark.parametrize("most", [10**12, -(10**12)])
def test_the_largest_correction_is_done(most: int) -> None:
    for order in (controls.Correct(credits=most), controls.Correct(actions=most)):
        _done(LANE, order, Workspace("acme", "people"))


@pytest.mark.parametrize(
    ("kind", "args", "says"),
    [
        ("budget", {"caps": {"credits_per_day": -1}}, "caps[...]: Expected `int` >= 0"),
        (
            "budget",
            {"caps": {}, "shadow": None},
            "credits_per_month, actions_per_day, actions_per_month or shadow",
        ),
        ("rate", {"rate_per_s": 0.0}, "rate_per_s: Expected `float` >= 0.01"),
        ("rate", {"rate_per_s": math.nan}, "rate_per_s: Expected `float` >= 0.01"),
        ("rate", {"burst": 0}, "burst: Expected `int` >= 1"),
        (
            "rate",
            {"rate_per_s": None, "burst": None},
            "name something to change: per_second or burst",
        ),
        ("correct", {"credits": 10**12 + 1}, "credits: Expected `int` <= 1000000000000"),
        ("correct", {"credits": -(10**12) - 1}, "credits: Expected `int` >= -1000000000000"),
        (
            "correct",
            {"credits": 0, "actions": 0, "period": "day"},
            "name credits or actions that are not 0",
        ),
        ("quota", {"webhook_id": "hook1", "count": -1}, "count: Expected `int` >= 0"),
        (
            "quota",
            {"webhook_id": "hook1", "count": 10**12 + 1},
            "count: Expected `int` <= 1000000000000",
        ),
        ("quota", {"webhook_id": "hook1"}, "name something to change: use, retire or count"),
        ("quota", {"webhook_id": "https://a.example/secret", "use": True}, "never by its URL"),
        ("resolve", {"lead_id": "a"}, "name what it cost"),
        ("resolve", {"lead_id": "a", "credits": -1}, "credits: Expected `int` >= 0"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    kind: CommandKind,
    args: dict[str, Any],
    says: str,
) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        read_arguments(kind, args)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "args", "says"),
    [
        ("correct", {"credits": 1, "period": "x\n" * 500_000}, "period: Invalid enum value"),
        ("budget", {"caps": {"x\n" * 500_000: 1}}, "caps: Invalid enum value"),
        ("quota", {"webhook_id": "x" * 1_000_000, "use": True}, "name the webhook by the ID"),
    ],
)
def test_what_is_wrong_is_said_in_one_short_line(
    kind: CommandKind,
    args: dict[str, Any],
    says: str,
) -> None:
    """Otherwise its answer is too large for Kafka, and the worker cannot go on."""
    with pytest.raises(ValueError, match=f"^{says}.{{1,400}}$") as raised:
        read_arguments(kind, args)
    assert len(str(raised.value).splitlines()) == 1


def test_entries_become_the_arguments_of_a_command() -> None:
    entered = {
        "credits_per_day": "8,000",
        "credits_per_month": "None",
        "actions_per_day": "configured",
    }
    args, problems = read_entries("budget", {**entered, "shadow": "off"})
    caps = {"credits_per_day": 8_000, "credits_per_month": None, "actions_per_day": "configured"}
    assert args == {"caps": caps, "shadow": False}
    assert problems == {}
    refused = "'null' is not a whole number, none or configured, from 0 to 1,000,000,000,000"
    assert read_entries("budget", {"credits_per_day": "null"})[1] == {"credits_per_day": refused}
    assert read_entries("quota", {"webhook": "hook1", "use": True}) == (
        {"webhook_id": "hook1", "use": True},
        {},
    )
    assert read_entries("rate", {"per_second": "4,5", "burst": ""})[1] == {
        "per_second": "'4,5' is not a number or configured, from 0.01 to 1,000",
    }


SPENT_200 = replace(LANE, budget=Budget((Period("2026-11-30", 200),), (Period("2026-11", 200),)))
WIDE = replace(POLICY, budget=BudgetPolicy(credits_per_day=1_000))


def _news(before: Lane, after: Lane, policy: Workspace = WIDE) -> list[str]:
    seen = view(policy, after, [PEOPLE], NOW_MS, view(policy, before, [PEOPLE], NOW_MS))
    assert view(policy, after, [PEOPLE], NOW_MS, seen).news == (), "once"
    return [news.kind for news in seen.news if news.kind.startswith("budget_")]


def test_a_soft_limit_crossed_by_an_order_a_configuration_or_a_cost_is_reported_once() -> None:
    lowered = _done(SPENT_200, controls.ChangeBudget({"credits_per_day": 200}), WIDE)
    assert _news(SPENT_200, lowered) == ["budget_95"]
    assert _news(SPENT_200, _done(SPENT_200, controls.Correct(credits=790), WIDE)) == ["budget_95"]
    raised = _done(lowered, controls.ChangeBudget({"credits_per_day": "configured"}), WIDE)
    assert _news(lowered, raised) == []
    assert _news(raised, _done(raised, controls.ChangeBudget({"credits_per_day": 200}), WIDE)) == [
        "budget_95",
    ]
    lanes = (
        SPENT_200,
        lowered,
        _done(lowered, controls.ChangeBudget({"credits_per_day": 300}), WIDE),
        raised,
    )
    pairs = ((view(WIDE, before, [PEOPLE], NOW_MS), after) for before, after in pairwise(lanes))
    told = [
        view(WIDE, after, [PEOPLE], NOW_MS, before).news[0].text.split(", ")[0]
        for before, after in pairs
    ]
    assert told == [
        f"budget.credits_per_day: {change}"
        for change in ("1000 -> 200", "200 -> 300", "300 -> 1000")
    ]
    narrow = replace(WIDE, budget=BudgetPolicy(credits_per_day=240))
    assert _news(
        SPENT_200,
        reconfigured(SPENT_200.in_force(narrow), SPENT_200, [], NOW_MS),
        narrow,
    ) == ["budget_80"]
    lane, entry = granted(WIDE, SPENT_200, PEOPLE, NOW_MS)
    assert _news(
        lane,
        book_callback(lane.in_force(WIDE), lane, PEOPLE, entry.reservation, Cost(700, 5), NOW_MS),
    ) == ["budget_80"]


@pytest.mark.parametrize(
    ("at_ms", "shown"),
    [
        (-1, "1970-01-01 00:00:00"),
        (1_796_083_140_999, "2026-11-30 23:59:00"),
        (253_370_764_800_000, "9999-01-01 00:00:00"),
        (10**18, "9999-01-01 00:00:00"),
    ],
)
def test_who_gave_an_order_and_when_is_said_for_any_time(at_ms: int, shown: str) -> None:
    assert byline(Actor("jane", "a look first", at_ms)) == f"by jane at {shown} UTC: a look first"
    assert byline(Actor("jane", "", at_ms)) == f"by jane at {shown} UTC"
