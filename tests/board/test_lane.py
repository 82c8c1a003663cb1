"""The charts of a lane: days of 23 and 25 hours, no limit, little data, and none."""

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from stream_app.board.access import STRANGER
from stream_app.board.charts import _ticks, nice, trend
from stream_app.board.pages.lane import _begin_ms, lane_page
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.store import ReadModel, Sources
from stream_app.board.site import Moment, Site
from stream_app.domain.lane import calendar
from stream_app.domain.lane.meters import Meter
from tests.board.client import Client
from tests.board.clock import HOUR_MS, NOW_MS
from tests.board.model_records import Made, event, lane, take
from tests.board.scene import board_of, settings_of


@pytest.mark.parametrize(
    ("date", "hours", "days"),
    [("2026-10-25", 25, 31), ("2026-03-29", 23, 31), ("2026-09-21", 24, 30), ("2026-02-10", 24, 28)],
)
def test_a_burn_down_begins_with_its_day_and_month(tmp_path: Path, date: str, hours: int, days: int) -> None:
    policy = settings_of(tmp_path).workspaces["acme"]
    noon_ms = int(datetime.fromisoformat(f"{date}T12:00:00").replace(tzinfo=UTC).timestamp() * 1000)
    now = calendar.at(policy.time_zone, 1, noon_ms)
    day, month = Meter(now.day, now.day_end_ms, 10), Meter(now.month, now.month_end_ms, 10)
    assert now.day_end_ms - _begin_ms("credits_day", day, policy) == hours * HOUR_MS
    lasts_ms = now.month_end_ms - _begin_ms("credits_month", month, policy)
    assert round(lasts_ms / 24 / HOUR_MS) == days


def model(tmp_path: Path, *records: Made) -> Path:
    settings, path = settings_of(tmp_path), tmp_path / "model.sqlite"
    made = ReadModel(path, Sources(settings.names, 6, settings.topics, frozenset(settings.workspaces)))
    take(made, *records)
    made.close()
    return path


def test_the_last_point_is_the_sum_of_the_lane_and_nothing_is_above_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    names, ends_ms = settings.names, NOW_MS + 7 * HOUR_MS
    meters = {
        "credits_day": Meter("2026-09-21", ends_ms, None, 30),
        "credits_month": Meter("2026-09", ends_ms, 900, 70),
    }
    where = {"workspace": "acme", "destination": "acme-people"}
    spent = [
        event(names, f"crm-{n}", "enriched", 1, n, credits=n * 10, at_ms=NOW_MS - n * HOUR_MS, **where) for n in (1, 2)
    ]
    path = model(tmp_path, lane(names, "acme", at_ms=NOW_MS, meters=meters), *spent)
    page = lane_page(
        Site(settings, BoardQueries(path, set())), Moment(NOW_MS, ProjectionLag(), None, STRANGER), "acme", None
    )
    assert page is not None
    day, month = (burn.line for burn in page.burns)
    assert [value for _, value in day.rows] == [0, 20, 30, 30]
    assert day.limit_y is None, "no cap, no limit"
    assert day.rows[-1] == (NOW_MS, 30)
    assert [value for _, value in month.rows] == [40, 70], "40 credits are older than the history"
    assert month.limit_y is not None


async def test_a_lane_that_has_only_begun_has_a_page_without_invented_numbers(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    fresh = msgspec.to_builtins(Meter("2026-09-21", NOW_MS + HOUR_MS))
    path = model(tmp_path, lane(settings.names, "acme", at_ms=NOW_MS, meters={"credits_day": fresh}))
    board = board_of(settings, path)
    text = (await Client(board).get("/board/lanes/acme")).text
    board.close()
    assert "Nothing is booked, and no limit is set." in text
    assert "nothing in this time" in text
    assert "closed now; no change is known" in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower()


def test_a_trend_begins_with_its_first_value() -> None:
    assert trend({}, range(5)) == ""
    assert trend({2: 50, 3: 100}, range(5)) == "50.0,50.0 75.0,4.0 100.0,4.0"
    assert trend({1: 0}, range(2)) == "100.0,96.0"


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 3), (3, 3), (3.1, 6), (6, 6), (6.1, 9), (10, 12), (12, 12), (12.1, 15), (18.1, 24), (24.1, 30), (30, 30)],
)
def test_the_scale_ends_at_a_round_number_just_above_the_value(value: float, top: int) -> None:
    assert nice(value) == top


@pytest.mark.parametrize("value", [0, 1, 2.5, 4, 7, 11, 29, 31, 99, 100, 101, 1_234, 98_765, 10**9])
def test_the_ticks_of_a_scale_are_whole_and_at_equal_distances(value: float) -> None:
    top = nice(value)
    assert value <= top <= max(3, 2 * value)
    assert _ticks(top) == [top, top // 3 * 2, top // 3, 0]
    assert top % 3 == 0
