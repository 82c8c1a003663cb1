"""Why nothing is moving: each limit that may hold is named, what lifts it, and how many wait."""

from typing import Any

import msgspec
import pytest

from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.overrides import Auto, ChangeQuota, Trip, obey
from stream_app.domain.lane.settlement import settled
from stream_app.domain.limits import suspension
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.breaker import Outage
from stream_app.domain.limits.budget import BudgetPolicy, Cost, reserve
from stream_app.domain.limits.meters import Estimate, Forecast, Meter
from stream_app.domain.limits.yield_health import Fall
from stream_app.domain.model.outcome import Refused
from stream_app.domain.plan import Actor, Destination, InForce
from stream_app.domain.views.explain import (
    ConsumerGroup,
    Facts,
    Finding,
    LaneFacts,
    Outlook,
    duration,
    explain,
    outlook,
)
from stream_app.domain.views.lane import LaneView, PartHold, RunsView
from stream_app.domain.views.lane_now import view as view_of
from tests.support.narrow import of_type
from tests.unit.domain.lanes import granted

NOW_MS = 1_790_000_000_000
MOVING = LaneView("acme", 3, NOW_MS - 1_000, "closed", "healthy", 100.0, 8.0)
UP = ConsumerGroup("Stable", 2)


def facts(
    view: LaneView | None = MOVING,
    waiting: int = 0,
    lane: Any = None,
    **changes: Any,
) -> Facts:
    lanes = [
        LaneFacts(
            "acme",
            3,
            view,
            **{"waiting": {"leads": waiting, "leads.bulk": 0}, **(lane or {})},
        ),
    ]
    return msgspec.structs.replace(Facts(NOW_MS, UP, UP, lanes), **changes)


def held(reason: str, **changes: Any) -> LaneView:
    view = msgspec.structs.replace(MOVING, holds=reason, text="in words", since_ms=NOW_MS - 60_000)
    return msgspec.structs.replace(view, **{"until_ms": NOW_MS + 60_000, **changes})


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize(
    ("view", "code", "lifts", "until_ms"),
    [
        (held("paused"), "paused", "stream-app lanes resume acme", 0),
        (held("http_401"), "http_401", "stream-app lanes resume acme", NOW_MS + 60_000),
        (
            held("breaker_open", breaker="open"),
            "breaker_open",
            "stream-app lanes reset acme",
            NOW_MS + 60_000,
        ),
        (
            held("breaker_open", breaker="open", mode="open"),
            "forced_open",
            "stream-app lanes auto acme",
            0,
        ),
        (held("no_webhook"), "no_webhook", "stream-app lanes quota acme --webhook ID --use", 0),
        (
            held("budget_credits_day"),
            "budget_credits_day",
            "lanes budget acme --credits-per-day N",
            NOW_MS + 60_000,
        ),
        (
            held("budget_actions_month"),
            "budget_actions_month",
            "--actions-per-month N",
            NOW_MS + 60_000,
        ),
    ],
)
def test_each_hold_is_explained_with_its_remedy(
    view: LaneView,
    code: str,
    lifts: str,
    until_ms: int,
) -> None:
    finding = only(explain(facts(view, 12)))
    assert finding.code == code
    assert finding.holds is True
    assert finding.waiting == 12
    assert finding.until_ms == until_ms
    assert finding.since_ms == NOW_MS - 60_000
    assert finding.what == "in words"
    assert lifts in finding.lifts
    stalled = Outage("read_timeout", NOW_MS - 9_000, NOW_MS, 5)
    during = only(explain(facts(msgspec.structs.replace(view, outage=stalled))))
    is_outage = code in ("breaker_open", "no_answer")
    assert during.since_ms == NOW_MS - (9_000 if is_outage else 60_000)
    assert during.what == (
        "Clay does not answer (read_timeout); 5 calls have failed; " * is_outage + "in words"
    )


