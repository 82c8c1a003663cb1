"""Days in the operator's time zone and months from Clay's billing day, in epoch ms."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

_LAST_MS = 253_370_764_800_000  # 9999-01-01: a clock beyond it, or before 1970, is read as that limit
_CACHE_MS = 900_000


class Periods(NamedTuple):
    """The day and billing month of a moment. A month is named by the calendar month in which it begins."""

    day: str
    day_start_ms: int
    day_end_ms: int
    month: str
    month_start_ms: int
    month_end_ms: int


def at(tz: str, billing_day: int, now_ms: int) -> Periods:
    """Return the periods that contain `now_ms`. A billing day after the end of a month falls on its last day."""
    periods = _of_quarter_hour(tz, billing_day, now_ms // _CACHE_MS)
    if now_ms < periods.day_end_ms:
        return periods
    # The day turned inside this quarter of an hour.
    return _of_date(tz, billing_day, _date_at(tz, now_ms))


@lru_cache(maxsize=256)
def _of_quarter_hour(tz: str, billing_day: int, quarter_hour: int) -> Periods:
    return _of_date(tz, billing_day, _date_at(tz, quarter_hour * _CACHE_MS))


@lru_cache(maxsize=256)
def _of_date(tz: str, billing_day: int, day: date) -> Periods:
    tomorrow = day + timedelta(days=1)
    begin = _billing_start(day.year, day.month, billing_day)
    if day < begin:
        last_of_previous = day.replace(day=1) - timedelta(days=1)
        begin = _billing_start(last_of_previous.year, last_of_previous.month, billing_day)
    first_of_next = begin.replace(day=1) + timedelta(days=32)
    end = _billing_start(first_of_next.year, first_of_next.month, billing_day)
    return Periods(
        day.isoformat(),
        _start_ms(tz, day),
        _start_ms(tz, tomorrow),
        begin.isoformat()[:7],
        _start_ms(tz, begin),
        _start_ms(tz, end),
    )


def _date_at(tz: str, now_ms: int) -> date:
    """Return the local date. If clocks are set back over midnight, the new day begins the first time."""
    now_ms = min(max(now_ms, 0), _LAST_MS)
    day = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(ZoneInfo(tz)).date()
    while now_ms >= _start_ms(tz, day + timedelta(days=1)):
        day += timedelta(days=1)
    return day


def _start_ms(tz: str, day: date) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(tz)).timestamp() * 1000)


def _billing_start(year: int, month: int, billing_day: int) -> date:
    first = date(year, month, 1)
    length = ((first + timedelta(days=32)).replace(day=1) - first).days
    return first.replace(day=min(billing_day, length))
