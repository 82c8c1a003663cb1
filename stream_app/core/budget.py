"""The budget: Data Credits and Actions, with caps per day and month; reserve, then settle or refund.

A reservation belongs to the day and the month that it was made in and is settled there, however late.
Earlier windows keep their sums for a while, so a clock that steps back over midnight finds what was spent,
not a fresh budget.
"""

from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from stream_app.core import periods
from stream_app.core.bounds import out_of_order, out_of_range

_KEPT = 2  # the present window and the one before it, in case the clock steps back
_MOST_KEPT = 8  # while older ones have open reservations
_STEP_BACK_MS = 26 * 3_600_000  # how far a clock may plausibly be set back: a longest day and a bit
_ASK_AGAIN_MS = 3_600_000

Reason = Literal["credits_day", "credits_month", "actions_day", "actions_month", "clock"]


class BudgetPolicy(msgspec.Struct, frozen=True):
    """Caps in whole units (None: no limit), in days of `tz` and months that begin on `billing_day`.

    `opening_credits` were spent elsewhere in the month named `opening_month` ("2026-11") and count in it.
    """

    tz: str = "UTC"
    billing_day: int = 1
    credits_per_day: int | None = None
    credits_per_month: int | None = None
    actions_per_day: int | None = None
    actions_per_month: int | None = None
    opening_credits: int = 0
    opening_month: str = ""


