"""The budget for display: four meters, each in its present day or month."""

import msgspec

from stream_app.domain.lane import calendar as periods
from stream_app.domain.lane.budget import Budget, BudgetPolicy, MeterName, Period


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
    """

    period: str
    ends_ms: int
    cap: int | None = None
    spent: int = 0
    reserved: int = 0
    elsewhere: int = 0
    warned: int = 0

    @property
    def used(self) -> int:
        """Everything that counts against the cap."""
        return self.spent + self.reserved + self.elsewhere

    @property
    def left(self) -> int | None:
        """What may still be reserved; None: no limit."""
        return None if self.cap is None else max(0, self.cap - self.used)


def meters(policy: BudgetPolicy, state: Budget, now_ms: int) -> dict[MeterName, Meter]:
    """Return the four meters at this time."""
    now = periods.at(policy.tz, policy.billing_day, now_ms)
    day = next((period for period in state.days if period.id == now.day), Period(now.day))
    month = next((period for period in state.months if period.id == now.month), Period(now.month))
    opens = month.id == policy.opening_month
    found: dict[MeterName, Meter] = {}
    rows: tuple[tuple[MeterName, int | None, Period, int, int], ...] = (
        ("credits_day", policy.credits_per_day, day, now.day_end_ms, 0),
        ("actions_day", policy.actions_per_day, day, now.day_end_ms, 0),
        ("credits_month", policy.credits_per_month, month, now.month_end_ms, policy.opening_credits * opens),
        ("actions_month", policy.actions_per_month, month, now.month_end_ms, policy.opening_actions * opens),
    )
    for name, cap, period, ends_ms, opening in rows:
        sums = (
            (period.credits_spent, period.credits_reserved, period.credits_elsewhere, period.credits_warned)
            if name.startswith("credits")
            else (period.actions_spent, period.actions_reserved, period.actions_elsewhere, period.actions_warned)
        )
        spent, reserved, elsewhere, warned = sums
        found[name] = Meter(period.id, ends_ms, cap, spent, reserved, elsewhere + opening, warned)
    return found
