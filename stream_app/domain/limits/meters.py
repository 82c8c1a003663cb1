"""The budget for display: four meters, when each will be used up, and the mean cost of a lead."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from stream_app.domain.limits.budget import (
    Budget,
    BudgetPolicy,
    Cost,
    MeterName,
    Period,
    periods_at,
)
from stream_app.domain.model.numbers import Real, TimeMs, Whole

_MIN_SHARE = 0.02  # share of the newest lead once many are known: about the last hundred count
_PRIOR = 5  # the configuration's estimate weighs as much as this many leads
_HOUR_MS = 3_600_000  # how much of a day must have passed before its pace says anything
_DAY_MS = 24 * _HOUR_MS  # and how much of a month
# The pace of a day is that of so much time, as the CLI cannot read all views of an hour.
SAMPLED_MS: Final = 900_000
# A shorter time says nothing: one file of leads is sent in it, and no other may follow.
_MIN_SPAN_MS = 600_000
_PARTS = 3  # of the time seen; where one of them booked nothing, the others were a burst
_CREDITS: Final = attrgetter(
    "credits_spent",
    "credits_reserved",
    "credits_elsewhere",
    "credits_warned",
)
_ACTIONS: Final = attrgetter(
    "actions_spent",
    "actions_reserved",
    "actions_elsewhere",
    "actions_warned",
)
_MAX_DAY_MS = 26 * _HOUR_MS


class Meter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One meter in its present day or month.

    Attributes:
        period: The day or month.
        ends_ms: When it ends, epoch ms.
        cap: None: no limit.
        spent: Booked.
        reserved: Reserved for leads that may still cost something.
        elsewhere: The opening balance and corrections.
        warned: The highest soft limit reached, in percent.
        begins_ms: When the day or month began, epoch ms.
    """

    period: str
    ends_ms: TimeMs
    cap: Whole | None = None
    spent: Whole = 0
    reserved: Whole = 0
    elsewhere: Whole = 0
    warned: Whole = 0
    begins_ms: TimeMs = 0

    def at(self, now_ms: int) -> Meter:
        """Return the meter at this time: nothing is used when its day or month has ended."""
        return self if now_ms < self.ends_ms else Meter("", self.ends_ms, self.cap)

    @property
    def used(self) -> int:
        """Everything that counts against the cap."""
        return self.booked + self.reserved

    @property
    def booked(self) -> int:
        """Everything but the reservations."""
        return self.spent + self.elsewhere

    @property
    def left(self) -> int | None:
        """What may still be reserved; None: no limit."""
        return None if self.cap is None else max(0, self.cap - self.used)


class Sample(msgspec.Struct, frozen=True):
    """A meter at a time."""

    at_ms: int
    meter: Meter


class Forecast(msgspec.Struct, frozen=True, omit_defaults=True):
    """The pace of a meter.

    For a day it is the pace of the last minutes; for a month, the mean since the month began.

    Attributes:
        per_hour: Units booked in an hour; of a month, those that are reserved count, too.
        empty_at_ms: When nothing is left, epoch ms; None if the day or month ends first or there is
            no cap.
    """

    per_hour: float
    empty_at_ms: int | None = None


