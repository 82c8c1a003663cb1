"""What is seen of a budget: its meters, when it will end, and what a lead has come to cost."""

import pytest
from msgspec.structs import replace

from stream_app.domain.limits.budget import Budget, BudgetPolicy, Cost
from stream_app.domain.limits.meters import (
    Estimate,
    Forecast,
    Meter,
    Sample,
    first_estimate,
    forecast,
    learn_cost,
    meters,
)
from tests.unit.domain.dates import HOUR_MS, ms_of

MINUTE_MS = 60_000
NOON_MS = 12 * HOUR_MS


def meter(
    spent: int,
    reserved: int = 0,
    cap: int | None = 6_000,
    period: str = "2026-11-24",
) -> Meter:
    return Meter(period, 24 * HOUR_MS, cap, spent, reserved)


@pytest.mark.parametrize(
    ("earlier", "now", "expected"),
    [
        (
            meter(1_000, 100),
            meter(1_100, 500),
            Forecast(600.0, NOON_MS + int(4_400 / 600 * HOUR_MS)),
        ),
        (meter(0), meter(10), Forecast(60.0)),  # the day ends first
        (meter(0, 0, 730), meter(10, 0, 730), Forecast(60.0)),  # the day ends just then
        (meter(0, 0, 729), meter(10, 0, 729), Forecast(60.0, 24 * HOUR_MS - MINUTE_MS)),
        (meter(0, 0, None), meter(10, 0, None), Forecast(60.0)),  # nothing is capped
        (meter(6_000), meter(6_000), Forecast(0.0, NOON_MS)),  # used up
        (meter(10), meter(10), Forecast(0.0)),
        # refunds are no negative rate, and corrections none at all
        (meter(100), meter(0), Forecast(0.0)),
        (
            meter(0),
            replace(meter(100), elsewhere=3_000),
            Forecast(600.0, NOON_MS + int(2_900 / 600 * HOUR_MS)),
        ),
        (meter(5_000, period="2026-11-23"), meter(10), None),
    ],  # of another day
)
def test_a_budget_is_forecast_to_end_at_the_rate_of_the_last_minutes(
    earlier: Meter,
    now: Meter,
    expected: Forecast | None,
) -> None:
    assert forecast(steady(earlier, now), NOON_MS) == expected


@pytest.mark.parametrize(
    "booked",
    [(30, 30, 30), (0, 30, 30), (0, 0, 30), (30, 30, 31), (0, 1, 30), (1, 1, 30), (0, 0, 1)],
)
def test_a_burst_has_no_pace(booked: tuple[int, int, int]) -> None:
    """`booked`: after each third of the time.

    One file was sent, and nothing says that more will come.
    """
    assert forecast(in_thirds(*booked), NOON_MS) is None


def test_what_was_booked_by_the_end_of_a_third_is_booked_in_it() -> None:
    assert forecast(in_thirds(10, 20, 30), NOON_MS) == Forecast(150.0)


def in_thirds(*booked: int) -> list[Sample]:
    """What was seen of a meter at the end of each third of twelve minutes."""
    samples = [Sample(NOON_MS - 12 * MINUTE_MS, meter(0))]
    samples += [
        Sample(NOON_MS - (8 - 4 * n) * MINUTE_MS, meter(spent)) for n, spent in enumerate(booked)
    ]
    return samples


def test_what_another_day_has_booked_takes_nothing_from_the_pace_of_this_one() -> None:
    """A day begins in the middle of the day before if the time zone of the budget is changed."""
    of_today = steady(meter(0), meter(10))
    of_yesterday = Sample(of_today[0].at_ms - MINUTE_MS, meter(5_000, period="2026-11-23"))
    assert forecast([of_yesterday, *of_today], NOON_MS) == Forecast(60.0)


def test_a_pace_needs_no_booking_in_each_minute() -> None:
    samples = [Sample(NOON_MS - 12 * MINUTE_MS, meter(0))]
    samples += [
        Sample(NOON_MS - ago * MINUTE_MS, meter(spent)) for ago, spent in ((9, 5), (5, 10), (1, 12))
    ]
    assert forecast(samples, NOON_MS) == Forecast(60.0)


def steady(earlier: Meter, now: Meter) -> list[Sample]:
    """What was seen of a meter in ten minutes in which it grew all the time."""
    step = (now.spent - earlier.spent) / 10
    between = [replace(now, spent=earlier.spent + round(step * n)) for n in range(1, 10)]
    meters = [earlier, *(between if now.period == earlier.period else []), now]
    return [
        Sample(NOON_MS - (len(meters) - 1 - n) * MINUTE_MS, seen) for n, seen in enumerate(meters)
    ]


def test_a_forecast_ends_with_its_day() -> None:
    samples = steady(meter(1_000), meter(1_100))
    ends_ms = 24 * HOUR_MS
    later_ms = ends_ms - MINUTE_MS - NOON_MS
    late = [replace(sample, at_ms=sample.at_ms + later_ms) for sample in samples]
    assert forecast(late, ends_ms - 1) is not None
    assert forecast(late, ends_ms) is None