def test_a_hold_whose_time_is_over_is_none_but_a_pause_has_no_time_and_a_probe_needs_a_lead() -> (
    None
):
    probing = only(explain(facts(held("breaker_open", until_ms=NOW_MS))))
    assert probing.holds is True
    assert probing.until_ms == 0
    assert probing.what == "in words; its next lead goes as a probe"
    assert not only(explain(facts(held("budget_credits_day", until_ms=NOW_MS - 1)))).holds
    assert only(explain(facts(held("paused", until_ms=NOW_MS - 1)))).holds
    assert only(explain(facts(held("breaker_open", until_ms=NOW_MS - 1, mode="open")))).holds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "1 s"),
        (119.4, "119 s"),
        (120, "2 minutes"),
        (7_199, "120 minutes"),
        (7_200, "2 hours"),
        (172_799, "48 hours"),
        (172_800, "2 days"),
        (8_640_000, "100 days"),
    ],
)
def test_a_time_is_said_in_its_largest_unit_of_which_it_has_two(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_waits_in_a_shared_partition_is_not_said_to_be_of_the_lane() -> None:
    finding = only(
        explain(
            facts(waiting=4_800, lane={"shared_with": ("beta",), "oldest_ms": NOW_MS - 60_000}),
        ),
    )
    assert "shares partition 3 with beta" in finding.what
    assert "takes about" not in finding.what
    assert finding.waiting == 4_800
    assert finding.in_partition is True
    assert finding.oldest_ms == NOW_MS - 60_000
    idle = only(explain(facts(held("paused"), lane={"shared_with": ("beta",), "oldest_ms": 1})))
    assert idle.waiting == 0
    assert idle.in_partition is False
    assert idle.oldest_ms == 0


def test_an_outage_is_explained_with_clays_answer_its_beginning_and_the_next_step() -> None:
    policy = InForce("acme", "firms")
    lane = Lane("acme", 3)
    now_ms = NOW_MS + 4_500
    for number in range(5):
        at_ms = NOW_MS + number * 1_000
        lane, entry = granted(policy, lane, FIRMS, at_ms)
        lane, _ = settled(policy, lane, entry, Refused("http_503", 20, 503), at_ms, 0.5)
    finding = only(explain(facts(view_of(policy, lane, [FIRMS], now_ms), 40, at_ms=now_ms)))
    assert finding.code == "breaker_open"
    assert finding.what == (
        "Clay answers 503; 5 calls have failed; the circuit breaker is open: "
        "too many calls in a row have failed"
    )
    assert finding.since_ms == NOW_MS, (
        "the first call that failed, not the last opening of the breaker"
    )
    assert finding.until_ms == lane.breaker.until_ms > now_ms
    assert "a few leads that go as probes and that Clay accepts" in finding.lifts
    for order in (Trip(), Auto()):  # minutes after it has healed
        lane = obey(policy, lane, order, Actor("jane", "x", now_ms := now_ms + 600_000)).lane
    lane, entry = granted(policy, lane, FIRMS, now_ms)
    tripped = only(explain(facts(view_of(policy, lane, [FIRMS], now_ms), at_ms=now_ms)))
    assert tripped.what == "the circuit breaker is half open: an operator tripped it"
    assert tripped.since_ms == now_ms - 600_000
    lane, _ = settled(policy, lane, entry, Refused("http_503", 20, 503), now_ms, 0.5)
    assert view_of(policy, lane, [FIRMS], now_ms).outage == Outage("http_503", now_ms, now_ms, 1), (
        "a new one"
    )
    slow = msgspec.structs.replace(
        lane,
        breaker=msgspec.structs.replace(lane.breaker, cause="slow_rate"),
    )
    assert view_of(policy, slow, [FIRMS], now_ms).outage is None, "no failed call opened it"


RESUME = "stream-app replay resume"
NO_REPLAY = "no replay process runs: dead letters and deferred leads do not come back"
HANDED_OVER = "the workers' group is PreparingRebalance: partitions are being handed over"


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        (
            {"worker": ConsumerGroup("Empty", 0)},
            Finding(
                "no_worker",
                "no worker runs: nothing is sent",
                lifts="stream-app worker",
                waiting=7,
            ),
        ),
        (
            {"worker": ConsumerGroup("PreparingRebalance", 1)},
            Finding(
                "rebalancing",
                HANDED_OVER,
                lifts="it ends within kafka.rebalance_timeout_s",
                waiting=7,
            ),
        ),
        (
            {"topics": ["leads: has 4 partitions", "more"]},
            Finding(
                "wrong_topics",
                "leads: has 4 partitions; more",
                lifts="stream-app topics",
                waiting=7,
            ),
        ),
        (
            {"replay_paused": Actor("jane", "rebuild", 1), "coming_back": 4},
            Finding(
                "replay_paused",
                "replays are paused by jane: rebuild",
                since_ms=1,
                lifts=RESUME,
                waiting=4,
            ),
        ),
        (
            {"replay_paused": Actor("jane", "", 1)},
            Finding("replay_paused", "replays are paused by jane", since_ms=1, lifts=RESUME),
        ),
        (
            {"replay": ConsumerGroup("Dead", 0), "coming_back": 5},
            Finding("no_replay", NO_REPLAY, lifts="stream-app replay", waiting=5),
        ),
        ({"replay": ConsumerGroup("Dead", 0)}, None),
    ],
)
def test_a_hold_of_the_whole_system_comes_first(
    changes: dict[str, Any],
    first: Finding | None,
) -> None:
    works = "worker" not in changes or changes["worker"].members
    says = (
        f"{'runs' if works else 'would run'} at up to 8 a second, its rate; what waits takes "
        "about 1 s"
    )
    last = Finding("moves" if works else "would_move", says, "acme", holds=False, waiting=7)
    assert explain(facts(waiting=7, **changes)) == [*([first] if first else []), last]


