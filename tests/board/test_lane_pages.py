"""The pages of all lanes: what they show and ask for, and the leads and credits of the day."""

from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import Mock, call

import pytest

from stream_app.board.charts import Stack
from stream_app.board.pages import lanes as module
from stream_app.board.pages.lanes import _credits, _heading, lanes_page, now_page, throughput
from stream_app.board.read_model.board_query import Slot
from stream_app.board.site import NOT_READABLE, Bar, ListedLane, Overview
from stream_app.client.results.answers import Cause, Day, DeadLetters, StatusCount
from stream_app.domain.limits.meters import Meter
from stream_app.domain.views.explain import HELD_IN_PART
from stream_app.kafka.backlog import Waiting
from tests.board.asked import HOUR_S, NOW_MS, NOW_S, asked_queries, moment_of, site_of
from tests.board.listed import NOTE, OUT, PAUSED, VIEW, listed

QUARTER_S: Final = 900


def days(*saved: int) -> list[Day]:
    return [Day("", "", 0, 1, credits_, 2, 3, 4) for credits_ in saved]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the pages call to draw, and what it returns."""
    calls = SimpleNamespace(
        throughput=Mock(return_value=("chart", "hour", 77)),
        lane_rows=Mock(side_effect=lambda site, moment, lanes: [one.workspace for one in lanes]),
    )
    for name, mock in vars(calls).items():
        monkeypatch.setattr(module, name, mock)
    return calls


@pytest.mark.parametrize(
    ("query", "span", "left", "waiting"),
    [
        ({}, None, None, None),
        ({"span": "day"}, "day", {("test.leads", 0): Waiting(3)}, Waiting(3)),
    ],
)
def test_all_of_the_page_now(
    query: dict[str, str],
    span: Any,
    left: Any,
    waiting: Any,
    drawn: SimpleNamespace,
) -> None:
    ok = [
        listed("m", waiting=4),
        listed("k", waiting=9),
        listed("l", waiting=4),
        listed("j", "warn"),
    ]
    held = [
        listed("b", "warn", PAUSED, waiting=1),
        listed("a", "bad", OUT, NOTE),
        listed("c", "warn", NOTE),
    ]
    counts = [
        StatusCount("", "", "parked", "parked", 5),
        StatusCount("", "", "enriched", "enriched", 50),
        StatusCount("", "", "callback_overdue", "under_way", 7),
        StatusCount("", "", "credits_exhausted_suspected", "under_way", 11),
    ]
    seen = Overview([*ok, *held], [], counts)
    first = Cause("a", "", "", "r", "")
    second = Cause("b", "", "", "r", "", open=2)
    dlq = DeadLetters([first, second], open=2)
    queries = asked_queries(dead_letters=dlq, days=days(6, 7))
    site = site_of(queries)
    moment = moment_of(left)
    moment.shared.once("overview", lambda: seen)
    page = dict(now_page(site, moment, query))
    bar, others = _credits(seen, NOW_MS)
    assert page == {
        "heading": [(4, "/board/lanes?state=held"), " of ", (7, "/board/lanes"), " lanes are held"],
        "tone": "bad",
        "is_new": False,
        "seen": seen,
        "replays_stand": False,
        "held": [held[1], held[0]],
        "held_count": 2,
        "part_count": 0,
        "need_person": 1,
        "lanes": ["a", "b", "k", "l", "m", "c", "j"],
        "chart": "chart",
        "span": "hour",
        "ended_day": 77,
        "credits": bar,
        "credits_without_limit": others,
        "saved": 13,
        "waiting": waiting,
        "parked": 5,
        "dlq": dlq,
        "overdue": 18,
        "overdue_statuses": "callback_overdue,credits_exhausted_suspected",
        "top_cause": second,
    }
    assert queries.mock_calls == [call.dead_letters("test.leads.dlq"), call.days("")]
    drawn.throughput.assert_called_once_with(site, "", NOW_MS, span)
    ((asked_site, asked_moment, _),) = (asked.args for asked in drawn.lane_rows.mock_calls)
    assert asked_site is site
    assert asked_moment is moment


@pytest.mark.parametrize(
    ("lanes", "is_new"),
    [
        ([], False),
        ([listed("a", "idle", view=None), listed("b", "idle", view=None)], True),
        ([listed("a", "idle", view=None), listed("b", "idle")], False),
        ([listed("a", "warn", PAUSED, view=None)], False),
    ],
)
def test_a_board_is_new_while_nothing_was_ever_sent(
    lanes: list[ListedLane],
    is_new: bool,
    drawn: SimpleNamespace,
) -> None:
    queries = asked_queries(dead_letters=DeadLetters([]), days=[])
    moment = moment_of()
    moment.shared.once("overview", lambda: Overview(lanes, [], []))
    page = now_page(site_of(queries), moment, {})
    assert page["is_new"] is is_new
    assert page["top_cause"] is None


def test_the_page_now_shows_twenty_lanes_the_held_ones_first(drawn: SimpleNamespace) -> None:
    held = [listed(f"h{number:02}", "bad", OUT) for number in range(21)]
    queries = asked_queries(dead_letters=DeadLetters([]), days=[])
    for number in (21, 19):
        moment = moment_of()
        overview = Overview([*held[:number], listed("r1"), listed("r2")], [], [])
        moment.shared.once("overview", Mock(return_value=overview))
        page: Any = now_page(site_of(queries), moment, {})
        assert page["held"] == held[: min(number, 20)]
        assert page["held_count"] == number
        assert page["need_person"] == number
        names = [one.workspace for one in held[:20]]
        assert page["lanes"] == (names if number == 21 else [*names[:19], "r1"])


def test_a_heading_links_what_it_counts() -> None:
    two = Overview([listed("a"), listed("b", "warn")], [], [])
    assert _heading(two, is_asking=False)[0] == [
        (1, "/board/lanes?state=held"),
        " of ",
        (2, "/board/lanes"),
        " lanes is held",
    ]
    running = Overview([listed("a"), listed("b")], [], [])
    assert _heading(running, is_asking=False)[0] == [
        "All ",
        (2, "/board/lanes"),
        " lanes are running",
    ]


def of_day(cap: int | None, spent: int, reserved: int = 0, ends_ms: int = NOW_MS + 1) -> ListedLane:
    meter = Meter("2026-09-22", ends_ms, cap, spent, reserved)
    return listed("x", view=VIEW, meters={"credits_day": meter})


@pytest.mark.parametrize(
    ("lanes", "bar", "without_limit"),
    [
        ([of_day(0, 0)], (0, 0, None, 0.0, 0.0, "ok"), 0),
        ([of_day(0, 0), of_day(8, 4, 1)], (4, 1, 8, 50.0, 12.5, "ok"), 0),
        ([of_day(10, 9, 5), of_day(10, 9, 5)], (18, 10, 20, 90.0, 10.0, "warn"), 0),
        ([of_day(10, 5, ends_ms=NOW_MS), of_day(10, 2)], (2, 0, 20, 10.0, 0.0, "ok"), 0),
        ([of_day(None, 5, 3), of_day(300, 100, 50)], (100, 50, 300, 33.33, 16.67, "ok"), 5),
    ],
)
def test_the_credits_of_a_day(lanes: list[ListedLane], bar: Any, without_limit: int) -> None:
    made, others = _credits(Overview(lanes, [], []), NOW_MS)
    assert made == Bar("credits_day", "credits today", *bar)
    assert others == without_limit


def test_lanes_that_need_a_person_are_a_filter_of_their_own(drawn: SimpleNamespace) -> None:
    lanes = [
        listed("a", "bad", OUT),
        listed("b", "warn", PAUSED),
        listed("c", "idle"),
        listed("d", "ok"),
        listed("e", "idle", state=NOT_READABLE),
        listed("f", "bad", OUT),
        listed("g", "warn", PAUSED, state=HELD_IN_PART),
    ]
    moment = moment_of()
    moment.shared.once("overview", lambda: Overview(lanes, [], []))
    drawn.lane_rows.side_effect = lambda site, moment, lanes: lanes
    site = site_of(asked_queries())

    def names(state: str, **more: str) -> list[str]:
        page: Any = lanes_page(site, moment, {"state": state} | more)
        assert page["need_person"] == 2 - (more.get("begins") == "F")
        assert page["begins"] == more.get("begins", "")
        assert page["state"] == (state if state != "none" else "")
        assert page["after"] == ""
        return [one.workspace for one in page["lanes"]]

    assert names("person") == ["a", "f"]
    assert names("person", after="a") == ["f"]
    assert names("person", begins="F") == ["f"]
    assert names("held") == ["a", "b", "f"]
    assert names("part") == ["g"]
    assert names("idle") == ["c"]
    assert names("unreadable") == ["e"]
    assert names("none") == names("") == ["a", "b", "c", "d", "e", "f", "g"]


def test_the_throughput_asks_for_one_workspace_and_colours_each_status() -> None:
    quarter_s = NOW_S // QUARTER_S * QUARTER_S
    of_status = {
        "enriched": ("enriched", "partial", "accepted", "confirmed"),
        "cache": ("served_from_cache", "served_locally"),
        "nodata": ("no_data",),
        "failed": ("enrich_error", "parked"),
        "refused": ("rejected_invalid", "suppressed", "expired", "duplicate", "replaced"),
    }
    slots = []
    for place, status in enumerate(status for names in of_status.values() for status in names):
        slots.append(Slot(quarter_s, 2**place, status))
    begin_s = NOW_S // 60 * 60 - 59 * 60
    queries = asked_queries(came_to_rest={"acme": slots, "other": []})
    chart, span, ended = throughput(site_of(queries), "acme", NOW_MS, "day")
    assert queries.mock_calls == [
        call.came_to_rest(["acme"], QUARTER_S, quarter_s - 95 * QUARTER_S),
    ]
    assert span == "day"
    assert ended == 2**14 - 1
    assert [(area.key, area.label, area.total) for area in chart.areas] == [
        ("enriched", "enriched", 0b1111),
        ("cache", "answered from the cache", 0b11 << 4),
        ("nodata", "answered: no data", 1 << 6),
        ("failed", "failed or parked", 0b11 << 7),
        ("refused", "rejected or duplicate", 0b11111 << 9),
    ]
    queries.reset_mock()
    chart, span, ended = throughput(site_of(queries), "acme", NOW_MS, "hour")
    assert queries.mock_calls == [
        call.came_to_rest(["acme"], QUARTER_S, quarter_s - 95 * QUARTER_S),
        call.came_to_rest(["acme"], 60, begin_s),
    ]
    assert span == "hour"
    assert len(chart.rows) == 60
    assert chart.rows[-1][0] == (begin_s + 59 * 60) * 1_000


@pytest.mark.parametrize(
    ("ago_s", "span"),
    [(HOUR_S - 1, "hour"), (HOUR_S, "day")],
)
def test_an_hour_is_shown_while_nothing_is_older(ago_s: int, span: str) -> None:
    queries = asked_queries(came_to_rest={"": [Slot(NOW_S - ago_s, 1, "enriched")]})
    assert throughput(site_of(queries), "", NOW_MS, None)[1] == span


def test_a_stack_has_the_sum_of_a_status_in_a_slot() -> None:
    quarter_s = NOW_S // QUARTER_S * QUARTER_S
    slots = [Slot(quarter_s, 1, "enriched"), Slot(quarter_s, 2, "partial")]
    slots.append(Slot(quarter_s - QUARTER_S, 4, "enriched"))
    queries = asked_queries(came_to_rest={"": slots})
    chart: Stack = throughput(site_of(queries), "", NOW_MS, "day")[0]
    assert chart.rows[-2:] == [
        ((quarter_s - QUARTER_S) * 1_000, [4]),
        (quarter_s * 1_000, [3]),
    ]
