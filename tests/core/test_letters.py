"""Which letters are meant, how they are counted, and what a replay of them costs."""

from __future__ import annotations

from typing import Any

import pytest

from stream_app.core.budget import Budget, BudgetPolicy, Cost, Period
from stream_app.core.delivery import Delivery
from stream_app.core.letters import Filter, Tally, headers_of, kind_of
from stream_app.core.messages import Status
from stream_app.core.pricing import Fate, fate, left, price

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
FAILED = {
    "disposition": b"failed",
    "reason": b"http_503",
    "http-status": b"503",
    "destination": b"people",
    "lead-id": b"lead-1",
    "reason-text": b"Something went wrong.",
}


def test_headers_without_a_value_stop_no_count() -> None:
    """Seen: `stream-app dlq` ended with a traceback at a letter of another program."""
    headers = headers_of([("reason", None), ("reason-text", None), ("disposition", None), ("way", b"x")])
    tally = Tally(NOW_MS)
    tally.add(headers, None, NOW_MS)
    assert [(group.kind, group.reason) for group in tally.sorted()] == [("foreign", "")]
    assert not Filter(reasons=frozenset({"x"})).matches(headers, None, NOW_MS)


def test_an_empty_filter_means_all() -> None:
    assert Filter().matches(FAILED, b"acme", NOW_MS)
    assert Filter().matches({}, None, NOW_MS)


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ({"reasons": frozenset({"http_503", "x"})}, {"reasons": frozenset({"x"})}),
        ({"statuses": frozenset({503})}, {"statuses": frozenset({50})}),
        ({"destinations": frozenset({"people"})}, {"destinations": frozenset({"firms"})}),
        ({"workspaces": frozenset({"acme"})}, {"workspaces": frozenset({"acm"})}),
        ({"leads": frozenset({"lead-1"})}, {"leads": frozenset({"lead-2"})}),
        ({"kinds": frozenset({"failed"})}, {"kinds": frozenset({"foreign"})}),
        ({"since_ms": NOW_MS}, {"since_ms": NOW_MS + 1}),
        ({"until_ms": NOW_MS + 1}, {"until_ms": NOW_MS}),
    ],
)
def test_each_condition_narrows(yes: dict[str, Any], no: dict[str, Any]) -> None:
    assert Filter(**yes).matches(FAILED, b"acme", NOW_MS)
    assert not Filter(**no).matches(FAILED, b"acme", NOW_MS)


def test_contradictions_are_named() -> None:
    assert Filter(since_ms=2, until_ms=2).problems()
    assert Filter(statuses=frozenset({503}), reasons=frozenset({"not_json"})).problems()
    assert not Filter(statuses=frozenset({503}), reasons=frozenset({"http_503"}), since_ms=1, until_ms=2).problems()


def test_kinds() -> None:
    assert kind_of(FAILED) == "failed"
    assert kind_of({"disposition": b"poison"}) == "poison"
    assert kind_of({"way": b"deferred", "origin": b"leads/0/1"}) == "deferred"
    assert kind_of({"disposition": b"nonsense"}) == "foreign"
    assert kind_of({}) == "foreign"


def test_the_tally_has_causes_ages_and_a_trend() -> None:
    tally = Tally(NOW_MS)
    for hours in (0.1, 0.2, 1.5, 30):
        tally.add(FAILED, b"acme", int(NOW_MS - hours * HOUR_MS))
    tally.add({}, None, NOW_MS)
    first, second = tally.sorted()
    assert (first.kind, first.reason, first.workspace, first.count) == ("failed", "http_503", "acme", 4)
    assert (first.first_ms, first.last_ms) == (NOW_MS - 30 * HOUR_MS, NOW_MS - HOUR_MS // 10)
    assert (first.last_hour, first.hour_before, first.trend) == (2, 1, "rising")
    assert first.texts == {"Something went wrong.": 4}
    assert second.kind == "foreign"
    assert tally.ages == {"under an hour": 3, "under a day": 1, "under a week": 1}
    assert tally.count == 5


def test_the_tally_stays_small_whatever_others_write() -> None:
    tally = Tally(NOW_MS)
    for number in range(20_000):
        tally.add({"reason": str(number).encode(), "reason-text": str(number).encode()}, b"k", NOW_MS)
    assert len(tally.groups) <= 10_001
    assert sum(group.count for group in tally.groups.values()) == 20_000
    assert max(len(group.texts) for group in tally.groups.values()) <= 51


def row(state: Status, **changes: Any) -> Delivery:
    return Delivery(1, state, "leads/0/1", 7, 0, 0, "", **changes)


@pytest.mark.parametrize(
    ("seq", "there", "by_select", "by_rewind"),
    [
        (7, row("dead_lettered"), "goes", "goes"),
        (6, row("dead_lettered"), "later_letter", "goes"),
        (7, row("parked"), "goes", "goes"),
        (7, row("parked", sends=1), "may_be_at_clay", "may_be_at_clay"),
        (7, row("accepted"), "delivered", "delivered"),
        (7, row("enriched"), "delivered", "delivered"),
        (7, row("deferred"), "under_way", "under_way"),
        (7, None, "no_row", "no_row"),
    ],
)
def test_the_fate_of_a_letter(seq: int, there: Delivery | None, by_select: Fate, by_rewind: Fate) -> None:
    assert fate("failed", seq, there, uncertain=False, rewind=False) == by_select
    assert fate("failed", seq, there, uncertain=False, rewind=True) == by_rewind
    assert fate("poison", seq, there, uncertain=False, rewind=True) == "waits_for_ask"
    assert fate("poison", seq, there, uncertain=False, rewind=False) == "as_input"


def test_only_an_operator_who_says_so_sends_what_may_have_arrived() -> None:
    parked = row("parked", sends=1)
    assert fate("failed", 7, parked, uncertain=True, rewind=False) == "goes"
    assert fate("failed", 7, parked, uncertain=True, rewind=True) == "may_be_at_clay"


def test_what_is_left_is_the_lesser_of_day_and_month() -> None:
    policy = BudgetPolicy(credits_per_day=100, credits_per_month=1000, actions_per_day=None)
    state = Budget(
        days=(Period("2023-11-14", credits_spent=40, credits_reserved=20),),
        months=(Period("2023-11", credits_spent=990),),
    )
    assert left(policy, state, NOW_MS) == (10, None)
    assert left(BudgetPolicy(credits_per_day=100), state, NOW_MS) == (40, None)
    assert left(BudgetPolicy(), Budget(), NOW_MS) == (None, None)


def test_the_price_fits_or_not() -> None:
    cheap = price("people", "acme", 10, Cost(6, 1), Cost(20, 5), (60, None), 4.0)
    assert (cheap.credits, cheap.actions, cheap.credits_at_most, cheap.seconds) == (60, 10, 200, 2.5)
    assert cheap.fits
    assert not price("people", "acme", 11, Cost(6, 1), Cost(20, 5), (60, None), 4.0).fits