def test_what_waits_is_counted_once_for_each_partition() -> None:
    """All lanes of a partition see the same records."""
    lanes = [
        LaneFacts(name, home, MOVING, {"leads": home + 1, "b": 4})
        for name, home in (("a", 1), ("b", 1), ("c", 2))
    ]
    findings = explain(facts(topics=["leads"], lanes=lanes))
    assert findings[0].waiting == 2 + 4 + 3 + 4


@pytest.mark.parametrize(
    ("view", "lane", "first"),
    [
        (
            None,
            {},
            Finding("never_moved", "nothing was ever sent for it", "acme", holds=False, waiting=9),
        ),
        (
            msgspec.structs.replace(MOVING, partition=1),
            {},
            Finding(
                "moved",
                "its lane lives in partition 1, the configuration says 3",
                "acme",
                lifts="set workspaces.acme.partition = 1",
                waiting=9,
            ),
        ),
        (
            MOVING,
            {"asked": 2},
            Finding(
                "commands_wait",
                "2 commands for partition 3 not answered yet",
                "acme",
                holds=False,
                lifts="a worker",
                waiting=2,
            ),
        ),
        (
            MOVING,
            {"unreadable": "stopped at 7"},
            Finding("unreadable", "stopped at 7", "acme", waiting=9),
        ),
        (
            None,
            {"unreadable": "stopped at 7"},
            Finding("unreadable", "stopped at 7", "acme", waiting=9),
        ),
    ],
)
def test_a_lane_that_never_moved_or_lives_elsewhere_or_waits_for_another(
    view: LaneView | None,
    lane: dict[str, Any],
    first: Finding,
) -> None:
    findings = explain(facts(view, 9, lane=lane))
    assert findings[0] == first
    assert [finding.code for finding in findings[1:]] == ["moves"] * (
        view is MOVING and "unreadable" not in lane
    )


PEOPLE = Destination("people", "acme", ())
FIRMS = Destination("firms", "acme", ("hook",))


