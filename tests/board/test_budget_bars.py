"""The budgets of lanes as bars, what is forecast of them, and the rows of lanes that have them."""

from typing import Any, Final
from unittest.mock import Mock, call

import msgspec
import pytest

from stream_app.board import site as module
from stream_app.board.charts import spark
from stream_app.board.read_model.board_query import Slot
from stream_app.board.site import Bar, ListedLane, bars_of, forecasts_of, lane_rows
from stream_app.domain.limits.budget import METERS
from stream_app.domain.limits.meters import Forecast, Meter, Sample
from stream_app.domain.views.explain import Outlook
from stream_app.domain.views.lane import LaneView
from tests.board.asked import HOUR_S, NOW_MS, NOW_S, asked_queries, moment_of, site_of
from tests.board.listed import VIEW

ACTIONS_MONTH: Final = METERS["actions_month"]


def meter(
    cap: int | None,
    spent: int,
    reserved: int = 0,
    ends_ms: int = NOW_MS + HOUR_S * 1_000,
    begins_ms: int = NOW_MS - 5 * HOUR_S * 1_000,
    **more: int,
) -> Meter:
    return Meter("now", ends_ms, cap, spent, reserved, begins_ms=begins_ms, **more)


def view_with(meters: dict[Any, Meter]) -> LaneView:
    return msgspec.structs.replace(VIEW, meters=meters)


def lane_with(view: LaneView | None, **meters: Meter) -> ListedLane:
    named: Any = meters
    if view is not None:
        view = view_with(named)
    return ListedLane("acme", "", "ok", "", view, [], 0, 0, meters=named)


def test_the_bars_of_all_budgets_in_their_order() -> None:
    lane = lane_with(
        VIEW,
        actions_month=meter(3, 1, 1),
        actions_day=meter(None, 0, 2),
        credits_month=meter(None, 0),
        credits_day=meter(200, 100, 60, elsewhere=20),
    )
    ends_ms = NOW_MS + HOUR_S * 1_000
    foreseen = {"credits_day": Forecast(60.0), "actions_day": Forecast(0.5)}
    assert bars_of(lane, foreseen, NOW_MS) == [
        Bar(
            "credits_day",
            METERS["credits_day"],
            120,
            60,
            200,
            60.0,
            30.0,
            "warn",
            Outlook("60 an hour: lasts until", ends_ms, is_short=False),
            60.0,
            ends_ms,
        ),
        Bar("actions_day", METERS["actions_day"], 0, 2, None, 0.0, 0.0, "ok", None, 0.5, ends_ms),
        Bar(
            "actions_month",
            ACTIONS_MONTH,
            1,
            1,
            3,
            33.33,
            33.33,
            "ok",
            None,
            0.0,
            ends_ms,
        ),
    ]


def test_a_lane_to_which_nothing_was_sent_has_its_caps_and_no_outlook() -> None:
    lane = lane_with(None, credits_day=meter(0, 0), credits_month=meter(100, 250, 150))
    assert [
        (bar.name, bar.spent_share, bar.reserved_share, bar.tone, bar.seen)
        for bar in bars_of(lane, {}, NOW_MS)
    ] == [
        ("credits_day", 0.0, 0.0, "ok", None),
        ("credits_month", 100.0, 100.0, "warn", None),
    ]


def test_a_budget_whose_day_is_over_is_empty() -> None:
    lane = lane_with(VIEW, credits_day=meter(100, 90, 5, ends_ms=NOW_MS))
    [bar] = bars_of(lane, {}, NOW_MS)
    assert bar.used == 0
    assert bar.reserved == 0
    assert bar.cap == 100
    assert bar.tone == "ok"
    assert bars_of(lane_with(VIEW, credits_day=meter(None, 90, ends_ms=NOW_MS)), {}, NOW_MS) == []


def test_what_is_forecast_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a meter: what it had before each minute that is known, and after it."""
    of_day = Forecast(60.0)
    forecast = Mock(side_effect=[of_day, None])
    monkeypatch.setattr(module, "forecast", forecast)
    day = meter(1_000, 100, begins_ms=NOW_MS - 300_000)
    month = meter(None, 500)
    view = view_with({"credits_day": day, "credits_month": month, "actions_day": day})
    minutes = [
        Slot(NOW_S - 901, credits=1),
        Slot(NOW_S - 600, credits=2),
        Slot(NOW_S - 299, credits=4),
        Slot(NOW_S - 60, credits=8),
    ]
    assert forecasts_of(view, minutes, NOW_MS) == {"credits_day": of_day}

    def samples(of: Meter, first: int, *known: Slot) -> list[Any]:
        made = [Sample(known[0].at_s * 1_000, msgspec.structs.replace(of, spent=first))]
        for slot in known:
            first += slot.credits
            made.append(
                Sample(
                    (slot.at_s + 60) * 1_000,
                    msgspec.structs.replace(of, spent=first),
                ),
            )
        return [*made, Sample(NOW_MS, of)]

    assert forecast.mock_calls == [
        call(samples(day, 88, *minutes[2:]), NOW_MS),
        call(samples(month, 486, *minutes[1:]), NOW_MS),
    ]


def test_without_a_minute_that_is_known_a_forecast_has_the_present_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forecast = Mock(return_value=None)
    monkeypatch.setattr(module, "forecast", forecast)
    day = meter(1_000, 100)
    assert forecasts_of(view_with({"credits_day": day}), [], NOW_MS) == {}
    now = Sample(NOW_MS, day)
    forecast.assert_called_once_with([now, now], NOW_MS)


@pytest.mark.parametrize("after_ms", [0, 1])
def test_a_minute_counts_from_when_the_quarter_of_an_hour_begins(
    after_ms: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forecast = Mock(return_value=None)
    monkeypatch.setattr(module, "forecast", forecast)
    view = view_with({"credits_day": meter(1_000, 100)})
    now_ms = NOW_S * 1_000 + after_ms
    forecasts_of(view, [Slot(NOW_S - 900, credits=1)], now_ms)
    [asked] = forecast.mock_calls
    assert len(asked.args[0]) == (2 if after_ms else 3)


def test_all_of_the_rows_of_lanes() -> None:
    begin_s = NOW_S // 60 * 60 - 59 * 60
    ended = [
        Slot(begin_s, 1, "enriched"),
        Slot(begin_s + 299, 2, "enriched"),
        Slot(begin_s + 300, 4, "parked"),
        Slot(begin_s + 59 * 60, 8, "enriched"),
    ]
    queries = asked_queries(
        came_to_rest={"acme": ended, "beta": []},
        credits={"acme": [Slot(NOW_S - 660, credits=5)], "beta": []},
    )
    day = meter(1_000, 100)
    acme = lane_with(VIEW, credits_day=day)
    beta = msgspec.structs.replace(lane_with(None, credits_day=day), workspace="beta")
    rows = lane_rows(site_of(queries), moment_of(), [acme, beta])
    assert queries.mock_calls == [
        call.came_to_rest(["acme", "beta"], 60, begin_s),
        call.credits(["acme", "beta"], 60, begin_s),
    ]
    view = view_with({"credits_day": day})
    foreseen = forecasts_of(view, [Slot(NOW_S - 660, credits=5)], NOW_MS)
    assert rows == [
        msgspec.structs.replace(
            acme,
            spark=spark([3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]),
            bars=bars_of(acme, foreseen, NOW_MS),
        ),
        msgspec.structs.replace(beta, bars=bars_of(beta, {}, NOW_MS)),
    ]