def test_the_first_hour_of_a_day_and_the_first_day_of_a_month_have_no_forecast() -> None:
    """40 leads in its first minutes would be said to use up any month, and one file on its first
    day, too.
    """
    for hours, young_h, length in ((24, 1, "day"), (720, 24, "month")):
        young = replace(
            meter(900),
            begins_ms=NOON_MS - young_h * HOUR_MS,
            ends_ms=NOON_MS + hours * HOUR_MS,
        )
        samples = steady(replace(young, spent=0), young)
        assert forecast(samples, NOON_MS - 1) is None, length
        assert forecast(samples, NOON_MS) is not None, length


def test_the_pace_of_a_month_is_its_mean_however_fast_the_last_minutes_were() -> None:
    begins_ms = 0
    now_ms = 300 * HOUR_MS
    month = Meter("2026-11", 720 * HOUR_MS, 9_000, 2_000, 1_000, elsewhere=500, begins_ms=begins_ms)
    quiet = replace(month, spent=0, reserved=0)
    assert forecast([Sample(now_ms - HOUR_MS, quiet), Sample(now_ms, month)], now_ms) == Forecast(
        10.0,
    )
    assert forecast([Sample(now_ms, replace(month, spent=5_000))], now_ms) == Forecast(
        20.0,
        now_ms + 125 * HOUR_MS,
    )


def test_no_sample_or_too_short_a_time_says_nothing() -> None:
    assert forecast([], NOON_MS) is None
    just_too_short = steady(meter(0), meter(10))
    assert forecast(just_too_short, NOON_MS) is not None
    just_too_short[0] = Sample(just_too_short[0].at_ms + 1, meter(0))
    assert forecast(just_too_short, NOON_MS) is None
    assert forecast([Sample(0, meter(0)), Sample(NOON_MS, meter(10))], 24 * HOUR_MS) is None


@pytest.mark.parametrize(
    ("date", "hours", "days"),
    [
        ("2026-10-25", 25, 31),
        ("2026-03-29", 23, 31),
        ("2026-09-21", 24, 30),
        ("2026-02-10", 24, 28),
    ],
)
def test_a_meter_says_when_its_day_and_month_began(date: str, hours: int, days: int) -> None:
    """A day has 23 or 25 hours where clocks change."""
    shown = meters(BudgetPolicy(tz="Europe/Berlin"), Budget(), ms_of(f"{date}T12:00"))
    for day in (shown["credits_day"], shown["actions_day"]):
        assert day.ends_ms - day.begins_ms == hours * HOUR_MS
    for month in (shown["credits_month"], shown["actions_month"]):
        assert round((month.ends_ms - month.begins_ms) / 24 / HOUR_MS) == days


def test_a_meter_is_empty_once_its_day_has_ended() -> None:
    full = meter(6_000)
    assert full.at(full.ends_ms - 1) is full
    later = full.at(full.ends_ms)
    assert later.used == 0
    assert later.left == full.cap
    assert later.ends_ms == full.ends_ms


@pytest.mark.parametrize(
    ("actual", "credits_", "actions"),
    [(Cost(12, 1), 7, 1), (Cost(6, 7), 6, 2), (Cost(-8, 1), 5, 1), (Cost(90, 90), 8, 3)],
)
def test_the_estimate_of_a_cost_moves_by_a_share_towards_the_newest(
    actual: Cost,
    credits_: float,
    actions: float,
) -> None:
    first = learn_cost(first_estimate(Cost(6, 1)), actual, Cost(18, 13))
    assert first.credits == pytest.approx(credits_)
    assert first.actions == pytest.approx(actions)
    assert first.leads == 1


def test_credits_and_actions_are_learned_alike_also_from_a_lead_that_cost_nothing() -> None:
    before = Estimate(2.0, 2.0)
    for spent in (-1, 0, 1, 5, 9):
        after = learn_cost(before, Cost(spent, spent), Cost(5, 5))
        assert after.credits == after.actions, spent
    nothing = learn_cost(before, Cost(0, 0), Cost(5, 5))
    assert learn_cost(before, Cost(-1, -1), Cost(5, 5)) == nothing
    assert nothing.actions < learn_cost(before, Cost(1, 1), Cost(5, 5)).actions < 2.0


@pytest.mark.parametrize(
    ("leads", "more"),
    [(43, 0.02 * 50 / 49), (44, 0.02), (45, 0.02), (10**6, 0.02)],
)
def test_the_estimate_of_a_cost_follows_the_last_fifty_or_so(leads: int, more: float) -> None:
    assert learn_cost(Estimate(6.0, 1.0, leads), Cost(7, 1), Cost(20, 5)).credits == pytest.approx(
        6 + more,
    )
