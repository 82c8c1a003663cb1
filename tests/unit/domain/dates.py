"""Moments of the tests, by their dates."""

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


def ms_of(text: str, tz: str = "UTC") -> int:
    """The time of a date in a time zone, epoch ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp() * 1000)