def test_a_destination_that_is_held_is_named_though_another_moves() -> None:
    """A lead of it at the head of a topic stands in the way of all behind it."""
    view = view_of(InForce("acme", "people"), Lane("acme", 3), [PEOPLE, FIRMS], NOW_MS)
    assert view.holds == ""
    held, moves = explain(facts(view, 80))
    assert held.code == "no_webhook"
    assert held.holds is True
    assert held.until_ms == 0
    assert held.waiting == 80
    assert held.at_most, "some of them may be of firms"
    assert held.what.startswith("leads of people: destination people has no webhook left")
    assert "webhooks_env" in held.lifts
    assert moves.code == "moves", "it is unknown how many are of people"
    assert not moves.at_most
    assert moves.what == "runs at up to 10 a second, its rate", (
        "it is unknown how many are of people"
    )
    whole = view_of(InForce("acme", "people"), Lane("acme", 3), [PEOPLE], NOW_MS)
    assert whole.holds == "no_webhook"
    assert whole.partly == ()


def test_bulk_held_by_the_hot_share_is_named_and_not_part_of_the_time_left() -> None:
    rules = BudgetPolicy(credits_per_day=100, hot_share=0.5)
    reserved = of_type(tuple, reserve(rules, Lane("acme", 3).budget, Cost(40), NOW_MS))
    view = view_of(
        InForce("acme", "firms", budget=rules),
        Lane("acme", 3, budget=reserved[0]),
        [FIRMS],
        NOW_MS,
    )
    assert view.holds == ""
    end_ms = view.meters["credits_day"].ends_ms
    waiting = {"leads": 4_800, "leads.bulk": 9_000}
    held, moves = explain(facts(view, lane={"waiting": waiting}))
    assert held.code == "budget_credits_day"
    assert held.holds is True
    assert held.until_ms == end_ms
    assert held.waiting == 9_000
    assert held.what.startswith(
        "bulk leads of firms: the part of the budget credits_day that hot_share leaves",
    )
    assert "lanes budget acme --credits-per-day N" in held.lifts
    assert (
        "takes about 299 days: the budget credits_day has room for about 10 more leads now"
        in moves.what
    )
    tomorrow = msgspec.structs.replace(facts(view), at_ms=end_ms)
    assert [finding.code for finding in explain(tomorrow)] == ["moves"]


def test_a_suspended_webhook_is_named_while_others_take_its_leads() -> None:
    destination = Destination("people", "acme", ("hook1", "hook2"))
    policy = InForce("acme", "people")
    lane = Lane("acme", 3)
    fresh = suspension.begin(
        policy.suspension,
        "full",
        "webhook hook1 of people takes no leads: HTTP 403: it is full",
        NOW_MS,
    )
    lane = msgspec.structs.replace(
        lane,
        quota=quota.take_out(policy.suspension, lane.quota, "hook1", fresh, None),
    )
    findings = explain(facts(view_of(policy, lane, [destination], NOW_MS), 12))
    assert [(finding.code, finding.holds) for finding in findings] == [
        ("webhook_out", False),
        ("moves", False),
    ]
    full = findings[0]
    assert "hook1 of people takes no leads" in full.what
    assert full.since_ms == NOW_MS
    assert full.until_ms == NOW_MS + int(policy.suspension.probe_s * 1_000)
    assert "stream-app lanes resume acme" in full.lifts

    alone = msgspec.structs.replace(destination, webhook_ids=("hook1",))
    held_up = only(explain(facts(view_of(policy, lane, [alone], NOW_MS), 12)))
    assert held_up.code == "webhook_out"
    assert held_up.holds is True
    assert held_up.waiting == 12

    order = ChangeQuota("hook1", use=False)
    retired = obey(policy, lane, order, Actor("ada", "full", NOW_MS)).lane
    after = explain(facts(view_of(policy, retired, [destination], NOW_MS), 12))
    assert [finding.code for finding in after] == ["moves"], "its operator knows"


