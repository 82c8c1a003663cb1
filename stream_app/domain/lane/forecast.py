"""Forecasts when a budget is used up, from what a lane published about itself."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stream_app.domain.lane.meters import Meter

_LEAST_MS = 60_000  # a shorter time says nothing: reservations come and go


class Sample(msgspec.Struct, frozen=True):
    """A meter at a time."""

    at_ms: int
    meter: Meter


class Forecast(msgspec.Struct, frozen=True, omit_defaults=True):
    """The present use of a meter.

    Attributes:
        per_hour: Units booked and reserved in an hour.
        empty_at_ms: When nothing is left, epoch ms; None if the day or month ends first or there is no cap.
    """

    per_hour: float
    empty_at_ms: int | None = None


def forecast(samples: Sequence[Sample], now_ms: int) -> Forecast | None:
    """Return the forecast of one meter; None if its present day or month has too few samples.

    Args:
        samples: Oldest first.
        now_ms: The time, epoch ms.
    """
    if not samples or now_ms >= samples[-1].meter.ends_ms:
        return None
    last = samples[-1].meter
    first = next(sample for sample in samples if sample.meter.period == last.period)
    if now_ms - first.at_ms < _LEAST_MS or first is samples[-1]:
        return None
    used = last.spent + last.reserved - first.meter.spent - first.meter.reserved
    per_hour = max(0, used) * 3_600_000 / (now_ms - first.at_ms)
    left = last.left
    if left is None or not per_hour:
        return Forecast(per_hour, now_ms if left == 0 else None)
    empty_at_ms = now_ms + int(left / per_hour * 3_600_000)
    return Forecast(per_hour, empty_at_ms if empty_at_ms < last.ends_ms else None)