class Cost(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data Credits and Actions, whole units (Clay's fractions rounded up by the caller)."""

    credits: int = 0
    actions: int = 0


class Period(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sums of one day ("2026-11-24") or one month ("2026-11")."""

    id: str
    credits_spent: int = 0
    credits_reserved: int = 0
    actions_spent: int = 0
    actions_reserved: int = 0


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest windows in order of time, newest last; `*_folded`: the latest that was forgotten, or ""."""

    days: tuple[Period, ...] = ()
    months: tuple[Period, ...] = ()
    days_folded: str = ""
    months_folded: str = ""


class Reservation(msgspec.Struct, frozen=True):
    """What was reserved for one lead, and in which windows; it lives in the lead's row."""

    day: str
    month: str
    credits: int
    actions: int


class Refused(msgspec.Struct, frozen=True):
    """No room, or a clock that is behind the books ("clock"); `until_ms`: when it is worth asking again."""

    reason: Reason
    until_ms: int


class Settled(msgspec.Struct, frozen=True):
    """The budget after a settlement; `overrun`: it cost more than the destination's ceiling."""

    state: Budget
    overrun: bool


def problems(policy: BudgetPolicy) -> list[str]:
    """What is wrong with the policy, one line a key."""
    caps = ("credits_per_day", "credits_per_month", "actions_per_day", "actions_per_month")
    limited = {cap: (0.0, 1e12) for cap in caps if getattr(policy, cap) is not None}
    found = out_of_range(policy, billing_day=(1, 31), opening_credits=(0, 1e12), **limited)
    try:
        ZoneInfo(policy.tz)
    except (OSError, ValueError, KeyError):
        found.append(f"tz = {policy.tz!r}: no such time zone; use a name like 'Europe/Berlin'")
    for meter in ("credits", "actions"):
        day, month = f"{meter}_per_day", f"{meter}_per_month"
        if day in limited and month in limited:
            found += out_of_order(policy, day, month)
    if policy.opening_credits and not _is_month(policy.opening_month):
        found.append(f"opening_month = {policy.opening_month!r}: the month of opening_credits, like '2026-11'")
    return found


def reserve(
    policy: BudgetPolicy, state: Budget, estimate: Cost, ceiling: Cost, now_ms: int
) -> tuple[Budget, Reservation] | Refused:
    """Reserves `estimate` if spent + reserved + `ceiling` stays within every cap of this day and month.

    Only a reservation of the ceiling itself (`estimate` = `ceiling`) makes a cap hard with many leads under
    way: each one open at a lower estimate may still cost up to its ceiling.
    """
    now = periods.at(policy.tz, policy.billing_day, now_ms)
    day, month = _newest(state.days, now.day), _newest(state.months, now.month)
    if day is None or month is None:
        ahead = periods.at(policy.tz, policy.billing_day, now_ms + _STEP_BACK_MS)
        day = _other(state.days, state.days_folded, now.day, ahead.day)
        month = _other(state.months, state.months_folded, now.month, ahead.month)
    if day is None or month is None:
        return Refused("clock", now_ms + _ASK_AGAIN_MS)
    refused = _refusal(policy, day, month, ceiling, now)
    if refused is not None:
        return refused
    days, days_folded = _put(state.days, state.days_folded, _with_reserved(day, estimate))
    months, months_folded = _put(state.months, state.months_folded, _with_reserved(month, estimate))
    reservation = Reservation(now.day, now.month, estimate.credits, estimate.actions)
    return Budget(days, months, days_folded, months_folded), reservation


def settle(state: Budget, reservation: Reservation, actual: Cost, ceiling: Cost) -> Settled:
    """Turns a reservation into what the lead did cost, in its own windows. Negative costs count as none."""
    cost = Cost(max(0, actual.credits), max(0, actual.actions))
    days = _settled(state.days, reservation.day, reservation, cost)
    months = _settled(state.months, reservation.month, reservation, cost)
    overrun = cost.credits > ceiling.credits or cost.actions > ceiling.actions
    return Settled(Budget(days, months, state.days_folded, state.months_folded), overrun)


def refund(state: Budget, reservation: Reservation) -> Budget:
    """Gives a reservation back: the lead was provably not taken."""
    return settle(state, reservation, Cost(), Cost()).state


def _is_month(text: str) -> bool:
    year, dash, month = text.partition("-")
    return len(text) == 7 and dash == "-" and year.isdigit() and month.isdigit() and 1 <= int(month) <= 12


def _newest(windows: tuple[Period, ...], period_id: str) -> Period | None:
    """The newest window if it is that one, which it nearly always is."""
    return windows[-1] if windows and windows[-1].id == period_id else None


def _other(windows: tuple[Period, ...], folded: str, period_id: str, ahead_id: str) -> Period | None:
    """The window of that id as it was kept, else a new one; None where the clock must have stepped back.

    That is: its sums are forgotten, or it was never used and the newest begins so soon (`ahead_id`) that
    the clock was there a moment ago. A newest that is further off is left from a clock that was ahead, and
    is passed over.
    """
    for window in windows:
        if window.id == period_id:
            return window
    newest = windows[-1].id if windows else ""
    if period_id <= folded or period_id < newest <= ahead_id:
        return None
    return None if len(windows) > _MOST_KEPT and period_id < windows[0].id else Period(period_id)


def _refusal(policy: BudgetPolicy, day: Period, month: Period, ceiling: Cost, now: periods.Periods) -> Refused | None:
    opening = policy.opening_credits if month.id == policy.opening_month else 0
    if _over(policy.credits_per_month, month.credits_spent + opening, month.credits_reserved, ceiling.credits):
        return Refused("credits_month", now.month_end_ms)
    if _over(policy.actions_per_month, month.actions_spent, month.actions_reserved, ceiling.actions):
        return Refused("actions_month", now.month_end_ms)
    if _over(policy.credits_per_day, day.credits_spent, day.credits_reserved, ceiling.credits):
        return Refused("credits_day", now.day_end_ms)
    if _over(policy.actions_per_day, day.actions_spent, day.actions_reserved, ceiling.actions):
        return Refused("actions_day", now.day_end_ms)
    return None


def _over(cap: int | None, spent: int, reserved: int, ceiling: int) -> bool:
    return cap is not None and spent + reserved + ceiling > cap


def _with_reserved(window: Period, estimate: Cost) -> Period:
    return Period(
        window.id,
        window.credits_spent,
        window.credits_reserved + estimate.credits,
        window.actions_spent,
        window.actions_reserved + estimate.actions,
    )


def _put(windows: tuple[Period, ...], folded: str, changed: Period) -> tuple[tuple[Period, ...], str]:
    """The windows with `changed` in its place; what is no longer needed is folded, the oldest first."""
    if windows and windows[-1].id == changed.id:
        return (*windows[:-1], changed), folded
    others = (window for window in windows if window.id != changed.id)
    merged = sorted((changed, *others), key=lambda window: window.id)
    while len(merged) > _KEPT and merged[0] is not changed and (_is_done(merged[0]) or len(merged) > _MOST_KEPT):
        folded = max(folded, merged.pop(0).id)
    return tuple(merged), folded


def _is_done(window: Period) -> bool:
    return not window.credits_reserved and not window.actions_reserved


def _settled(windows: tuple[Period, ...], period_id: str, reservation: Reservation, cost: Cost) -> tuple[Period, ...]:
    """The windows with the reservation settled in its own; one that is folded has no sums to change."""
    return tuple(
        Period(
            window.id,
            window.credits_spent + cost.credits,
            max(0, window.credits_reserved - reservation.credits),
            window.actions_spent + cost.actions,
            max(0, window.actions_reserved - reservation.actions),
        )
        if window.id == period_id
        else window
        for window in windows
    )