@pytest.mark.parametrize(
    ("runs", "says", "poll_ms"),
    [
        (RunsView(1, NOW_MS + 9_000), "1 run is open", NOW_MS + 9_000),
        (RunsView(1_200), "1,200 runs are open", 0),
        (
            RunsView(2, NOW_MS),
            "2 runs are open; a poll was due 1 s ago, and what follows is known within a minute",
            0,
        ),
        (
            RunsView(2, NOW_MS - 119_999),
            "2 runs are open; a poll was due 120 s ago, and what follows is known within a minute",
            0,
        ),
        (RunsView(2, NOW_MS - 300_000), "2 runs are open; a poll was due 5 minutes ago", 0),
        (
            RunsView(3, NOW_MS - 9_000, waits_for_rate=True),
            "3 runs are open; polls wait for the rate of the lane",
            0,
        ),
    ],
)
@pytest.mark.parametrize("view", [MOVING, held("paused")])
def test_open_runs_are_named_with_their_next_poll_whether_the_lane_moves_or_not(
    view: LaneView,
    runs: RunsView,
    says: str,
    poll_ms: int,
) -> None:
    findings = explain(facts(msgspec.structs.replace(view, runs=runs), 12))
    assert [finding for finding in findings if finding.code == "runs_open"] == [
        Finding("runs_open", says, "acme", holds=False, poll_ms=poll_ms),
    ]
    assert "runs_open" not in {finding.code for finding in explain(facts(view, 12))}


DAY = "budget_credits_day"
LATER_MS = NOW_MS + 60_000
FULL = PartHold(("people", "firms"), DAY, "full", LATER_MS)
PACE = Forecast(600.0)


@pytest.mark.parametrize(
    ("changes", "foreseen", "expected"),
    [
        (
            {"holds": DAY, "until_ms": LATER_MS},
            PACE,
            Outlook("nothing more until", LATER_MS, True, True, "words"),
        ),
        (
            {"holds": DAY, "until_ms": NOW_MS},
            PACE,
            Outlook("600 an hour: lasts until", LATER_MS, is_short=False),
        ),
        ({"holds": "budget_actions_day", "until_ms": LATER_MS}, None, None),
        (
            {"partly": (FULL,)},
            PACE,
            Outlook("nothing more to people, firms until", LATER_MS, True, True, "full"),
        ),
        (
            {"partly": (msgspec.structs.replace(FULL, bulk=True),)},
            PACE,
            Outlook("nothing more to bulk of people, firms until", LATER_MS, True, True, "full"),
        ),
        ({"partly": (msgspec.structs.replace(FULL, until_ms=NOW_MS),)}, None, None),
        ({"partly": (msgspec.structs.replace(FULL, holds="budget_credits_month"),)}, None, None),
        ({"used": 100}, None, Outlook("used up until", LATER_MS, is_full=True)),
        ({"used": 99}, None, None),
        ({"used": 99}, Forecast(0.0), None),
        (
            {"used": 99},
            Forecast(1_234.5, LATER_MS - 9),
            Outlook("1,234 an hour: used up about", LATER_MS - 9),
        ),
        ({"cap": None}, PACE, None),
    ],
)
@pytest.mark.parametrize("reserved", [0, 7])
def test_the_outlook_of_a_budget_is_what_admission_decided_else_the_forecast(
    changes: dict[str, Any],
    foreseen: Forecast | None,
    expected: Outlook | None,
    reserved: int,
) -> None:
    known = {"used": 40, "cap": 100} | changes
    meter = Meter("2026-09-21", LATER_MS, known.pop("cap"), known.pop("used") - reserved, reserved)
    view = msgspec.structs.replace(MOVING, text="words", meters={"credits_day": meter}, **known)
    if expected is not None and expected.why and reserved:
        freed = "until callbacks free some of the 7 reserved, or"
        expected = msgspec.structs.replace(expected, says=expected.says.replace("until", freed))
    assert outlook(view, "credits_day", foreseen, NOW_MS) == expected


