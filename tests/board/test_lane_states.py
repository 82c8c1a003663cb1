"""What the board says of each lane: the facts that it collects, and the words for them."""

from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import Mock, call

import msgspec
import pytest

from stream_app.board import site as module
from stream_app.board.site import (
    NOT_READABLE,
    Bar,
    ListedLane,
    Moment,
    Overview,
    Shared,
    Site,
    lane_facts,
    lane_of,
    one_lane,
    overview,
    remedy_of,
)
from stream_app.client.results.answers import StatusCount
from stream_app.domain.lane.holds import REASONS
from stream_app.domain.limits.budget import Budget
from stream_app.domain.limits.suspension import Suspension
from stream_app.domain.limits.webhook_quota import Webhook
from stream_app.domain.plan import Actor
from stream_app.domain.views.explain import (
    VIEW_UNREADABLE,
    ConsumerGroup,
    Facts,
    Finding,
    LaneFacts,
)
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.backlog import Waiting
from stream_app.kafka.groups import Consumption
from tests.board.asked import NOW_MS, asked_queries, moment_of
from tests.board.listed import VIEW

WORKER: Final = ConsumerGroup("Stable", 2)
REPLAY: Final = ConsumerGroup("Empty", 0)
RESIDENTS: Final = {
    0: ("acme", "beta"),
    1: tuple(f"w{number}" for number in range(7)),
    2: ("alone",),
    3: tuple(f"v{number}" for number in range(6)),
}
HOMES: Final = {name: number for number, names in RESIDENTS.items() for name in names}
PAUSE: Final = Actor("jane", "a test", 5)


def view_of(workspace: str, partition: int = 0, **more: Any) -> LaneView:
    return msgspec.structs.replace(VIEW, workspace=workspace, partition=partition, **more)


def site_over(queries: Any, *workspaces: str) -> Site:
    settings: Any = SimpleNamespace(
        names=SimpleNamespace(namespace="test."),
        workspaces={name: SimpleNamespace(budget=f"budget of {name}") for name in workspaces},
        plan=SimpleNamespace(residents=lambda number: RESIDENTS.get(number, ())),
        home=lambda name: HOMES.get(name, 2),
    )
    return Site(settings, queries)


def kafka_with(**waiting: Any) -> Consumption:
    left = {
        ("test.leads", 0): Waiting(3),
        ("test.leads.retry", 0): Waiting(4, at_most=True),
        ("test.leads", 2): Waiting(10),
    }
    return Consumption(WORKER, REPLAY, waiting.get("left", left))


@pytest.mark.parametrize(
    ("workspace", "view", "with_others", "home", "waiting", "named", "more", "at_most"),
    [
        ("acme", None, True, 0, {"leads": 3, "leads.retry": 4}, ("beta",), 0, True),
        ("acme", None, False, 0, {"leads": 3, "leads.retry": 4}, (), 1, True),
        ("alone", view_of("alone", 9), True, 2, {"leads": 10}, (), 0, False),
        ("gone", view_of("gone", 2), True, 2, {"leads": 10}, ("alone",), 0, False),
        ("w0", None, True, 1, {}, (), 6, False),
        ("v0", None, True, 3, {}, ("v1", "v2", "v3", "v4", "v5"), 0, False),
    ],
)
def test_the_facts_of_a_lane(
    workspace: str,
    view: LaneView | None,
    with_others: bool,
    home: int,
    waiting: dict[str, int],
    named: tuple[str, ...],
    more: int,
    at_most: bool,
) -> None:
    site = site_over(asked_queries(), "acme", "alone", "w0", "v0")
    left = {
        0: {"leads": Waiting(3), "leads.retry": Waiting(4, at_most=True)},
        2: {"leads": Waiting(10)},
    }
    for unreadable in (True, False):
        facts = lane_facts(
            site,
            left,
            workspace,
            view,
            with_others=with_others,
            unreadable=unreadable,
        )
        assert facts == LaneFacts(
            workspace,
            home,
            view,
            waiting,
            named,
            shared_with_more=more,
            view_unreadable=unreadable,
            at_most=at_most,
        )


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """`explain`, which says what the test wants."""
    explain = Mock(return_value=[])
    monkeypatch.setattr(module, "explain", explain)
    monkeypatch.setattr(module, "meters", Mock(side_effect=lambda *asked: {"asked": asked}))
    return explain


