"""The page of one lane: all that it shows and asks for, its lines, bands and changes."""

from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import Mock, call

import msgspec
import pytest

from stream_app.board.charts import Band, LineChart
from stream_app.board.pages import lane as module
from stream_app.board.pages.lane import ToldChange, _bands, _burn, lane_page, told_once
from stream_app.board.read_model.board_query import DatedChange, Mark, Slot
from stream_app.board.read_model.history import MAX_CHANGES
from stream_app.board.site import Bar
from stream_app.domain.lane.overrides import ORDERS
from stream_app.domain.limits.meters import Meter
from stream_app.domain.plan import Destination
from stream_app.domain.views.explain import Outlook
from stream_app.domain.views.lane import BY_PERSONS, LaneChange
from tests.board.asked import DAY_S, HOUR_S, NOW_MS, NOW_S, asked_queries, moment_of, site_of
from tests.board.listed import NOTE, PAUSED, VIEW, listed

QUARTER_S: Final = 900
BEGIN_S: Final = NOW_S - 10 * HOUR_S
END_S: Final = NOW_S + 14 * HOUR_S


def burnt(
    slots: list[Slot],
    spent: int,
    *,
    seen: Outlook | None = None,
    per_hour: float = 0.0,
    cap: int | None = 100,
    begin_s: int = BEGIN_S,
) -> LineChart:
    meter = Meter("today", END_S * 1_000, cap, spent, begins_ms=begin_s * 1_000)
    bar = Bar("credits_day", "", spent, 0, cap, 0.0, 0.0, "ok", seen, per_hour)
    return _burn(slots, QUARTER_S, meter, bar, NOW_MS)


