"""When a budget ends at the present rate, from what a lane has published."""

from stream_app.domain.lane.meters import Forecast, Meter, Sample, forecast

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
NOON_MS = 12 * HOUR_MS


def meter(spent: int, reserved: int = 0, cap: int | None = 6_000, period: str = "2026-11-24") -> Meter:
    return Meter(period, 24 * HOUR_MS, cap, spent, reserved)


def test_a_budget_is_forecast_to_end_at_the_rate_of_the_last_minutes() -> None:
    samples = [Sample(NOON_MS - 10 * MINUTE_MS, meter(1_000, 100)), Sample(NOON_MS, meter(1_150, 50))]
    assert forecast(samples, NOON_MS) == Forecast(600.0, NOON_MS + 8 * HOUR_MS)


def test_where_the_day_ends_first_or_nothing_is_capped_it_lasts() -> None:
    earlier = NOON_MS - 10 * MINUTE_MS
    assert forecast([Sample(earlier, meter(0)), Sample(NOON_MS, meter(10))], NOON_MS) == Forecast(60.0)
    assert forecast([Sample(earlier, meter(0, 0, None)), Sample(NOON_MS, meter(10, 0, None))], NOON_MS) == Forecast(
        60.0
    )


def test_a_used_up_meter_ends_now_and_an_unused_one_never() -> None:
    earlier = NOON_MS - 10 * MINUTE_MS
    used_up = [Sample(earlier, meter(6_000)), Sample(NOON_MS, meter(6_000))]
    assert forecast(used_up, NOON_MS) == Forecast(0.0, NOON_MS)
    idle = [Sample(earlier, meter(10)), Sample(NOON_MS, meter(10))]
    assert forecast(idle, NOON_MS) == Forecast(0.0)


def test_refunds_are_no_negative_rate_and_corrections_no_rate_at_all() -> None:
    earlier = NOON_MS - 10 * MINUTE_MS
    assert forecast([Sample(earlier, meter(0, 500)), Sample(NOON_MS, meter(100, 0))], NOON_MS) == Forecast(0.0)
    corrected = Meter("2026-11-24", 24 * HOUR_MS, 6_000, 100, 0, elsewhere=3_000)
    assert forecast([Sample(earlier, meter(0)), Sample(NOON_MS, corrected)], NOON_MS) == Forecast(
        600.0, NOON_MS + int(2_900 / 600 * HOUR_MS)
    )


def test_another_day_or_too_short_a_time_says_nothing() -> None:
    assert forecast([], NOON_MS) is None
    yesterday = Sample(NOON_MS - 10 * MINUTE_MS, meter(5_000, period="2026-11-23"))
    assert forecast([yesterday, Sample(NOON_MS, meter(10))], NOON_MS) is None
    assert forecast([Sample(NOON_MS - 30_000, meter(0)), Sample(NOON_MS, meter(10))], NOON_MS) is None
    assert forecast([Sample(0, meter(0)), Sample(NOON_MS, meter(10))], 24 * HOUR_MS) is None


def test_a_meter_is_empty_once_its_day_has_ended() -> None:
    full = meter(6_000)
    assert full.at(full.ends_ms - 1) is full
    later = full.at(full.ends_ms)
    assert (later.used, later.left, later.ends_ms) == (0, full.cap, full.ends_ms)