def test_all_of_the_overview(explained: Mock) -> None:
    counts = [
        StatusCount("", "", "dead_lettered", "under_way", 5),
        StatusCount("", "", "deferred", "held", 6),
        StatusCount("", "", "parked", "parked", 7),
    ]
    acme = view_of("acme")
    gone = view_of("gone", 2)
    queries = asked_queries(lanes=([acme, gone], ["beta"]), status_sums=counts, pause=PAUSE)
    site = site_over(queries, "acme", "beta", "alone")
    of_workers = [Finding("no_worker", "none"), Finding("rebalancing", "moves", waiting=1)]
    of_lanes = [
        Finding("paused", "by jane", "acme", waiting=7),
        Finding("x", "y", "gone", holds=False),
    ]
    explained.return_value = [*of_workers, Finding("no_replay", "none", waiting=11), *of_lanes]
    moment = moment_of(kafka=kafka_with())
    seen = overview(site, moment)
    assert overview(site, moment) is seen, "it is read once"
    assert queries.mock_calls == [call.lanes(NOW_MS), call.status_sums(None), call.pause()]

    def facts(
        name: str,
        home: int,
        view: LaneView | None,
        *,
        unreadable: bool = False,
    ) -> LaneFacts:
        left = {0: {"leads": 3, "leads.retry": 4}, 2: {"leads": 10}}[home]
        others = len(RESIDENTS[home]) - (name in RESIDENTS[home])
        return LaneFacts(
            name,
            home,
            view,
            left,
            shared_with_more=others,
            view_unreadable=unreadable,
            at_most=home == 0,
        )

    lanes = [
        facts("acme", 0, acme),
        facts("alone", 2, None),
        facts("beta", 0, None, unreadable=True),
        facts("gone", 2, gone),
    ]
    explained.assert_called_once_with(Facts(NOW_MS, WORKER, REPLAY, lanes, 11, PAUSE))
    assert seen.everywhere == [
        Finding("no_worker", "none", waiting=17, at_most=True),
        Finding("rebalancing", "moves", waiting=17, at_most=True),
        Finding("no_replay", "none", waiting=11),
    ]
    assert seen.counts == counts
    findings = {"acme": of_lanes[:1], "gone": of_lanes[1:]}
    assert seen.lanes == [
        lane_of(site, fact, findings.get(fact.workspace, []), moment) for fact in lanes
    ]
    assert [lane.workspace for lane in seen.held] == ["acme"]


def test_of_a_kafka_that_does_not_answer_nothing_is_claimed(explained: Mock) -> None:
    queries = asked_queries(lanes=([], []), status_sums=[], pause=None)
    site = site_over(queries, "acme")
    seen = overview(site, moment_of())
    unknown = ConsumerGroup("Stable", 1)
    facts = LaneFacts("acme", 0, None, {}, shared_with_more=1)
    explained.assert_called_once_with(Facts(NOW_MS, unknown, unknown, [facts], 0, None))
    assert [(lane.workspace, lane.waiting) for lane in seen.lanes] == [("acme", 0)]


@pytest.mark.parametrize(
    ("workspace", "view", "is_stored", "is_shown"),
    [
        ("acme", VIEW, True, True),
        ("acme", None, False, True),
        ("acme", None, True, True),
        ("gone", view_of("gone", 2), True, True),
        ("gone", None, True, True),
        ("gone", None, False, False),
    ],
)
def test_one_lane(
    workspace: str,
    view: LaneView | None,
    is_stored: bool,
    is_shown: bool,
    explained: Mock,
) -> None:
    queries = asked_queries(lane=view, has_lane=is_stored, pause=PAUSE)
    site = site_over(queries, "acme")
    mine = [Finding("paused", "by jane", workspace)]
    explained.return_value = [Finding("no_worker", "none"), *mine, Finding("paused", "", "beta")]
    moment = moment_of(kafka=kafka_with())
    is_unreadable = view is None and is_stored
    lane = one_lane(site, moment, workspace)
    assert (lane is not None) is is_shown
    if lane is None:
        explained.assert_not_called()
        return
    [asked] = explained.mock_calls
    facts: Facts = asked.args[0]
    [fact] = facts.lanes
    assert facts == Facts(NOW_MS, WORKER, REPLAY, [fact], 0, PAUSE)
    home = 0 if workspace == "acme" else 2
    assert fact == LaneFacts(
        workspace,
        home,
        view,
        {"leads": 3, "leads.retry": 4} if home == 0 else {"leads": 10},
        ("beta",) if home == 0 else ("alone",),
        view_unreadable=is_unreadable,
        at_most=home == 0,
    )
    assert lane == lane_of(site, fact, mine, moment)
    assert queries.mock_calls[0] == call.lane(workspace, NOW_MS)