@pytest.mark.parametrize(
    ("leads", "cap", "used", "left"),
    [
        (80, None, 0, "10 s"),
        (10, 100, 0, "1 s"),
        (11, 100, 0, "2 hours: the budget credits_day has room for about 10 more leads now"),
        (20, 100, 0, "2 hours: the budget credits_day has room for about 10 more leads now"),
        (21, 100, 0, "26 hours: the budget credits_day has room for about 10 more leads now"),
        (11, 100, 90, "2 hours: the budget credits_day has room for about 1 more lead now"),
        (12, 100, 90, "26 hours: the budget credits_day has room for about 1 more lead now"),
        (1, 100, 100, "2 hours: the budget credits_day has room for about 0 more leads now"),
        (1, 9, 0, "for ever: the budget credits_day is too small for one lead"),
    ],
)
def test_what_waits_takes_as_long_as_its_budget_allows(
    leads: int,
    cap: int | None,
    used: int,
    left: str,
) -> None:
    wide = {"credits_month": None, "actions_day": 10**9}
    meters = {name: Meter("2026-09-21", NOW_MS + 7_200_000, most) for name, most in wide.items()}
    meters["credits_day"] = Meter("2026-09-21", NOW_MS + 7_200_000, cap, used)
    view = msgspec.structs.replace(
        MOVING,
        meters=meters,
        estimates={"people": Estimate(10.0, 1.0, 40)},
    )
    assert (
        only(explain(facts(view, leads))).what
        == f"runs at up to 8 a second, its rate; what waits takes about {left}"
    )
    new_day = only(explain(facts(view, 1, at_ms=NOW_MS + 7_200_000)))
    assert new_day.what.endswith("takes about 1 s" if cap != 9 else "too small for one lead")


@pytest.mark.parametrize(("cap", "used"), [(9, 0), (100, 99), (100, 100)])
def test_without_an_estimate_what_waits_takes_as_long_as_the_rate_says(
    cap: int,
    used: int,
) -> None:
    """What a lead costs is not known, so nothing says for how many leads the budget has room."""
    day = Meter("2026-09-21", NOW_MS + 7_200_000, cap, used)
    actions = Meter("2026-09-21", NOW_MS + 7_200_000, 1)
    view = msgspec.structs.replace(
        MOVING,
        meters={"credits_day": day, "actions_day": actions},
        estimates={},
    )
    assert (
        only(explain(facts(view, 800))).what
        == "runs at up to 8 a second, its rate; what waits takes about 100 s"
    )


FALL = Fall("firms", "work_email", NOW_MS - 60_000, 0.6, 0.2, 36)


def test_a_yield_that_fell_is_told_with_its_column_held_or_not() -> None:
    told, _ = explain(facts(msgspec.structs.replace(MOVING, falls=(FALL,))))
    assert told.columns == (("firms", "work_email"),)
    assert not told.holds
    part = PartHold(("firms",), "yield_fell", FALL.text, since_ms=NOW_MS - 60_000)
    in_part, _ = explain(facts(msgspec.structs.replace(MOVING, falls=(FALL,), partly=(part,))))
    assert in_part.columns == (("firms", "work_email"),)
    assert in_part.destinations == ("firms",)
    other = msgspec.structs.replace(part, holds="no_callbacks", text="in words")
    silent = explain(facts(msgspec.structs.replace(MOVING, falls=(FALL,), partly=(other,))))[0]
    assert silent.columns == (), "it is held for another reason"


@pytest.mark.parametrize(
    ("finding", "subject"),
    [
        (Finding("replay_paused", "x"), "All replays"),
        (Finding("no_replay", "x"), "All replays"),
        (Finding("no_worker", "x"), "All lanes"),
        (Finding("paused", "x", "acme"), "acme"),
    ],
)
def test_a_finding_says_what_it_concerns(finding: Finding, subject: str) -> None:
    assert finding.subject == subject