class Estimate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The mean cost of a lead of a destination, in fractions of credits and Actions.

    It was learned from `leads` callbacks. A budget never relies on it: the budget reserves the
    destination's ceiling, so that a cap is hard.
    """

    credits: Real
    actions: Real
    leads: Whole = 0


def meters(policy: BudgetPolicy, state: Budget, now_ms: int) -> dict[MeterName, Meter]:
    """Return the four meters at this time."""
    now = periods_at(policy.tz, policy.billing_day, now_ms)
    day = next((period for period in state.days if period.id == now.day), Period(now.day))
    month = next((period for period in state.months if period.id == now.month), Period(now.month))
    opens = month.id == policy.opening_month
    if opens:
        opening_credits = policy.opening_credits
        opening_actions = policy.opening_actions
    else:
        opening_credits = 0
        opening_actions = 0
    today = (now.day_start_ms, now.day_end_ms)
    this_month = (now.month_start_ms, now.month_end_ms)
    return {
        "credits_day": _meter(_CREDITS, day, today, policy.credits_per_day),
        "actions_day": _meter(_ACTIONS, day, today, policy.actions_per_day),
        "credits_month": _meter(
            _CREDITS,
            month,
            this_month,
            policy.credits_per_month,
            opening_credits,
        ),
        "actions_month": _meter(
            _ACTIONS,
            month,
            this_month,
            policy.actions_per_month,
            opening_actions,
        ),
    }


def forecast(samples: Sequence[Sample], now_ms: int) -> Forecast | None:
    """Return the forecast of one meter.

    It is None if the meter's day or month is too young, or if too little of it was seen. Only the
    pace of the present day or month counts, because another one says nothing about it. No pace is
    known before an hour of the day or a day of the month has passed: the first leads of a morning
    would use up any budget. A burst has no pace either, because what comes after it is not known: a
    day's budget has a forecast only while all of the time seen booked something, or nothing at all.

    Args:
        samples: What was seen of the meter in the last `SAMPLED_MS`, oldest first. Of a month only
            the last one counts.
        now_ms: The present time, epoch ms.
    """
    if not samples or now_ms >= samples[-1].meter.ends_ms:
        return None
    last = samples[-1].meter
    is_day = last.ends_ms - last.begins_ms <= _MAX_DAY_MS
    if now_ms - last.begins_ms < (_HOUR_MS if is_day else _DAY_MS):
        return None
    since_ms = last.begins_ms
    used = last.spent + last.reserved
    if is_day:
        seen = [sample for sample in samples if sample.meter.period == last.period]
        # The board does not know what was reserved.
        since_ms = seen[0].at_ms
        used = last.spent - seen[0].meter.spent
        if used > 0 and _is_burst(seen, now_ms):
            return None
    if now_ms - since_ms < _MIN_SPAN_MS:
        return None
    per_hour = max(0, used) * _HOUR_MS / (now_ms - since_ms)
    left = last.left
    if left is None or not per_hour:
        return Forecast(per_hour, now_ms if left == 0 else None)
    empty_at_ms = now_ms + int(left / per_hour * _HOUR_MS)
    return Forecast(per_hour, empty_at_ms if empty_at_ms < last.ends_ms else None)


def _is_burst(seen: Sequence[Sample], now_ms: int) -> bool:
    """Return True if a part of the time since the first sample booked nothing.

    `seen`: oldest first, one at least.
    """
    since_ms = seen[0].at_ms
    before = seen[0].meter.spent
    for part in range(1, _PARTS + 1):
        until_ms = since_ms + (now_ms - since_ms) * part // _PARTS
        after = max(sample.meter.spent for sample in seen if sample.at_ms <= until_ms)
        if after <= before:
            return True
        before = after
    return False


def first_estimate(configured: Cost) -> Estimate:
    """Return the estimate before anything is known."""
    return Estimate(float(configured.credits), float(configured.actions))


def learn_cost(state: Estimate, actual: Cost, ceiling: Cost) -> Estimate:
    """Return the estimate after one more lead.

    An implausible cost counts as 0 or as the ceiling.
    """
    share = max(_MIN_SHARE, 1 / (state.leads + 1 + _PRIOR))
    credits_more = min(max(0, actual.credits), ceiling.credits) - state.credits
    actions_more = min(max(0, actual.actions), ceiling.actions) - state.actions
    return Estimate(
        state.credits + share * credits_more,
        state.actions + share * actions_more,
        state.leads + 1,
    )


def _meter(
    sums: attrgetter[Any],
    period: Period,
    lasts_ms: tuple[int, int],
    cap: int | None,
    opening: int = 0,
) -> Meter:
    spent, reserved, elsewhere, warned = sums(period)
    begins_ms, ends_ms = lasts_ms
    return Meter(period.id, ends_ms, cap, spent, reserved, elsewhere + opening, warned, begins_ms)