CONFIGURED: Final[Any] = {"asked": ("budget of acme", Budget(), NOW_MS)}
OUT: Final = Finding("webhook_out", "webhook w-1 is full", "acme")
PAUSED: Final = Finding("paused", "paused by jane", "acme")
SPENT: Final = Finding("budget_credits_day", "the day's credits are used up", "acme")
MOVED: Final = Finding("moved", "its partition is another one", "acme")
NOTE: Final = Finding("moves", "runs", "acme", holds=False)


@pytest.mark.parametrize(
    ("view", "findings", "more", "state", "tone", "says"),
    [
        (VIEW, [NOTE, PAUSED, OUT], {}, "held", "warn", "paused by jane"),
        (VIEW, [OUT, PAUSED], {}, "held", "bad", "webhook w-1 is full"),
        (VIEW, [MOVED], {}, "held", "bad", "its partition is another one"),
        (None, [PAUSED], {}, "held", "warn", "paused by jane"),
        (None, [NOTE], {}, "idle", "idle", "nothing was ever sent for it"),
        (VIEW, [NOTE], {"members": 0}, "waits", "warn", "no worker runs"),
        (VIEW, [NOTE], {"members": None}, "running", "ok", ""),
        (VIEW, [NOTE], {}, "running", "ok", ""),
        (VIEW, [NOTE], {"shared": 1}, "idle", "idle", "nothing to send"),
        (VIEW, [NOTE], {"waiting": 0}, "idle", "idle", "nothing to send"),
        (view_of("acme", calls=1), [NOTE], {"shared": 1}, "running", "ok", ""),
        (view_of("acme", calls=1), [NOTE], {"waiting": 0}, "running", "ok", ""),
    ],
)
def test_each_state_of_a_lane(
    view: LaneView | None,
    findings: list[Finding],
    more: dict[str, Any],
    state: str,
    tone: Any,
    says: str,
    explained: Mock,
) -> None:
    waiting = more.get("waiting", 7)
    facts = LaneFacts(
        "acme",
        4,
        view,
        {"leads": waiting, "leads.retry": waiting},
        shared_with_more=more.get("shared", 0),
        at_most=True,
    )
    members = more.get("members", 2)
    kafka = None if members is None else Consumption(ConsumerGroup("Stable", members), WORKER, {})
    remedies = {"paused": ("Resume", "resume"), "webhook_out": ("Put the webhook back", "quota")}
    lane = lane_of(site_over(asked_queries(), "acme"), facts, findings, moment_of(kafka=kafka))
    assert lane == ListedLane(
        "acme",
        state,
        tone,
        says,
        view,
        findings,
        4,
        2 * waiting,
        True,
        bool(more.get("shared")),
        [remedies[one.code] for one in findings if one.code in remedies] if view else [],
        meters=CONFIGURED if view is None else view.meters,
    )


REPAIRED_OUTSIDE: Final = {
    "no_webhook",
    "webhook_out",
    "no_callbacks",
    "over_ceiling",
    "credits_exhausted_suspected",
    "yield_fell",
    "flood_guard",
    "destination_fails",
    "budget_clock",
    "http_*",
}
"""The holds behind which something is broken that no lane mends: Clay's table, a token, a clock."""


@pytest.mark.parametrize("code", [*REASONS, "http_401"])
def test_a_hold_is_red_only_where_somebody_must_repair_something(
    code: str,
    explained: Mock,
) -> None:
    """An outage that ends by itself, a limit, and what an operator wanted are no fault."""
    finding = Finding(code, "in words", "acme")
    facts = LaneFacts("acme", 4, VIEW, {})
    lane = lane_of(site_over(asked_queries(), "acme"), facts, [finding], moment_of())
    must_repair = code in REPAIRED_OUTSIDE or code.startswith("http_")
    assert lane.tone == ("bad" if must_repair else "warn")


def test_nothing_is_claimed_of_a_lane_that_cannot_be_read(explained: Mock) -> None:
    facts = LaneFacts(
        "acme",
        4,
        None,
        {"leads": 7},
        ("beta",),
        view_unreadable=True,
        at_most=True,
    )
    lane = lane_of(site_over(asked_queries(), "acme"), facts, [PAUSED], moment_of())
    assert lane == ListedLane(
        "acme",
        NOT_READABLE,
        "idle",
        VIEW_UNREADABLE,
        None,
        [],
        4,
        7,
        True,
        True,
    )


def test_a_lane_that_is_not_configured_any_more_has_no_remedy_and_no_budget(
    explained: Mock,
) -> None:
    facts = LaneFacts("acme", 4, None, {})
    lane = lane_of(site_over(asked_queries()), facts, [PAUSED], moment_of())
    assert lane.meters == {}
    facts = LaneFacts("acme", 4, VIEW, {})
    assert lane_of(site_over(asked_queries()), facts, [PAUSED], moment_of()).remedies == []


