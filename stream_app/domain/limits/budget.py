"""The budget: caps on Data Credits or Actions, for days and for months.

Days are those of the operator, months those of Clay's billing. Reserve, then settle or refund. A
reservation belongs to the day and month in which it was made, and is settled there however late.
Earlier periods keep their sums for a while. So a clock that steps back over midnight finds what was
spent and not a fresh budget.
"""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from math import floor
from typing import Annotated, ClassVar, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from stream_app.domain.model.messages import Meter
from stream_app.domain.model.numbers import Amount, Whole
from stream_app.domain.model.ranges import Policy, Range, exact

# 9999-01-01: a clock beyond it, or before 1970, is read as that limit.
_LAST_MS = 253_370_764_800_000
_CACHE_MS = 900_000
_KEPT = 2  # the present window and the one before it, in case the clock steps back
_MAX_WINDOWS = 8  # while older ones have open reservations
_STEP_BACK_MS = 26 * 3_600_000  # how far a clock may plausibly be set back: a longest day and a bit
_CLOCK_AGAIN_MS = 1_000  # nothing says when a clock is set right
_SLACK_PERCENT = 10  # a soft limit is reported again after refunds took a meter so far below it
_MONTH: Final = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])", re.ASCII)

MeterName = Literal["credits_day", "credits_month", "actions_day", "actions_month"]
BudgetReason = MeterName | Literal["clock"]

METERS: Final[dict[MeterName, str]] = {
    "credits_day": "credits today",
    "credits_month": "credits this month",
    "actions_day": "actions today",
    "actions_month": "actions this month",
}
"""The meters, with their names for a person."""

CAPS: Final = ("credits_per_day", "credits_per_month", "actions_per_day", "actions_per_month")
"""The keys of the policy that limit a meter."""
CREDIT_CAPS: Final = CAPS[:2]


class BudgetPolicy(Policy, frozen=True):
    """The caps of a workspace on credits and Actions, in whole units. None: no cap.

    Days are those of `tz`, and months begin on `billing_day`.

    Attributes:
        tz: The time zone of days.
        billing_day: The day on which a month begins.
        credits_per_day: The most credits of a day.
        credits_per_month: The most credits of a month.
        actions_per_day: The most Actions of a day.
        actions_per_month: The most Actions of a month.
        opening_credits: Credits spent elsewhere in the month `opening_month`.
        opening_actions: Actions spent elsewhere in the month `opening_month`.
        opening_month: The month of the opening balance, such as "2026-11".
        soft_limits: Percentages of a cap. An event reports when one of them is reached.
        hot_share: The share of each cap that bulk leaves to hot leads, 0 to 1.
        shadow: True if the caps only count, and hold no lead. Such caps limit nothing, so they need
            `unlimited`, too.
        unlimited: True if nothing is to limit what is spent. A worker starts only if there is a cap
            or this word.
    """

    ORDERED: ClassVar = (
        ("credits_per_day", "credits_per_month"),
        ("actions_per_day", "actions_per_month"),
    )

    tz: str = "UTC"
    billing_day: Annotated[int, Range(1, 31)] = 1
    credits_per_day: Annotated[int | None, Range(0, 1e12)] = None
    credits_per_month: Annotated[int | None, Range(0, 1e12)] = None
    actions_per_day: Annotated[int | None, Range(0, 1e12)] = None
    actions_per_month: Annotated[int | None, Range(0, 1e12)] = None
    opening_credits: Annotated[int, Range(0, 1e12)] = 0
    opening_actions: Annotated[int, Range(0, 1e12)] = 0
    opening_month: str = ""
    soft_limits: tuple[int, ...] = (50, 80, 95)
    hot_share: Annotated[float, Range(0, 0.9)] = 0.0
    shadow: bool = False
    unlimited: bool = False

    def problems(self) -> list[str]:
        problems = super().problems()
        caps = [f"{name} = {cap}" for name in CAPS if (cap := getattr(self, name)) is not None]
        if self.unlimited and caps and not self.shadow:
            problems.append(
                f"unlimited = true: contradicts {', '.join(caps)}; remove one of the two",
            )
        try:
            ZoneInfo(self.tz)
        except (OSError, ValueError, KeyError):
            problems.append(f"tz = {self.tz!r}: no such time zone; use a name like 'Europe/Berlin'")
        if (self.opening_credits or self.opening_actions) and not _MONTH.fullmatch(
            self.opening_month,
        ):
            problems.append(
                f"opening_month = {self.opening_month!r}: the month of the opening balance, "
                "like '2026-11'",
            )
        limits = self.soft_limits
        if list(limits) != sorted(set(limits)) or not all(0 < limit < 100 for limit in limits):
            problems.append(
                f"soft_limits = {list(limits)}: must be percents from 1 to 99, each above "
                "the one before",
            )
        if self.hot_share and all(getattr(self, cap) is None for cap in CAPS):
            problems.append(
                f"hot_share = {self.hot_share:g}: is a share of a cap, and no cap is set",
            )
        return problems


