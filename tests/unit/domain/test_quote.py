"""What publishing and replays will cost, beside what is left."""

import msgspec
import pytest

from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Cost, Period
from stream_app.domain.limits.meters import Estimate, Meter
from stream_app.domain.limits.rate import Rate, RatePolicy
from stream_app.domain.plan import Actor, Change, Destination, Workspace
from stream_app.domain.views.lane import LaneView, PartHold
from stream_app.domain.views.lane_now import view
from stream_app.domain.views.price import Part, part, quote, quote_lines, quote_of_replay, too_dear

NOW_MS = 1_790_000_000_000
LIFTED = 'lifted by: stream-app lanes resume acme --why "..."'


def lane(**more: object) -> LaneView:
    view = LaneView("acme", 0, NOW_MS, "closed", "healthy", 100.0, 8.0)
    return msgspec.structs.replace(view, **more)


def acme(**budget: int) -> Workspace:
    return Workspace("acme", "", budget=BudgetPolicy(**budget))  # type: ignore[arg-type]  # only caps


def test_a_quote_uses_the_learned_cost_of_leads() -> None:
    usual = Cost(6, 1)
    most = Cost(20, 5)
    assert part("people", 100, usual, most, {}) == Part("people", 100, 6.0, 600, 2_000, 100, 500)
    learned = part("people", 100, usual, most, {"people": Estimate(7.31, 1.905, 40)})
    assert learned == Part("people", 100, 7.3, 731, 2_000, 191, 500)


def test_a_quote_is_compared_with_the_budget_left() -> None:
    policy = acme(credits_per_day=1_000, credits_per_month=9_000)
    leads = part("people", 100, Cost(6, 1), Cost(20, 5), {})
    caps = {"credits_day": 1_000, "credits_month": 9_000}
    unused = quote(policy, None, [leads], NOW_MS)
    assert unused.left == caps, "nothing was ever sent"
    assert unused.known is True, "nothing was ever sent"
    assert unused.short == [], "nothing was ever sent"
    unknown = quote(policy, None, [leads], NOW_MS, asked=False)
    assert unknown.left == caps
    assert unknown.known is False
    assert unknown.short == []
    spent = {
        "credits_day": Meter("2026-09-21", NOW_MS + 1, 1_000, 700, 20, 30),
        "credits_month": Meter("2026-09", NOW_MS + 1, 9_000, 4_000),
    }
    known = quote(
        policy,
        lane(meters=spent, rate_per_s=2.0, holds="paused", text="paused by eve"),
        [leads],
        NOW_MS,
    )
    assert known.left == {"credits_day": 250, "credits_month": 5_000}
    assert known.short == ["credits_day"]
    assert known.seconds == 50.0
    assert known.known is True
    assert known.holds == f"paused by eve; {LIFTED}"
    two = [leads, part("firms", 1, Cost(0, 2), Cost(0, 2), {})]
    both = quote(acme(credits_per_day=600, actions_per_day=101), None, two, NOW_MS)
    assert both.leads == 101
    assert both.credits == 600
    assert both.actions == 102
    assert both.short == ["actions_day"]


def test_a_quote_says_what_holds_only_leads_of_its_destinations() -> None:
    parts = (
        PartHold(("firms",), "yield_fell", "Clay finds nothing"),
        PartHold(("people",), "budget_credits_day", "bulk has had its share", bulk=True),
    )
    view = lane(partly=parts)
    of_firms = quote(acme(), view, [part("firms", 1, Cost(6), Cost(9), {})], NOW_MS)
    assert of_firms.holds == ""
    says = (
        "acme: its lane is held in part now: leads of firms: Clay finds nothing; lifted by: the "
        "callback of a probe that has the column again; or repair the cause, then: stream-app "
        'lanes resume acme --why "..."'
    )
    assert list(quote_lines([of_firms]))[-1] == says
    of_people = quote(acme(), view, [part("people", 1, Cost(6), Cost(9), {})], NOW_MS)
    assert of_people.holds_part == "", "leads of people move"
    paused = quote(
        acme(),
        lane(partly=parts, holds="paused", text="paused by eve"),
        [part("firms", 1, Cost(6), Cost(9), {})],
        NOW_MS,
    )
    says = f"acme: its lane is held now: paused by eve; {LIFTED}"
    assert list(quote_lines([paused]))[-1] == says


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(89, "89 s"), (90, "2 min"), (5_399, "90 min"), (5_400, "1.5 h"), (3_600_000, "1000.0 h")],
)
def test_the_time_of_a_quote_is_in_a_unit_that_one_reads(seconds: int, text: str) -> None:
    view = lane(rate_per_s=1.0)
    priced = quote(acme(), view, [part("people", seconds, Cost(6, 1), Cost(20, 5), {})], NOW_MS)
    assert f"acme: no budget limits it; about {text} at the lane's rate" in list(
        quote_lines([priced]),
    )


def test_a_lead_of_one_credit_is_told_in_the_singular() -> None:
    priced = quote(acme(), None, [part("people", 1, Cost(1), Cost(1), {})], NOW_MS)
    first, *_ = quote_lines([priced])
    assert first.startswith("acme/people: 1 lead at about 1 credit each: about 1 credit and ")