def test_a_remedy_is_offered_once() -> None:
    facts = LaneFacts("acme", 4, VIEW, {})
    findings = [PAUSED, OUT, PAUSED, msgspec.structs.replace(SPENT, holds=False)]
    lane = lane_of(site_over(asked_queries(), "acme"), facts, findings, moment_of())
    assert lane.remedies == [("Resume", "resume"), ("Put the webhook back", "quota")]


SUSPENDED: Final = Webhook(
    suspension=Suspension("webhook_out", "it answers 404", NOW_MS, NOW_MS, 5),
)


@pytest.mark.parametrize(
    ("finding", "webhooks", "remedy"),
    [
        (PAUSED, {}, ("Resume", "resume")),
        (SPENT, {}, ("Budget", "budget")),
        (Finding("breaker_open", ""), {}, ("Reset the breaker", "reset")),
        (Finding("forced_open", ""), {}, ("Let the breaker decide", "auto")),
        (Finding("no_webhook", ""), {}, ("Put the webhook back", "quota")),
        (Finding("budget_clock", ""), {}, None),
        (MOVED, {}, None),
        (Finding("unreadable", ""), {}, None),
        (OUT, {}, ("Put the webhook back", "quota")),
        (OUT, {"w-0": Webhook()}, ("Put the webhook back", "quota")),
        (
            OUT,
            {"w-0": SUSPENDED, "w-1": Webhook(dead="by jane")},
            ("Put the webhook back", "quota?webhook=w-1&use=use"),
        ),
        (
            msgspec.structs.replace(OUT, what="all are full"),
            {"a": Webhook(), "a/b": SUSPENDED, "c": SUSPENDED},
            ("Put the webhook back", "quota?webhook=a%2Fb&use=use"),
        ),
    ],
)
def test_what_ends_a_hold(finding: Finding, webhooks: Any, remedy: Any) -> None:
    assert remedy_of(finding, view_of("acme", webhooks=webhooks)) == remedy


def test_held_lanes_are_sorted_by_how_much_they_need() -> None:
    def lane(name: str, tone: Any, waiting: int = 0) -> ListedLane:
        return ListedLane(name, "", tone, "", None, [], 0, waiting)

    lanes = [
        lane("a", "warn", 1),
        lane("b", "warn", 9),
        lane("d", "bad"),
        lane("c", "bad"),
        lane("e", "ok", 99),
        lane("f", "idle", 99),
    ]
    counts = [
        StatusCount("", "", "x", "held", 1),
        StatusCount("", "", "y", "parked", 2),
        StatusCount("", "", "z", "enriched", 4),
    ]
    seen = Overview(lanes, [], counts)
    assert [held.workspace for held in seen.held] == ["c", "d", "b", "a"]
    assert seen.in_columns("held", "parked") == 3


@pytest.mark.parametrize(
    ("findings", "needs"),
    [
        ([], False),
        ([PAUSED], False),
        ([PAUSED, OUT], True),
        ([msgspec.structs.replace(OUT, holds=False)], False),
        ([MOVED], True),
    ],
)
def test_which_lanes_need_a_person(findings: list[Finding], needs: bool) -> None:
    assert ListedLane("acme", "", "bad", "", None, findings, 0, 0).needs_a_person is needs


def test_what_is_shared_is_made_once_for_each_key() -> None:
    made = Mock(side_effect=["first", "second"])
    shared = Shared()
    assert [shared.once(key, made) for key in ("a", "a", "b", "a")] == [
        "first",
        "first",
        "second",
        "first",
    ]
    moments: list[Moment] = [moment_of(), moment_of()]
    assert moments[0].shared is not moments[1].shared


def test_views_of_lanes_that_have_one() -> None:
    queries = asked_queries()
    queries.lane.side_effect = lambda name, now_ms: VIEW if name == "acme" else None
    assert site_over(queries).views(["acme", "beta"], NOW_MS) == {"acme": VIEW}
    assert queries.mock_calls == [call.lane("acme", NOW_MS), call.lane("beta", NOW_MS)]


def test_what_a_page_does_not_say_of_a_lane_is_nothing() -> None:
    lane = msgspec.structs.asdict(ListedLane("acme", "", "ok", "", None, [], 7, 9))
    assert {name: lane[name] for name in ("at_most", "shared", "remedies", "bars", "spark")} == {
        "at_most": False,
        "shared": False,
        "remedies": [],
        "bars": [],
        "spark": "",
    }
    assert lane["meters"] == {}
    bar = Bar("credits_day", "", 1, 2, 3, 4.0, 5.0, "ok")
    assert bar.seen is None
    assert bar.per_hour == 0.0
    assert bar.ends_ms == 0
    assert moment_of().is_asking is False