def test_a_budget_burns_from_when_its_day_began_to_its_own_sum() -> None:
    slots = [
        Slot(BEGIN_S - QUARTER_S, credits=50),
        Slot(BEGIN_S, credits=3),
        Slot(BEGIN_S + 4 * QUARTER_S, credits=4),
        Slot(BEGIN_S + 4 * QUARTER_S, credits=1),
        Slot(NOW_S - QUARTER_S // 2, credits=2),
    ]
    line = burnt(slots, 10)
    assert line.rows == [
        (BEGIN_S * 1_000, 0),
        ((BEGIN_S + QUARTER_S) * 1_000, 3),
        ((BEGIN_S + 5 * QUARTER_S) * 1_000, 8),
        (NOW_MS, 10),
    ]
    assert line.limit_y == pytest.approx(100 - 100 / 120 * 100)
    assert line.ticks == [120, 80, 40, 0]
    assert line.times_ms[0] == BEGIN_S * 1_000
    assert line.times_ms[-1] == END_S * 1_000
    assert line.forecast == ""


def test_what_the_history_lacks_was_there_when_it_begins() -> None:
    first_s = BEGIN_S + 8 * QUARTER_S
    line = burnt([Slot(first_s, credits=4), Slot(first_s + QUARTER_S, credits=6)], 25)
    assert line.rows == [
        (first_s * 1_000, 15),
        ((first_s + QUARTER_S) * 1_000, 19),
        ((first_s + 2 * QUARTER_S) * 1_000, 25),
        (NOW_MS, 25),
    ]
    assert burnt([], 25).rows == [(NOW_S * 1_000, 25), (NOW_MS, 25)], "all of it"
    assert burnt([], 0).rows == [(BEGIN_S * 1_000, 0), (NOW_MS, 0)], "nothing is missing"


def test_a_line_never_exceeds_what_the_lane_says() -> None:
    """A correction has taken credits back, which the history does not have."""
    line = burnt([Slot(BEGIN_S, credits=30), Slot(BEGIN_S + QUARTER_S, credits=30)], 40)
    assert line.rows == [
        (BEGIN_S * 1_000, 0),
        ((BEGIN_S + QUARTER_S) * 1_000, 30),
        ((BEGIN_S + 2 * QUARTER_S) * 1_000, 40),
        (NOW_MS, 40),
    ]


LATER_MS: Final = NOW_MS + 3_600_000
HOURS_LEFT: Final = (END_S * 1_000 - NOW_MS) / 3_600_000


@pytest.mark.parametrize(
    ("seen", "per_hour", "cap", "ends"),
    [
        (None, 0.0, 100, None),
        (None, 7.0, 100, (END_S * 1_000, 40 + int(7.0 * HOURS_LEFT))),
        (None, 7.0, None, (END_S * 1_000, 40 + int(7.0 * HOURS_LEFT))),
        (Outlook("lasts until", LATER_MS), 60.0, 100, (LATER_MS, 100)),
        (Outlook("lasts until", LATER_MS), 0.0, 100, (LATER_MS, 100)),
        (Outlook("", LATER_MS), 3.0, None, (END_S * 1_000, 40 + int(3.0 * HOURS_LEFT))),
        (
            Outlook("", LATER_MS, is_short=False),
            3.0,
            100,
            (END_S * 1_000, 40 + int(3.0 * HOURS_LEFT)),
        ),
        (Outlook("", LATER_MS, is_short=False), 0.0, 100, None),
        (Outlook("used up until", LATER_MS, is_full=True), 3.0, 100, None),
        (Outlook("used up until", LATER_MS, is_short=False, is_full=True), 3.0, 100, None),
    ],
)
def test_a_forecast_goes_to_where_the_budget_ends(
    seen: Outlook | None,
    per_hour: float,
    cap: int | None,
    ends: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Mock()
    monkeypatch.setattr(module, "line", line)
    made = burnt([Slot(BEGIN_S, credits=40)], 40, seen=seen, per_hour=per_hour, cap=cap)
    assert made is line.return_value
    rows = [(BEGIN_S * 1_000, 0), ((BEGIN_S + QUARTER_S) * 1_000, 40), (NOW_MS, 40)]
    line.assert_called_once_with(rows, BEGIN_S, END_S, cap, ends)


def change(kind: str, at_ms: int) -> DatedChange:
    return DatedChange(at_ms, LaneChange(kind, f"{kind} at {at_ms}"))


def test_what_only_repeats_is_one_row_until_a_person_did_something() -> None:
    def at(at_ms: int, kind: str, text: str = "", reason: str = "") -> DatedChange:
        return DatedChange(at_ms, LaneChange(kind, text, reason))

    changes = [
        at(99, "breaker_open", "9 calls have failed"),
        at(98, "breaker_half_open", "8 calls have failed"),
        at(97, "breaker_open", "8 calls have failed"),
        at(96, "held", "breaker open: 8 calls have failed", "breaker_open"),
        at(95, "yield_fell", "of people"),
        at(94, "yield_fell", "of firms"),
        at(93, "held", "http 401: the token is refused", "http_401"),
        at(92, "held", "breaker open: 4 calls have failed", "breaker_open"),
        at(91, "breaker_half_open", "4 calls have failed"),
        at(90, "yield_fell", "of firms"),
        at(89, "health_degraded", "20 calls, score 71"),
        at(88, "health_degraded", "40 calls, score 65"),
        at(87, "resumed", "resumed"),
        at(86, "changed", "rate.rate_per_s: 6 -> 8"),
        at(85, "changed", "rate.rate_per_s: 6 -> 8"),
        at(84, "breaker_open", "2 calls have failed"),
        at(83, "resumed", "resumed"),
        at(82, "breaker_open", "1 call has failed"),
        at(81, "breaker_open", "1 call has failed"),
    ]
    assert told_once(changes) == [
        ToldChange(changes[0], 2, 97),
        ToldChange(changes[1], 2, 91),
        ToldChange(changes[3], 2, 92),
        ToldChange(changes[4], 1, 95),
        ToldChange(changes[5], 2, 90),
        ToldChange(changes[6], 1, 93),
        ToldChange(changes[10], 2, 88),
        *(ToldChange(dated, 1, dated.at_ms) for dated in changes[12:17]),
        ToldChange(changes[17], 2, 81),
    ]
    assert told_once([]) == []


@pytest.mark.parametrize("kind", sorted(BY_PERSONS))
def test_what_a_person_did_is_a_row_each_time(kind: str) -> None:
    changes = [DatedChange(at_ms, LaneChange(kind, "by jane")) for at_ms in (9, 8, 7)]
    assert [told.last for told in told_once(changes)] == changes


def test_the_bands_of_a_lane_end_with_the_first_change_before_their_beginning() -> None:
    tones: Any = {"held": "warn", "moves": "ok"}
    changes = [change("moves", 1_500), change("held", 1_000), change("moves", 999)]
    assert _bands(changes, tones, 1_000, 2_000) == [
        Band(0.0, 50.0, "warn", "held at 1000"),
        Band(50.0, 50.0, "ok", "moves at 1500"),
    ], "nothing is before the beginning, not even a sliver"
    assert _bands([change("held", 400)], tones, 1_000, 2_000) == [
        Band(0.0, 100.0, "warn", "held at 400"),
    ]
    assert _bands([change("held", 1_333), change("x", 1_100)], tones, 1_000, 4_000) == [
        Band(11.1, 88.9, "warn", "held at 1333"),
    ]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """All that the page of a lane is made of."""
    calls = SimpleNamespace(
        one_lane=Mock(),
        throughput=Mock(return_value=("chart", "day", 5)),
        forecasts_of=Mock(return_value={"credits_day": "forecast"}),
        bars_of=Mock(),
        _burn=Mock(side_effect=["first line", "second line"]),
        _bands=Mock(side_effect=["breaker bands", "hold bands"]),
        trend=Mock(side_effect=["health", "latency"]),
        pace_text=Mock(return_value="at most 2 a second"),
    )
    for name, mock in vars(calls).items():
        monkeypatch.setattr(module, name, mock)
    return calls


def meters(**ends_ms: int) -> Any:
    return {name: Meter("now", at_ms, 10) for name, at_ms in ends_ms.items()}


MARKS: Final = [
    Mark(NOW_S - 5 * HOUR_S, 90.0, 100),
    Mark(NOW_S - HOUR_S - 600, 70.0, 300),
    Mark(NOW_S - HOUR_S - 300, 80.0, 900),
    Mark(NOW_S - 10, 95.0, 50),
]


def test_all_of_the_page_of_a_lane(parts: SimpleNamespace) -> None:
    view = msgspec.structs.replace(VIEW, bound_by="concurrency")
    bars = [
        SimpleNamespace(name=name)
        for name in ("credits_day", "credits_month", "actions_day", "actions_month")
    ]
    budgets = meters(
        credits_day=NOW_MS + 1,
        credits_month=NOW_MS + 1,
        actions_day=NOW_MS + 1,
        actions_month=NOW_MS + 1,
    )
    shown_lane = listed("acme", "ok", NOTE, view=view, meters=budgets)
    parts.one_lane.return_value = shown_lane
    parts.bars_of.return_value = bars
    changes = [change("held", (NOW_S - number * 60) * 1_000) for number in range(31)]
    queries = asked_queries(
        lane_changes=changes,
        marks=MARKS,
        status_sums=["statuses"],
        yields=["yields"],
        dead_letters="dead letters",
    )
    of_step = {60: "minutes", QUARTER_S: "quarters", DAY_S: "days"}
    queries.credits.side_effect = lambda names, step_s, since_s: {names[0]: of_step[step_s]}
    policy = SimpleNamespace(time_zone="Europe/Berlin")
    site = site_of(queries, workspaces={"acme": policy})
    moment = moment_of({})
    page = lane_page(site, moment, {"workspace": "acme", "span": "day"})
    begin_ms = NOW_MS - 5 * HOUR_S * 1_000
    begin_s = NOW_S - 5 * HOUR_S
    shown = MARKS[1:]
    slots = [begin_s // 300 * 300 + number * 300 for number in range(5 * 12 + 1)]
    scores = {mark.at_s: mark.score for mark in shown}
    latencies = {mark.at_s: mark.p95_ms for mark in shown}
    assert page == {
        "lane": shown_lane,
        "door": "Webhook",
        "pace": "at most 2 a second",
        "chart": "chart",
        "span": "day",
        "held": {},
        "bars": bars,
        "burns": [(bars[0], "first line"), (bars[1], "second line")],
        "breaker": "breaker bands",
        "holds": "hold bands",
        "health": "health",
        "latency": "latency",
        "worst": (70.0, 900),
        "hours": [
            (hour_s * 1_000, min(of_hour)[0], max(of_hour, key=lambda pair: pair[1])[1])
            for hour_s, of_hour in by_hour(shown).items()
        ],
        "hours_n": 5,
        "times_ms": [(begin_s + number * 5 * HOUR_S // 4) * 1_000 for number in range(5)],
        "changes": told_once(changes)[:30],
        "statuses": ["statuses"],
        "yields": ["yields"],
        "dead_letters": "dead letters",
        "zone": "Europe/Berlin",
        "kinds": ORDERS,
        "may_pause": True,
    }
    parts.one_lane.assert_called_once_with(site, moment, "acme")
    parts.throughput.assert_called_once_with(site, "acme", NOW_MS, "day")
    parts.forecasts_of.assert_called_once_with(view, "minutes", NOW_MS)
    parts.bars_of.assert_called_once_with(shown_lane, {"credits_day": "forecast"}, NOW_MS)
    parts.pace_text.assert_called_once_with(view)
    assert parts._burn.mock_calls == [
        call("quarters", QUARTER_S, budgets["credits_day"], bars[0], NOW_MS),
        call("days", DAY_S, budgets["credits_month"], bars[1], NOW_MS),
    ]
    breaker = {"breaker_open": "bad", "breaker_half_open": "warn", "breaker_closed": "ok"}
    assert parts._bands.mock_calls == [
        call(changes, breaker, begin_ms, NOW_MS),
        call(changes, module._HOLDS, begin_ms, NOW_MS),
    ]
    assert parts.trend.mock_calls == [call(scores, slots), call(latencies, slots)]
    assert queries.mock_calls == [
        call.credits(["acme"], 60, NOW_S - HOUR_S),
        call.credits(["acme"], QUARTER_S, NOW_S - 26 * HOUR_S),
        call.credits(["acme"], DAY_S, NOW_S - 35 * DAY_S),
        call.lane_changes("acme"),
        call.marks("acme"),
        call.status_sums("acme"),
        call.yields(NOW_MS, "acme"),
        call.dead_letters("test.leads.dlq", "acme"),
    ]


def by_hour(marks: list[Mark]) -> dict[int, list[tuple[float, int]]]:
    hours: dict[int, list[tuple[float, int]]] = {}
    for mark in marks:
        hours.setdefault(mark.at_s - mark.at_s % HOUR_S, []).append((mark.score, mark.p95_ms))
    return hours


@pytest.mark.parametrize("is_paused", [True, False])
def test_the_page_of_a_lane_that_nothing_is_known_of(
    is_paused: bool,
    parts: SimpleNamespace,
) -> None:
    """It is a lane of the past, or of the future."""
    findings = [NOTE, PAUSED] if is_paused else [NOTE]
    budgets = meters(credits_day=NOW_MS + 1)
    shown_lane = listed("acme", "idle", *findings, view=None, meters=budgets)
    parts.one_lane.return_value = shown_lane
    parts.bars_of.return_value = [SimpleNamespace(name="credits_day")]
    queries = asked_queries(lane_changes=[], marks=[], status_sums=[], dead_letters="none")
    queries.credits.side_effect = lambda names, step_s, since_s: {names[0]: "some"}
    policy = SimpleNamespace(time_zone="Europe/Berlin")
    for workspaces in ({}, {"acme": policy}):
        parts._bands.side_effect = ["breaker bands", "hold bands"]
        parts.trend.side_effect = ["", ""]
        site = site_of(queries, workspaces=workspaces)
        page: Any = lane_page(site, moment_of({}), {"workspace": "acme"})
        assert page["pace"] == ""
        assert page["burns"] == []
        assert page["worst"] is None
        assert page["hours"] == []
        assert page["hours_n"] == 1
        assert page["zone"] == ("Europe/Berlin" if workspaces else "UTC")
        assert page["kinds"] == (ORDERS if workspaces else ())
        assert page["may_pause"] is (bool(workspaces) and not is_paused)
    assert parts.forecasts_of.mock_calls == []
    assert parts.bars_of.mock_calls == [call(shown_lane, {}, NOW_MS)] * 2
    assert parts.throughput.mock_calls[-1] == call(site, "acme", NOW_MS, None)


@pytest.mark.parametrize(("ends_ms", "burns"), [(NOW_MS + 1, 1), (NOW_MS, 0)])
def test_a_budget_whose_day_has_ended_has_no_line(
    ends_ms: int,
    burns: int,
    parts: SimpleNamespace,
) -> None:
    parts.one_lane.return_value = listed("acme", meters=meters(credits_day=ends_ms))
    parts.bars_of.return_value = [SimpleNamespace(name="credits_day")]
    queries = asked_queries(lane_changes=[], marks=[], status_sums=[], dead_letters="none")
    queries.credits.side_effect = lambda names, step_s, since_s: {names[0]: "some"}
    page: Any = lane_page(site_of(queries), moment_of({}), {"workspace": "acme"})
    assert len(page["burns"]) == burns
    assert page["pace"] == "", "its rate bounds it, which the page shows anyway"


@pytest.mark.parametrize(("workspace", "door"), [("acme", "Routine"), ("beta", "Webhook")])
def test_the_page_calls_a_routine_a_routine(
    workspace: str,
    door: str,
    parts: SimpleNamespace,
) -> None:
    parts.one_lane.return_value = listed(workspace)
    parts.bars_of.return_value = []
    queries = asked_queries(lane_changes=[], marks=[], status_sums=[], dead_letters="none")
    queries.credits.side_effect = lambda names, step_s, since_s: {names[0]: "some"}
    destinations = {
        "people": Destination("people", "acme", kind="routine"),
        "firms": Destination("firms", "beta"),
    }
    site = site_of(queries, destinations=destinations)
    page: Any = lane_page(site, moment_of({}), {"workspace": workspace})
    assert page["door"] == door


def test_there_is_no_page_of_an_unknown_lane(parts: SimpleNamespace) -> None:
    parts.one_lane.return_value = None
    queries = asked_queries()
    assert lane_page(site_of(queries), moment_of({}), {"workspace": "none"}) is None
    assert queries.mock_calls == []


@pytest.mark.parametrize(("ago_s", "hours"), [(0, 2), (2 * HOUR_S + 1, 3)])
def test_the_charts_of_a_lane_begin_with_what_is_known_of_it(
    ago_s: int,
    hours: int,
    parts: SimpleNamespace,
) -> None:
    parts.one_lane.return_value = listed("acme")
    parts.bars_of.return_value = []
    marks = [Mark(NOW_S - HOUR_S - 1, 90.0, 100)]
    changes = [change("x", NOW_MS), change("x", (NOW_S - ago_s) * 1_000)]
    queries = asked_queries(lane_changes=changes, marks=marks, status_sums=[], dead_letters="none")
    queries.credits.side_effect = lambda names, step_s, since_s: {names[0]: "some"}
    page: Any = lane_page(site_of(queries), moment_of({}), {"workspace": "acme"})
    assert page["hours_n"] == hours


def test_strips_are_drawn_of_the_changes_that_are_known_without_a_gap(
    parts: SimpleNamespace,
) -> None:
    parts.one_lane.return_value = listed("acme")
    parts.bars_of.return_value = []
    flap = [change("held" if n % 2 else "moves", NOW_MS - n) for n in range(MAX_CHANGES)]
    changes = [*flap, change("held", NOW_MS - 9 * HOUR_S * 1_000)]
    queries = asked_queries(lane_changes=changes, marks=[], status_sums=[], dead_letters="none")
    queries.credits.side_effect = lambda names, step_s, since_s: {names[0]: "some"}
    page: Any = lane_page(site_of(queries), moment_of({}), {"workspace": "acme"})
    assert page["hours_n"] == 1
    assert [drawn.args[0] for drawn in parts._bands.mock_calls] == [flap, flap]
    assert page["changes"] == told_once(changes)[:30], "the list has the older one, too"
