"""The charts of a lane over odd days and little data; and imports, whose numbers are those of their
lists.
"""

import re
import shlex
from contextlib import closing
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import cast

import msgspec
import pytest

from stream_app.board.access import STRANGER
from stream_app.board.charts import (
    _FILLED,
    Area,
    LineChart,
    Stack,
    line,
    nice,
    spark,
    stack,
    times,
    trend,
)
from stream_app.board.pages.lane import lane_page
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.requests import MAX_FILE_BYTES
from stream_app.board.site import Moment
from stream_app.domain.limits.meters import Meter
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.views.lane import LaneChange, RunsView
from tests.board.client import Client, board_with, plain
from tests.board.clock import HOUR_MS, NOW_MS
from tests.board.model_records import event, lane, take
from tests.board.orders import send
from tests.board.scene import Outbox, board_of, model_of, settings_of


def test_the_last_point_is_the_sum_of_the_lane_and_nothing_is_above_it(tmp_path: Path) -> None:
    names = TopicNames()
    ends_ms = NOW_MS + 7 * HOUR_MS
    meters = {
        "credits_day": Meter("2026-09-21", ends_ms, None, 30, begins_ms=NOW_MS - 17 * HOUR_MS),
        "credits_month": Meter("2026-09", ends_ms, 900, 70, begins_ms=NOW_MS - 500 * HOUR_MS),
    }
    where = {"workspace": "acme", "destination": "acme-people"}
    spent = [
        event(names, f"crm-{n}", "enriched", 1, n, credits=credits_, at_ms=NOW_MS - ago_ms, **where)
        for n, credits_, ago_ms in (
            (1, 4, HOUR_MS // 4),
            (2, 3, HOUR_MS // 6),
            (3, 3, HOUR_MS // 20),
            (4, 20, 2 * HOUR_MS),
        )
    ]
    moment = Moment(NOW_MS, ProjectionLag(), None, STRANGER)
    with board_with(tmp_path, lane(names, "acme", at_ms=NOW_MS, meters=meters), *spent) as client:
        page = lane_page(client.board._maker.site, moment, {"workspace": "acme"})
    assert page is not None
    day, month = (line for _, line in cast("list[tuple[object, LineChart]]", page["burns"]))
    assert [value for _, value in day.rows] == [0, 20, 27, 30]
    assert day.limit_y is None, "no cap, no limit"
    assert day.rows[-1] == (NOW_MS, 30)
    assert [value for _, value in month.rows] == [40, 70], "40 credits are older than the history"
    assert month.rows[0][0] > NOW_MS - 24 * HOUR_MS, (
        "when those were booked is not known: the line begins later"
    )
    points = [[float(part) for part in point.split(",")] for point in day.points.split()]
    assert all(x == left or y == up for (left, up), (x, y) in pairwise(points)), "it rises in steps"
    assert month.limit_y is not None
    assert day.forecast == "70.83,93.33 100.00,31.11", (
        "from 30 to 310 of 450, at 40 an hour for seven hours"
    )


async def test_a_lane_to_which_nothing_was_sent_has_the_caps_of_its_configuration(
    tmp_path: Path,
) -> None:
    with board_with(tmp_path, lane(TopicNames(), at_ms=NOW_MS)) as client:
        lanes = plain((await client.get("/board/lanes")).text)
        page = plain((await client.get("/board/lanes/globex")).text)
        unlimited = plain((await client.get("/board/lanes/stark")).text)
        now = plain((await client.get("/board")).text)
    row = lanes[lanes.index("globex") : lanes.index("hooli")]
    assert "0 of 4,000 credits today" in row
    assert "unlimited" not in row
    assert "unlimited" in lanes[lanes.index("stark") :]
    assert "0 of 4,000 credits today" in page
    assert "Nothing is booked, and the budget is unlimited." in unlimited
    assert "0 of 27,000" in now, "4,000, 8,000, 10,000 and 5,000; acme has published none"


async def test_the_page_of_a_lead_adds_up_what_its_records_have_booked(tmp_path: Path) -> None:
    names = TopicNames()
    parked = event(names, "crm-1", "parked", 1, 1, credits=12)
    corrected = event(names, "crm-1", "cost_corrected", 1, origin="leads.commands/0/3", credits=-12)
    answered = event(names, "crm-1", "replayed", 2, 1, credits=1)
    with board_with(tmp_path, parked, corrected, answered) as client:
        text = plain((await client.get("/board/leads/crm-1")).text)
    assert "1 credit booked in all its records" in text


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("run_7", "Run run_7: 1 poll so far, the next at 2026-09-21 14:52:"),
        (
            "",
            "Its run has no known id, because Clay's answer to the POST was lost: only an "
            "announcement of it settles the lead.",
        ),
    ],
)
async def test_the_page_of_a_lead_shows_its_run_the_polls_and_the_next_one(
    tmp_path: Path,
    run: str,
    says: str,
) -> None:
    settings = settings_of(tmp_path)
    destinations = {
        **settings.destinations,
        "acme-people": msgspec.structs.replace(
            settings.destinations["acme-people"],
            kind="routine",
            routine="function:t_1",
        ),
    }
    settings = msgspec.structs.replace(settings, destinations=destinations)
    names = TopicNames()
    model = model_of(tmp_path / "model.sqlite", settings)
    where = {"workspace": "acme", "destination": "acme-people"}
    take(
        model,
        event(names, "crm-1", "received", 1, 1, at_ms=NOW_MS - 31_000, **where),
        event(names, "crm-1", "sending", 2, 1, at_ms=NOW_MS - 30_500, **where),
        event(names, "crm-1", "accepted", 3, 1, at_ms=NOW_MS - 30_000, run=run, **where),
        lane(names, at_ms=NOW_MS, runs=RunsView(1, NOW_MS - 1, waits_for_rate=True)),
    )
    model.close()
    with closing(board_of(settings, tmp_path / "model.sqlite")) as board:
        text = " ".join(plain((await Client(board).get("/board/leads/crm-1")).text).split())
    assert says in text
    assert ("Polls wait for the rate of its lane." in text) is bool(run)


async def test_a_lane_that_has_only_begun_has_a_page_without_invented_numbers(
    tmp_path: Path,
) -> None:
    meters = {"credits_day": Meter("2026-09-21", NOW_MS + HOUR_MS)}
    worse = lane(TopicNames(), at_ms=NOW_MS, score=82.5, p95_ms=900)
    with board_with(
        tmp_path,
        worse,
        lane(TopicNames(), at_ms=NOW_MS, score=93.3, p95_ms=300, meters=meters),
    ) as client:
        text = (await client.get("/board/lanes/acme")).text
    assert "Nothing is booked, and the budget is unlimited." in text
    assert "nothing in this time" in text
    assert "closed now; no change is known" in text
    assert all(
        words in plain(text) for words in ("93.3 now, lowest 82.5;", "300 ms now, highest 900 ms;")
    )
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower()


def test_the_charts_of_a_lane_begin_with_the_first_that_is_known_of_it(tmp_path: Path) -> None:
    """A change may be older than the marks of health, and a day is the most that they show."""
    names = TopicNames()
    moment = Moment(NOW_MS, ProjectionLag(), None, STRANGER)
    for hours, shown in ((5, 5), (40, 24)):
        folder = tmp_path / f"{hours}"
        folder.mkdir()
        change = LaneChange("held", "paused by jane")
        before = lane(names, at_ms=NOW_MS - hours * HOUR_MS + 600_000, news=(change,), score=80.0)
        with board_with(folder, before) as client:
            page = lane_page(client.board._maker.site, moment, {"workspace": "acme"})
        assert page is not None
        assert page["hours_n"] == shown
        times_ms = cast("list[int]", page["times_ms"])
        assert times_ms[0] == NOW_MS - shown * HOUR_MS
        assert times_ms[-1] == NOW_MS


async def test_a_lane_that_cannot_send_at_its_rate_says_which_limit_binds(tmp_path: Path) -> None:
    slow = {
        "rate_per_s": 20.0,
        "sends_per_s": 6.8,
        "bound_by": "max_in_flight",
        "held_ms": 730,
        "concurrency": 5,
    }
    for view, is_said in (({"rate_per_s": 20.0, "sends_per_s": 20.0}, False), (slow, True)):
        with board_with(tmp_path, lane(TopicNames(), at_ms=NOW_MS, **view)) as client:
            text = plain((await client.get("/board/lanes/acme")).text)
        says = (
            "Sends up to 6.8 a second: delivery.max_in_flight lets 5 calls be under way, and "
            "each takes 0.7 s."
        )
        assert (says in text) is is_said
        assert ("Sends up to" in text) is is_said


async def test_a_lane_of_routines_says_how_many_runs_are_open_and_when_the_next_is_polled(
    tmp_path: Path,
) -> None:
    for runs, says in (
        (RunsView(3, NOW_MS + 61_000), "3 runs are open. The next poll is at"),
        (
            RunsView(1, NOW_MS - 1, waits_for_rate=True),
            "1 run is open; polls wait for the rate of the lane.",
        ),
        (
            RunsView(1, NOW_MS - 9_000),
            "1 run is open; a poll was due 9 s ago, and what follows is known within a minute.",
        ),
    ):
        with board_with(tmp_path, lane(TopicNames(), at_ms=NOW_MS, runs=runs)) as client:
            text = " ".join(plain((await client.get("/board/lanes/acme")).text).split())
        assert says in text
        assert ("The next poll is at" in text) is (runs.next_ms > NOW_MS)


def test_a_trend_begins_with_its_first_value() -> None:
    assert trend({}, range(5)) == ""
    assert trend({2: 50, 3: 100}, range(5)) == "50.0,50.0 75.0,50.0 75.0,4.0 100.0,4.0", (
        "it rises in steps"
    )
    assert trend({1: 0}, range(2)) == "100.0,96.0"


def test_a_small_line_needs_two_values_and_one_above_zero() -> None:
    assert [spark(values) for values in ([], [7], [0, 0])] == ["", "", ""]
    assert spark([0, 5]) == "0.0,96.0 100.0,4.0"
    assert spark([1, 4, 2]) == "0.0,73.0 50.0,4.0 100.0,50.0"


def test_a_bar_chart_has_a_gap_between_equal_neighbours_and_no_area_for_what_never_came() -> None:
    series = [("enriched", "enriched"), ("cache", "from the cache"), ("failed", "failed")]
    values = {
        1_000: {"enriched": 4},
        1_060: {"enriched": 1, "failed": 3, "of no series": 99},
        1_120: {"failed": 50},
    }
    lower = (
        f"M0.00 33.33h{50 * _FILLED:.2f}v66.67h-{50 * _FILLED:.2f}zM50.00 "
        f"83.33h{50 * _FILLED:.2f}v16.67"
    )
    upper = f"M50.00 33.33h{50 * _FILLED:.2f}v50.00h-{50 * _FILLED:.2f}z"
    assert 0.8 < _FILLED < 0.96
    assert stack(series, values, 1_000, 60, 2, 3) == Stack(
        areas=[
            Area("enriched", "enriched", f"{lower}h-{50 * _FILLED:.2f}z", 5),
            Area("failed", "failed", upper, 3),
        ],
        ticks=[6, 4, 2, 0],
        times_ms=[1_000_000, 1_060_000, 1_120_000],
        rows=[(1_000_000, [4, 0]), (1_060_000, [1, 3])],
    )
    assert stack(series, {}, 0, 60, 1, 2) == Stack([], [3, 2, 1, 0], [0, 60_000], [(0, [])])


def test_a_line_rises_in_steps_to_the_edge_and_its_scale_has_room_for_limit_and_forecast() -> None:
    rows = [(0, 0), (50_000, 3), (200_000, 6)]
    points = "0.00,100.00 50.00,100.00 50.00,75.00 100.00,75.00 100.00,50.00"
    ticks = [12, 8, 4, 0]
    times_ms = [0, 25_000, 50_000, 75_000, 100_000]
    assert line(rows, 0, 100, 12, (100_000, 9)) == LineChart(
        points,
        "100.00,50.00 100.00,25.00",
        0.0,
        ticks,
        times_ms,
        rows,
    )
    assert line(rows, 0, 100, None, (90_500, 12)).forecast == "100.00,50.00 90.50,0.00"
    assert line([], 0, 100, None, (90_000, 12)) == LineChart("", "", None, ticks, times_ms, [])
    later = [(at_ms + 700_000, value) for at_ms, value in rows]
    later_ms = [at_ms + 700_000 for at_ms in times_ms]
    as_before = LineChart(points, "100.00,50.00 100.00,25.00", 0.0, ticks, later_ms, later)
    assert line(later, 700, 800, 12, (800_000, 9)) == as_before, (
        "an axis begins where it is told to"
    )
    assert line([(-5_000, 1)], 0, 100, 0, None) == LineChart(
        "0.00,66.67",
        "",
        100.0,
        [3, 2, 1, 0],
        times_ms,
        [(-5_000, 1)],
    )


def test_the_scale_ends_at_a_round_number_just_above_the_value() -> None:
    values = (
        0,
        3,
        3.1,
        6,
        6.1,
        10,
        12,
        12.1,
        18.1,
        24.1,
        30,
        31,
        46,
        61,
        76,
        91,
        121,
        151,
        181,
        241,
    )
    tops = [3, 3, 6, 6, 9, 12, 12, 15, 24, 30, 30, 45, 60, 75, 90, 120, 150, 180, 240, 300]
    assert [nice(value) for value in values] == tops


def test_the_times_below_a_chart_are_at_equal_distances_to_the_second() -> None:
    assert [repr(at_ms) for at_ms in times(5, 10, 4)] == ["5000", "8000", "11000", "15000"]


MARCH = "/board/imports?workspace=initech&id=2026-09-21-kfdwzp"


async def test_an_import_shows_its_leads_by_column(local: Client) -> None:
    """test_links.py follows each number to its leads."""
    text = (await local.get(MARCH)).text
    assert "87 of 174 leads" in plain(text)
    counts = re.findall(
        r'<a class="count" href="/board/leads\?[^"]*column=(\w+)[^"]*">([\d,]+)</a>',
        text,
    )
    at_rest = {"enriched": 70, "served_from_cache": 12, "rejected": 3, "duplicate": 6, "parked": 2}
    assert {column: int(number) for column, number in counts} == {
        **at_rest,
        "held": 17,
        "under_way": 14,
    }


async def test_an_import_says_how_to_take_its_results_joined_to_its_file(local: Client) -> None:
    """A producer chooses the file's name: it is quoted for a shell, and can be no option."""
    (command,) = re.findall(r"<pre>([^<]*)</pre>", (await local.get(MARCH)).text)
    words = ["--workspace", "initech", "--join", "./leads march.csv", "-o", "enriched.csv"]
    assert shlex.split(unescape(command)) == ["stream-app", "results", *words]
    link, *_ = re.findall(
        r'href="([^"]*id=[^"]*alert[^"]*)"',
        (await local.get("/board/imports")).text,
    )
    assert "<pre>" not in (await local.get(unescape(link))).text, "its file is no CSV"


CANCEL = "/board/imports/act/cancel?workspace=initech&id=2026-09-21-kfdwzp"


async def test_an_operator_cancels_an_import(operator: Client, outbox: Outbox) -> None:
    text = (await operator.get(MARCH)).text
    assert CANCEL.replace("&", "&amp;") in text
    assert f'data-most-mb="{MAX_FILE_BYTES / 2**20:.0f}"' in text, (
        "what a browser refuses, the server would"
    )
    assert (await send(operator, CANCEL, why="wrong file", typed="acme")).status_code == 422
    answer = await send(operator, CANCEL, why="wrong file", typed="initech")
    (command,) = outbox.commands
    assert command.kind == "cancel_import"
    assert command.workspace == "initech"
    assert command.why == "wrong file"
    assert command.args == {"import_id": "2026-09-21-kfdwzp"}
    followed = (await operator.get(answer.headers["location"])).text
    assert all(text in followed for text in ("Import 2026-09-21-kfdwzp", command.id))


@pytest.mark.parametrize(
    "query",
    ["", "?workspace=initech&id=unknown", "?workspace=absent&id=webinar"],
)
async def test_an_import_that_is_not_there_is_not_cancelled(operator: Client, query: str) -> None:
    assert (await operator.get(f"/board/imports/act/cancel{query}")).status_code == 404