class Periods(NamedTuple):
    """The day and billing month of a moment.

    A month is named by the calendar month in which it begins.
    """

    day: str
    day_start_ms: int
    day_end_ms: int
    month: str
    month_start_ms: int
    month_end_ms: int


def periods_at(tz: str, billing_day: int, now_ms: int) -> Periods:
    """Return the periods that contain `now_ms`.

    A billing day after the end of a month falls on its last day.
    """
    periods = _of_quarter_hour(tz, billing_day, now_ms // _CACHE_MS)
    if now_ms < periods.day_end_ms:
        return periods
    # A new day began within this quarter of an hour.
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
    """Return the local date.

    If clocks are set back over midnight, the new day begins the first time.
    """
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


class Cost(msgspec.Struct, frozen=True):
    """Data Credits and Actions in whole units. The caller rounds fractions up."""

    credits: int = 0
    actions: int = 0

    def exceeds(self, other: "Cost | Reservation") -> bool:
        """Return True if it is more than the other one in either unit."""
        return self.credits > other.credits or self.actions > other.actions


NO_COST: Final = Cost()


class Period(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sums of one day ("2026-11-24") or one month ("2026-11").

    `*_elsewhere`: corrections by an operator, below 0 for what Clay returned. `*_warned`: the
    highest soft limit that was reported, in percent. `shadowed`: leads that shadow mode admitted
    beyond a cap.
    """

    id: str
    credits_spent: Whole = 0
    credits_reserved: Whole = 0
    actions_spent: Whole = 0
    actions_reserved: Whole = 0
    credits_elsewhere: Whole = 0
    actions_elsewhere: Whole = 0
    credits_warned: Whole = 0
    actions_warned: Whole = 0
    shadowed: Whole = 0


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest periods in the order of time.

    `days_folded` and `months_folded` name the latest period that was dropped, or are "".
    """

    days: tuple[Period, ...] = ()
    months: tuple[Period, ...] = ()
    days_folded: str = ""
    months_folded: str = ""


class Reservation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was reserved for one lead and in which periods. The lead's row holds it.

    Attributes:
        known: An operator or an answer has said that a booked lead cost this.
        estimated: The one meter of which an answer has not said what a booked lead cost, although
            it has said that of the other one; None if it has said both or neither.
    """

    day: str
    month: str
    credits: Amount
    actions: Amount
    known: bool = False
    estimated: Meter | None = None


class BudgetRefused(msgspec.Struct, frozen=True):
    """A refusal, because there is no room or because the clock is behind the books.

    A lead that waits is woken when a reservation in its way is settled.
    """

    reason: BudgetReason  # the meter without room, or "clock"
    until_ms: int  # when to ask again, epoch ms
    # When a deferred lead should return, if that is sooner: only reservations are in its way.
    back_ms: int = 0


def reserve(
    policy: BudgetPolicy,
    state: Budget,
    cost: Cost,
    now_ms: int,
    hot: bool = True,
    settled_ms: int | None = None,
) -> tuple[Budget, Reservation] | BudgetRefused:
    """Reserve a cost if it and everything used stay within every cap of this day and month.

    A cap is hard only if `cost` is the highest that the lead may have. `hot`: it may use the hot
    share. `settled_ms`: when everything that is reserved now will be settled, epoch ms.
    """
    now = periods_at(policy.tz, policy.billing_day, now_ms)
    day = _newest(state.days, now.day)
    month = _newest(state.months, now.month)
    if day is None or month is None:
        ahead = periods_at(policy.tz, policy.billing_day, now_ms + _STEP_BACK_MS)
        day = _other(state.days, state.days_folded, now.day, ahead.day)
        month = _other(state.months, state.months_folded, now.month, ahead.month)
    if day is None or month is None:
        if any(getattr(policy, cap) is not None for cap in CAPS):
            return BudgetRefused("clock", now_ms + _CLOCK_AGAIN_MS)
        # Without a cap it does not matter in which period a lead is booked. The clock was in the
        # newest period a moment ago.
        day = day or state.days[-1]
        month = month or state.months[-1]
    reserved_day = _reserved(policy, day, cost)
    reserved_month = _reserved(policy, month, cost, is_month=True)
    refused = _refusal(policy, reserved_day, reserved_month, now, hot)
    if refused is not None and not policy.shadow:
        if settled_ms is None or settled_ms >= refused.until_ms:
            return refused
        spent = _refusal(policy, _with_only(day, cost), _with_only(month, cost), now, hot)
        return (
            refused if spent is not None else msgspec.structs.replace(refused, back_ms=settled_ms)
        )
    if refused is not None:
        reserved_day = msgspec.structs.replace(reserved_day, shadowed=day.shadowed + 1)
    days, days_folded = _put(state.days, state.days_folded, reserved_day)
    months, months_folded = _put(state.months, state.months_folded, reserved_month)
    return Budget(days, months, days_folded, months_folded), Reservation(
        day.id,
        month.id,
        cost.credits,
        cost.actions,
    )


def correct(
    policy: BudgetPolicy,
    state: Budget,
    cost: Cost,
    now_ms: int,
    day: bool,
) -> Budget | BudgetRefused:
    """Book what was spent elsewhere (or, below 0, returned) in this month.

    It is booked in this day, too, if `day` is True. No period's use falls below 0.

    Returns:
        The budget, or Refused("clock") if the clock is behind the books.
    """
    now = periods_at(policy.tz, policy.billing_day, now_ms)
    ahead = periods_at(policy.tz, policy.billing_day, now_ms + _STEP_BACK_MS)
    present = _other(state.days, state.days_folded, now.day, ahead.day)
    month = _other(state.months, state.months_folded, now.month, ahead.month)
    if present is None or month is None:
        return BudgetRefused("clock", now_ms + _CLOCK_AGAIN_MS)
    days = state.days
    days_folded = state.days_folded
    if day:
        days, days_folded = _put(days, days_folded, _with_elsewhere(present, cost))
    months, months_folded = _put(state.months, state.months_folded, _with_elsewhere(month, cost))
    return reviewed(policy, Budget(days, months, days_folded, months_folded), now_ms)


def reviewed(policy: BudgetPolicy, state: Budget, now_ms: int) -> Budget:
    """Return the budget with soft limits that were reached other than by a reservation."""
    now = periods_at(policy.tz, policy.billing_day, now_ms)
    days = tuple(_reserved(policy, day, Cost()) if day.id == now.day else day for day in state.days)
    months = tuple(
        _reserved(policy, month, Cost(), is_month=True) if month.id == now.month else month
        for month in state.months
    )
    return msgspec.structs.replace(state, days=days, months=months)


def settle(state: Budget, reservation: Reservation, actual: Cost) -> Budget:
    """Turn a reservation into the actual cost, in its own periods. A negative cost counts as 0."""
    return _booked(state, reservation, Cost(max(0, actual.credits), max(0, actual.actions)))


def unbook(state: Budget, booked: Reservation) -> Budget:
    """Remove what was booked for a lead from its periods, because its actual cost is now known."""
    return _booked(
        state,
        Reservation(booked.day, booked.month, 0, 0),
        Cost(-booked.credits, -booked.actions),
    )


@lru_cache(maxsize=1_024)
def bulk_part(cap: int, hot_share: float) -> int:
    """Return the whole units of a cap that a hot share leaves to bulk."""
    return floor(cap * (1 - exact(hot_share)))


def _newest(windows: tuple[Period, ...], period_id: str) -> Period | None:
    """Return the newest period if it has that id, which is the usual case."""
    return windows[-1] if windows and windows[-1].id == period_id else None


def _other(
    windows: tuple[Period, ...],
    folded: str,
    period_id: str,
    ahead_id: str,
) -> Period | None:
    """Return the kept period of that id or a new one; None if the clock must have stepped back.

    It has if the period was dropped, or if the period was never used and the newest begins so soon
    (`ahead_id`) that the clock was there a moment ago. A newest period further ahead comes from a
    clock that was wrong and is ignored.
    """
    for window in windows:
        if window.id == period_id:
            return window
    newest = windows[-1].id if windows else ""
    if period_id <= folded or period_id < newest <= ahead_id:
        return None
    return None if len(windows) > _MAX_WINDOWS and period_id < windows[0].id else Period(period_id)


def _refusal(
    policy: BudgetPolicy,
    day: Period,
    month: Period,
    now: Periods,
    hot: bool,
) -> BudgetRefused | None:
    """Return which cap these periods exceed with the new reservation; None if they exceed none."""
    kept = 0.0 if hot else policy.hot_share
    if (cap := policy.credits_per_month) is not None and _credits(policy, month) > bulk_part(
        cap,
        kept,
    ):
        return BudgetRefused("credits_month", now.month_end_ms)
    if (cap := policy.actions_per_month) is not None and _actions(policy, month) > bulk_part(
        cap,
        kept,
    ):
        return BudgetRefused("actions_month", now.month_end_ms)
    if (cap := policy.credits_per_day) is not None and _credits(policy, day) > bulk_part(cap, kept):
        return BudgetRefused("credits_day", now.day_end_ms)
    if (cap := policy.actions_per_day) is not None and _actions(policy, day) > bulk_part(cap, kept):
        return BudgetRefused("actions_day", now.day_end_ms)
    return None


def _credits(policy: BudgetPolicy, period: Period) -> int:
    """Return the credits that count against a cap."""
    opening = policy.opening_credits if period.id == policy.opening_month else 0
    return period.credits_spent + period.credits_reserved + period.credits_elsewhere + opening


def _actions(policy: BudgetPolicy, period: Period) -> int:
    """Return the Actions that count against a cap."""
    opening = policy.opening_actions if period.id == policy.opening_month else 0
    return period.actions_spent + period.actions_reserved + period.actions_elsewhere + opening


def _reserved(
    policy: BudgetPolicy,
    period: Period,
    cost: Cost,
    *,
    is_month: bool = False,
) -> Period:
    """Return the period with a reservation, and the soft limits that it reaches."""
    credits_cap = policy.credits_per_month if is_month else policy.credits_per_day
    actions_cap = policy.actions_per_month if is_month else policy.actions_per_day
    return msgspec.structs.replace(
        period,
        credits_reserved=period.credits_reserved + cost.credits,
        actions_reserved=period.actions_reserved + cost.actions,
        credits_warned=_level(
            policy,
            period.credits_warned,
            _credits(policy, period) + cost.credits,
            credits_cap,
        ),
        actions_warned=_level(
            policy,
            period.actions_warned,
            _actions(policy, period) + cost.actions,
            actions_cap,
        ),
    )


def _with_only(period: Period, cost: Cost) -> Period:
    """Return the period with no other reservation than this one."""
    return msgspec.structs.replace(
        period,
        credits_reserved=cost.credits,
        actions_reserved=cost.actions,
    )


def _with_elsewhere(period: Period, cost: Cost) -> Period:
    return msgspec.structs.replace(
        period,
        credits_elsewhere=max(-period.credits_spent, period.credits_elsewhere + cost.credits),
        actions_elsewhere=max(-period.actions_spent, period.actions_elsewhere + cost.actions),
    )


def _put(
    windows: tuple[Period, ...],
    folded: str,
    changed: Period,
) -> tuple[tuple[Period, ...], str]:
    """Return the periods with `changed` in its place.

    Periods that are not needed are dropped, the oldest first.
    """
    if windows and windows[-1].id == changed.id:
        return (*windows[:-1], changed), folded
    others = (window for window in windows if window.id != changed.id)
    merged = sorted((changed, *others), key=lambda window: window.id)
    while (
        len(merged) > _KEPT
        and merged[0] is not changed
        and (_is_done(merged[0]) or len(merged) > _MAX_WINDOWS)
    ):
        folded = max(folded, merged.pop(0).id)
    return tuple(merged), folded


def _is_done(window: Period) -> bool:
    return not window.credits_reserved and not window.actions_reserved


def _booked(state: Budget, reservation: Reservation, cost: Cost) -> Budget:
    """Return the budget with a cost in the place of a reservation.

    The cost is booked in the periods of the reservation.
    """
    days = _settled(state.days, reservation.day, reservation, cost)
    months = _settled(state.months, reservation.month, reservation, cost)
    return Budget(days, months, state.days_folded, state.months_folded)


def _settled(
    windows: tuple[Period, ...],
    period_id: str,
    reservation: Reservation,
    cost: Cost,
) -> tuple[Period, ...]:
    """Return the periods with the reservation settled in its own period.

    A dropped period has no sums to change.
    """
    for place, period in enumerate(windows):
        if period.id == period_id:
            after = msgspec.structs.replace(
                period,
                credits_spent=period.credits_spent + cost.credits,
                credits_reserved=max(0, period.credits_reserved - reservation.credits),
                actions_spent=period.actions_spent + cost.actions,
                actions_reserved=max(0, period.actions_reserved - reservation.actions),
            )
            return (*windows[:place], after, *windows[place + 1 :])
    return windows


def _level(policy: BudgetPolicy, warned: int, used: int, cap: int | None) -> int:
    """Return the highest soft limit that counts as reported, until use has fallen well below it."""
    if cap is None:
        return 0
    reached = 0
    hundredfold = used * 100
    for limit in policy.soft_limits:
        if hundredfold < limit * cap:
            break
        reached = limit
    return reached if reached > warned or hundredfold < (warned - _SLACK_PERCENT) * cap else warned
