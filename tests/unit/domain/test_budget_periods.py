"""The calendar of a budget: its days where clocks change, and its months from the billing day."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.limits.budget import BudgetPolicy, periods_at
from tests.unit.domain.dates import HOUR_MS, ms_of


@pytest.mark.parametrize("tz", ["Mars/Olympus", "Europe", "../UTC", "/UTC", ""])
def test_a_time_zone_has_a_known_name(tz: str) -> None:
    (problem,) = BudgetPolicy(tz=tz).problems()
    assert problem == f"tz = {tz!r}: no such time zone; use a name like 'Europe/Berlin'"


@pytest.mark.parametrize(
    ("tz", "noon", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", 25),
        ("Europe/Berlin", "2026-11-24T12:00", 24),
        ("America/New_York", "2026-03-08T12:00", 23),
        ("America/New_York", "2026-11-01T12:00", 25),
        ("Australia/Lord_Howe", "2026-04-05T12:00", 24.5),
        ("Asia/Kathmandu", "2026-11-24T12:00", 24),
        ("America/Santiago", "2026-09-06T12:00", 23),
    ],
)
def test_a_day_has_as_many_hours_as_it_has(tz: str, noon: str, hours: float) -> None:
    day = periods_at(tz, 1, ms_of(noon, tz))
    assert day.day == noon[:10]
    assert day.day_end_ms - day.day_start_ms == hours * HOUR_MS
    assert periods_at(tz, 1, day.day_start_ms).day == day.day
    assert periods_at(tz, 1, day.day_end_ms - 1).day == day.day
    assert (
        periods_at(tz, 1, day.day_start_ms - 1).day
        < day.day
        < periods_at(tz, 1, day.day_end_ms).day
    )


@pytest.mark.parametrize(
    ("billing_day", "now", "month", "begin", "end"),
    [
        (31, "2026-02-27T23:59", "2026-01", "2026-01-31", "2026-02-28"),
        (31, "2026-02-28T00:00", "2026-02", "2026-02-28", "2026-03-31"),
        (31, "2026-03-30T12:00", "2026-02", "2026-02-28", "2026-03-31"),
        (31, "2028-02-29T00:00", "2028-02", "2028-02-29", "2028-03-31"),
        (31, "2026-04-30T00:00", "2026-04", "2026-04-30", "2026-05-31"),
        (31, "2026-12-31T00:00", "2026-12", "2026-12-31", "2027-01-31"),
        (15, "2027-01-14T23:59", "2026-12", "2026-12-15", "2027-01-15"),
        (15, "2026-11-15T00:00", "2026-11", "2026-11-15", "2026-12-15"),
        (1, "2026-11-30T23:59", "2026-11", "2026-11-01", "2026-12-01"),
    ],
)
@pytest.mark.parametrize("tz", ["UTC", "Europe/Berlin", "America/New_York"])
def test_months_begin_on_the_billing_day(
    tz: str,
    billing_day: int,
    now: str,
    month: str,
    begin: str,
    end: str,
) -> None:
    now_is = periods_at(tz, billing_day, ms_of(now, tz))
    assert now_is.month == month
    assert now_is.month_start_ms == ms_of(begin, tz)
    assert now_is.month_end_ms == ms_of(end, tz)


@given(
    st.sampled_from(
        [
            "UTC",
            "Europe/Berlin",
            "America/St_Johns",
            "Pacific/Apia",
            "Asia/Kolkata",
            "Africa/Cairo",
        ],
    ),
    st.integers(1, 31),
    st.integers(0, 4_102_444_800_000),
)
def test_every_moment_is_inside_its_own_periods(tz: str, billing_day: int, now_ms: int) -> None:
    moment = periods_at(tz, billing_day, now_ms)
    assert moment.day_start_ms <= now_ms < moment.day_end_ms
    assert moment.month_start_ms <= moment.day_start_ms
    assert moment.day_end_ms <= moment.month_end_ms
    assert periods_at(tz, billing_day, moment.day_end_ms).day > moment.day
    assert periods_at(tz, billing_day, moment.month_end_ms).month > moment.month


def test_clocks_set_back_over_midnight_do_not_bring_the_old_day_back() -> None:
    # St. John's, 2010: at 00:01 on the 7th clocks went back to 23:01 on the 6th.
    begin_ms = periods_at(
        "America/St_Johns",
        1,
        ms_of("2010-11-07T12:00", "America/St_Johns"),
    ).day_start_ms
    days = [
        periods_at("America/St_Johns", 1, begin_ms + minute * 60_000).day for minute in range(90)
    ]
    assert set(days) == {"2010-11-07"}


@pytest.mark.parametrize("now_ms", [-(10**18), -1, 10**15, 10**30])
def test_absurd_clocks_do_not_crash(now_ms: int) -> None:
    moment = periods_at("America/New_York", 31, now_ms)
    assert moment.day_start_ms < moment.day_end_ms


def test_the_cache_is_of_the_moment_not_of_its_quarter_hour() -> None:
    midnight_ms = int(datetime(1900, 1, 2, tzinfo=UTC).timestamp() * 1000)
    assert midnight_ms < 0, "before 1970 reads as 1970"
    # Liberia was 44 minutes and 30 seconds behind until 1972: midnight falls inside a quarter of an
    # hour.
    midnight_there_ms = (44 * 60 + 30) * 1000
    before = periods_at("Africa/Monrovia", 1, midnight_there_ms - 1)
    after = periods_at("Africa/Monrovia", 1, midnight_there_ms)
    assert before.day == "1969-12-31"
    assert after.day == "1970-01-01"