def test_a_quote_ignores_a_past_day_and_uses_a_live_cap() -> None:
    policy = acme(credits_per_day=1_000)
    spent = {"credits_day": Meter("2026-09-20", NOW_MS, 1_000, 900)}
    live = Change("budget.credits_per_day", 1_000, 400, Actor("eve", "test", NOW_MS))
    assert quote(policy, lane(meters=spent, changes=(live,)), [], NOW_MS).left == {
        "credits_day": 400,
    }
    beyond = {"credits_day": Meter("2026-09-21", NOW_MS + 1, 1_000, 1_200)}
    assert quote(policy, lane(meters=beyond), [], NOW_MS).left == {"credits_day": 0}


def test_a_replay_is_quoted_from_the_books_of_its_lane() -> None:
    spent = Budget(
        days=(Period("2026-09-21", credits_spent=40, credits_reserved=20),),
        months=(Period("2026-09", credits_spent=990),),
    )
    capped = acme(credits_per_day=100, credits_per_month=1_000)
    used = Lane("acme", 0, budget=spent)
    left = quote_of_replay(used.in_force(capped), used, [], 4.0, NOW_MS).left
    assert left == {"credits_day": 40, "credits_month": 10}
    assert quote_of_replay(used.in_force(acme()), used, [], 4.0, NOW_MS).left == {}
    policy = Workspace(
        "acme",
        "people",
        rate=RatePolicy(rate_per_s=8),
        budget=BudgetPolicy(credits_per_day=60, actions_per_day=9),
    )
    nine = part("people", 9, Cost(6, 1), Cost(20, 5), {})
    ten = part("people", 10, Cost(6, 1), Cost(20, 5), {})
    new = Lane("acme", 0)
    fits = quote_of_replay(new.in_force(policy), new, [nine], 4.0, NOW_MS)
    assert fits.credits == 54
    assert fits.actions == 9
    assert fits.left == {"credits_day": 60, "actions_day": 9}
    assert fits.seconds == 2.25
    assert too_dear([fits]) == []
    assert quote_of_replay(new.in_force(policy), new, [ten], 4.0, NOW_MS).short == ["actions_day"]

    # An operator's live budget counts, and so does what leads turned out to cost.
    by = Actor("jane", "c1", NOW_MS)
    live = Lane("acme", 0, changes=(Change("budget.credits_per_day", 60, 20, by),))
    three = part("people", 3, Cost(6, 1), Cost(20, 5), {"people": Estimate(7.4, 1.1, 50)})
    dear = quote_of_replay(live.in_force(policy), live, [three], 1.0, NOW_MS)
    assert dear.credits == 23
    assert dear.actions == 4
    assert dear.left["credits_day"] == 20
    assert dear.seconds == 3.0
    assert too_dear([dear]) == [
        (
            "acme: 3 leads cost about 23 credits and 4 actions, and 20 credits of today, 9 "
            "actions of today are left"
        ),
    ]

    # However fast they are sent back: the lane takes them at its present rate.
    slow = Lane("acme", 0, rate=Rate(cut_per_s=7.5))
    assert quote_of_replay(slow.in_force(policy), slow, [three], 4.0, NOW_MS).seconds == 6.0


def test_one_credit_that_is_left_is_one() -> None:
    leads = part("people", 2, Cost(6, 1), Cost(20, 5), {})
    dear = quote(acme(credits_per_day=1), None, [leads], NOW_MS)
    assert "acme: 1 credit of today is left; about 0 s at the lane's rate" in quote_lines([dear])
    assert too_dear([dear])[0].endswith(", and 1 credit of today is left")
    both = quote(acme(credits_per_day=1, actions_per_day=3), None, [leads], NOW_MS)
    assert both.left_text == "1 credit of today, 3 actions of today are left"


def test_a_replay_says_what_holds_its_lane_as_the_lane_says_it() -> None:
    policy = Workspace("acme", "people")
    people = Destination("people", "acme")
    paused = Lane("acme", 0, pause=Actor("eve", "a new table", NOW_MS))
    some = part("people", 3, Cost(6, 1), Cost(20, 5), {})
    seen = view(policy, paused, [people], NOW_MS)
    quoted = quote_of_replay(paused.in_force(policy), paused, [some], 4.0, NOW_MS, seen)
    assert quoted.holds == f"{seen.says}; {LIFTED}"
    assert "paused by eve: a new table" in quoted.holds
    moves = quote_of_replay(paused.in_force(policy), Lane("acme", 0), [some], 4.0, NOW_MS)
    assert moves.holds == moves.holds_part == ""


def test_a_workspace_pays_for_all_of_its_destinations_together() -> None:
    """Seen: 90 and 90 of 100 credits were taken for affordable."""
    policy = acme(credits_per_day=100)
    lane_ = Lane("acme", 0)
    both = [part(name, 15, Cost(6, 1), Cost(), {}) for name in ("a", "b")]
    assert [
        quote_of_replay(lane_.in_force(policy), lane_, [quoted], 4.0, NOW_MS).short
        for quoted in both
    ] == [[], []]
    dear = quote_of_replay(lane_.in_force(policy), lane_, both, 4.0, NOW_MS)
    assert dear.leads == 30
    assert dear.credits == 180
    assert dear.actions == 30
    assert dear.short == ["credits_day"]
