"""The budget: against plain sums per window under any order of settlements; its calendar; and when
it will end.
"""

from collections import defaultdict
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from stream_app.domain.limits import budget
from stream_app.domain.limits.budget import (
    CAPS,
    Budget,
    BudgetPolicy,
    BudgetRefused,
    Cost,
    Period,
    Periods,
    Reservation,
    periods_at,
)
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
from tests.support.narrow import of_type

ONE = Cost(6, 1)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def _ms(text: str, tz: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp() * 1000)


def _reserved(
    policy: BudgetPolicy,
    state: Budget,
    now_ms: int,
    cost: Cost = ONE,
) -> tuple[Budget, Reservation]:
    answer = budget.reserve(policy, state, cost, now_ms)
    assert not isinstance(answer, BudgetRefused), answer
    return answer


class Sums:
    """One window of the model."""

    def __init__(self) -> None:
        self.spent = [0, 0]
        self.reserved = [0, 0]
        self.elsewhere = [0, 0]

    def used(self, meter: int) -> int:
        return self.spent[meter] + self.reserved[meter] + self.elsewhere[meter]


class BudgetMachine(RuleBasedStateMachine):
    """The model keeps every window for ever, which the state does not, and must not be granted
    more.
    """

    policy = BudgetPolicy(
        tz="Europe/Berlin",
        billing_day=31,
        credits_per_day=60,
        credits_per_month=130,
        actions_per_day=12,
        actions_per_month=30,
        opening_credits=20,
        opening_actions=4,
        opening_month="2026-09",
        hot_share=0.25,
    )

    def __init__(self) -> None:
        super().__init__()
        self.state = Budget()
        self.now_ms = _ms("2026-10-24T21:30")
        self.windows: dict[str, Sums] = defaultdict(Sums)
        self.open: list[Reservation] = []

    def _room(self, ceiling: Cost, now: Periods, hot: bool) -> bool:
        share = 1.0 if hot else 0.75
        day = self.windows[now.day]
        month = self.windows[now.month]
        policy = self.policy
        opening = (20, 4) if now.month == "2026-09" else (0, 0)
        return (
            day.used(0) + ceiling.credits <= share * (policy.credits_per_day or 0)
            and day.used(1) + ceiling.actions <= share * (policy.actions_per_day or 0)
            and month.used(0) + opening[0] + ceiling.credits
            <= share * (policy.credits_per_month or 0)
            and month.used(1) + opening[1] + ceiling.actions
            <= share * (policy.actions_per_month or 0)
        )

    @rule(cap=st.sampled_from([0, 25, 60, 90]), shadow=st.sampled_from([False, False, True]))
    def changed_live(self, cap: int, shadow: bool) -> None:
        self.policy = replace(self.policy, credits_per_day=cap, shadow=shadow)

    @rule(credits=st.integers(-30, 30), actions=st.integers(-3, 3), day=st.booleans())
    def spent_elsewhere(self, credits: int, actions: int, day: bool) -> None:
        now = periods_at(self.policy.tz, self.policy.billing_day, self.now_ms)
        corrected = budget.correct(
            self.policy,
            self.state,
            Cost(credits, actions),
            self.now_ms,
            day,
        )
        if isinstance(corrected, BudgetRefused):
            assert corrected.reason == "clock"
            return
        self.state = corrected
        for window in (now.day, now.month) if day else (now.month,):
            sums = self.windows[window]
            for meter, more in enumerate((credits, actions)):
                sums.elsewhere[meter] = max(-sums.spent[meter], sums.elsewhere[meter] + more)

    @rule(step_ms=st.sampled_from([1, HOUR_MS, 6 * HOUR_MS, DAY_MS, 33 * DAY_MS]))
    def time_passes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule(
        step_ms=st.sampled_from(
            [-1, -HOUR_MS, -DAY_MS, -5 * DAY_MS, -34 * DAY_MS, 400 * DAY_MS, -400 * DAY_MS],
        ),
    )
    def clock_steps(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule(credits=st.integers(0, 20), actions=st.integers(0, 3), hot=st.booleans())
    def reserve(self, credits: int, actions: int, hot: bool) -> None:
        cost = Cost(credits, actions)
        now = periods_at(self.policy.tz, self.policy.billing_day, self.now_ms)
        shadowed = sum(window.shadowed for window in self.state.days)
        answer = budget.reserve(self.policy, self.state, cost, self.now_ms, hot)
        if isinstance(answer, BudgetRefused):
            assert self.now_ms < answer.until_ms <= max(now.month_end_ms, self.now_ms + HOUR_MS)
            assert answer.reason == "clock" or not (
                self._room(cost, now, hot) or self.policy.shadow
            )
            return
        beyond = not self._room(cost, now, hot)
        assert self.policy.shadow or not beyond, "granted beyond a cap"
        self.state, reservation = answer
        day = next(window for window in self.state.days if window.id == now.day)
        assert day.shadowed >= beyond
        assert sum(window.shadowed for window in self.state.days) <= shadowed + beyond
        assert reservation == Reservation(now.day, now.month, credits, actions)
        for window in (now.day, now.month):
            self.windows[window].reserved[0] += credits
            self.windows[window].reserved[1] += actions
        self.open.append(reservation)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), credits=st.integers(-3, 30), actions=st.integers(0, 4))
    def settle(self, data: st.DataObject, credits: int, actions: int) -> None:
        reservation = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        cost = Cost(credits, actions)
        assert cost.exceeds(reservation) == (
            credits > reservation.credits or actions > reservation.actions
        )
        self.state = budget.settle(self.state, reservation, cost)
        self._close(reservation, (max(0, credits), actions))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        reservation = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.state = budget.settle(self.state, reservation, Cost())
        self._close(reservation, (0, 0))

    def _close(self, reservation: Reservation, cost: tuple[int, int]) -> None:
        for window in (reservation.day, reservation.month):
            sums = self.windows[window]
            for meter, reserved in enumerate((reservation.credits, reservation.actions)):
                sums.reserved[meter] -= reserved
                sums.spent[meter] += cost[meter]

    @rule()
    def restart(self) -> None:
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=Budget)

    @invariant()
    def what_is_kept_is_exact_and_little(self) -> None:
        for windows, folded in (
            (self.state.days, self.state.days_folded),
            (self.state.months, self.state.months_folded),
        ):
            assert len(windows) <= 9
            assert [window.id for window in windows] == sorted({window.id for window in windows})
            assert all(window.id > folded for window in windows)
            for window in windows:
                model = self.windows[window.id]
                assert [window.credits_spent, window.actions_spent] == model.spent
                assert [window.credits_reserved, window.actions_reserved] == model.reserved
                assert [window.credits_elsewhere, window.actions_elsewhere] == model.elsewhere
                assert {window.credits_warned, window.actions_warned} <= {0, 50, 80, 95}

    @invariant()
    def meters_say_what_the_sums_say(self) -> None:
        now = periods_at(self.policy.tz, self.policy.billing_day, self.now_ms)
        kept = {window.id for window in (*self.state.days, *self.state.months)}
        for name, meter in meters(self.policy, self.state, self.now_ms).items():
            index = name.startswith("actions")
            period = now.day if name.endswith("day") else now.month
            assert meter.period == period
            if period in kept:
                openings = {"credits_month": 20, "actions_month": 4} if period == "2026-09" else {}
                assert meter.used == self.windows[period].used(index) + openings.get(name, 0)


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(stateful_step_count=40)


def test_each_cap_refuses_with_its_own_reason_until_its_window_turns() -> None:
    now_ms = _ms("2026-11-24T15:00")
    day_ms = _ms("2026-11-25T00:00")
    month_ms = _ms("2026-12-01T00:00")
    for policy, refused in (
        (BudgetPolicy(credits_per_day=11), BudgetRefused("credits_day", day_ms)),
        (BudgetPolicy(actions_per_day=1), BudgetRefused("actions_day", day_ms)),
        (
            BudgetPolicy(credits_per_month=11, credits_per_day=11),
            BudgetRefused("credits_month", month_ms),
        ),
        (BudgetPolicy(actions_per_month=1), BudgetRefused("actions_month", month_ms)),
    ):
        state, reservation = _reserved(policy, Budget(), now_ms)
        assert budget.reserve(policy, state, ONE, now_ms) == refused
        _reserved(policy, budget.settle(state, reservation, Cost()), now_ms)
        _reserved(policy, state, refused.until_ms)


def test_where_only_reservations_are_in_the_way_it_is_worth_coming_back_once_they_are_settled() -> (
    None
):
    now_ms = _ms("2026-11-24T15:00")
    day_ms = _ms("2026-11-25T00:00")
    month_ms = _ms("2026-12-01T00:00")
    soon_ms = now_ms + 60_000
    for policy, at_the_end in (
        (BudgetPolicy(credits_per_day=11), BudgetRefused("credits_day", day_ms)),
        (BudgetPolicy(actions_per_month=1), BudgetRefused("actions_month", month_ms)),
    ):
        soon = replace(at_the_end, back_ms=soon_ms)
        state, reservation = _reserved(policy, Budget(), now_ms)
        for settled_ms, refused in (
            (soon_ms, soon),
            (month_ms + 1, at_the_end),
            (None, at_the_end),
        ):
            assert budget.reserve(policy, state, ONE, now_ms, settled_ms=settled_ms) == refused
        spent = budget.settle(state, reservation, ONE)
        assert budget.reserve(policy, spent, ONE, now_ms, settled_ms=soon_ms) == at_the_end


def test_what_was_booked_can_be_taken_back_and_nothing_else_with_it() -> None:
    one, first = _reserved(BudgetPolicy(), Budget(), _ms("2026-11-24T15:00"))
    both, second = _reserved(BudgetPolicy(), one, _ms("2026-11-24T15:00"), Cost(20, 3))
    settled = budget.settle(budget.settle(both, first, Cost(5, 2)), second, Cost(11, 0))
    taken_back = budget.unbook(settled, Reservation(first.day, first.month, 5, 2))
    assert taken_back == budget.settle(budget.settle(both, first, Cost()), second, Cost(11, 0))


@pytest.mark.parametrize("cost", [ONE, Cost(6, 0), Cost(0, 1)])
def test_days_with_open_reservations_are_kept_for_a_week_and_done_ones_are_not(cost: Cost) -> None:
    state = Budget()
    now_ms = _ms("2026-11-01T12:00")
    state, oldest = _reserved(BudgetPolicy(), state, now_ms, cost)
    for day in range(1, 7):
        state, _ = _reserved(BudgetPolicy(), state, now_ms + day * DAY_MS)
    state = budget.settle(state, oldest, Cost(5, 1))
    assert state.days[0].id == "2026-11-01"
    assert state.days[0].credits_spent == 5
    state, _ = _reserved(BudgetPolicy(), state, now_ms + 7 * DAY_MS)
    assert state.days[0].id == "2026-11-02"
    assert state.days_folded == "2026-11-01"


def test_a_clock_that_steps_back_again_and_again_is_refused_before_anything_is_forgotten() -> None:
    policy = BudgetPolicy(credits_per_month=10**6)
    state = Budget()
    granted = []
    for step in range(12):
        answer = budget.reserve(policy, state, ONE, _ms("2026-11-24T12:00") - step * 40 * DAY_MS)
        if not isinstance(answer, BudgetRefused):
            state, reservation = answer
            granted.append(reservation.day)
    assert len(granted) == 9
    assert [day.id for day in state.days] == sorted(granted)
    assert {day.credits_reserved for day in state.days} == {6}


def test_stepping_back_into_a_day_never_used_or_forgotten_is_refused_until_time_passes() -> None:
    policy = BudgetPolicy(credits_per_day=6)
    now_ms = _ms("2026-11-25T10:00")
    state, _ = _reserved(policy, Budget(), now_ms)
    back_ms = now_ms - DAY_MS
    assert budget.reserve(policy, state, ONE, back_ms) == BudgetRefused("clock", back_ms + 1_000)
    for day in (1, 2):
        state, reservation = _reserved(policy, state, now_ms + day * DAY_MS)
        state = budget.settle(state, reservation, ONE)
    state = budget.settle(state, Reservation("2026-11-25", "2026-11", 6, 1), ONE)
    state, _ = _reserved(policy, state, now_ms + 3 * DAY_MS)
    assert state.days_folded == "2026-11-26"
    assert isinstance(budget.reserve(policy, state, ONE, now_ms), BudgetRefused)


def test_without_a_cap_a_clock_behind_holds_nothing_and_the_newest_period_takes_the_lead() -> None:
    policy = BudgetPolicy()
    midnight_ms = _ms("2026-12-01T00:00")
    state, first = _reserved(policy, Budget(), midnight_ms + 1)
    state, second = _reserved(policy, state, midnight_ms - HOUR_MS)
    assert first == second == Reservation("2026-12-01", "2026-12", 6, 1)
    state = budget.settle(budget.settle(state, first, ONE), second, ONE)
    assert [(day.id, day.credits_spent, day.credits_reserved) for day in state.days] == [
        ("2026-12-01", 12, 0),
    ]
    for cap in budget.CAPS:
        assert isinstance(
            budget.reserve(
                msgspec.convert({cap: 100}, BudgetPolicy),
                state,
                ONE,
                midnight_ms - HOUR_MS,
            ),
            BudgetRefused,
        )


def test_a_clock_that_was_years_ahead_for_a_moment_does_not_stop_the_lane() -> None:
    policy = BudgetPolicy(credits_per_day=6)
    now_ms = _ms("2026-11-24T10:00")
    state, reservation = _reserved(policy, Budget(), now_ms)
    state = budget.settle(state, reservation, ONE)
    state, _ = _reserved(policy, state, now_ms + 1_500 * DAY_MS)
    assert isinstance(budget.reserve(policy, state, ONE, now_ms), BudgetRefused)
    for day in range(1, 6):
        state, reservation = _reserved(policy, state, now_ms + day * DAY_MS)
        assert isinstance(budget.reserve(policy, state, ONE, now_ms + day * DAY_MS), BudgetRefused)
        state = budget.settle(state, reservation, ONE)
    assert len(state.days) <= 3


@given(
    cap=st.integers(1, 10**12),
    tenths_of_a_percent=st.integers(0, 900),
    key=st.sampled_from(budget.CAPS),
)
@example(cap=10, tenths_of_a_percent=900, key="credits_per_day")
@example(cap=100, tenths_of_a_percent=410, key="actions_per_month")
def test_hot_share_leaves_bulk_its_part_to_the_last_unit(
    cap: int,
    tenths_of_a_percent: int,
    key: str,
) -> None:
    policy = replace(BudgetPolicy(hot_share=tenths_of_a_percent / 1000), **{key: cap})
    now_ms = _ms("2026-11-24T15:00")
    part = cap * (1000 - tenths_of_a_percent) // 1000

    def is_refused(units: int, hot: bool) -> bool:
        cost = Cost(units) if key.startswith("credits") else Cost(0, units)
        return isinstance(budget.reserve(policy, Budget(), cost, now_ms, hot), BudgetRefused)

    assert [is_refused(units, hot=False) for units in (part, part + 1)] == [False, True]
    assert [is_refused(units, hot=True) for units in (cap, cap + 1)] == [False, True]


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
    [(30, 30, 30), (0, 30, 30), (0, 0, 30), (30, 30, 31), (0, 1, 30), (1, 1, 30)],
)
def test_a_burst_has_no_pace(booked: tuple[int, int, int]) -> None:
    """`booked`: after each third of the time.

    One file was sent, and nothing says that more will come.
    """
    samples = [Sample(NOON_MS - 12 * MINUTE_MS, meter(0))]
    samples += [
        Sample(NOON_MS - (8 - 4 * n) * MINUTE_MS, meter(spent)) for n, spent in enumerate(booked)
    ]
    assert forecast(samples, NOON_MS) is None


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
    shown = meters(BudgetPolicy(tz="Europe/Berlin"), Budget(), _ms(f"{date}T12:00"))
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
    ("month", "is_one"),
    [
        *(
            ("2026-01", True),
            ("2026-12", True),
            ("2026-00", False),
            ("2026-13", False),
            ("2026-1", False),
        ),
        *(
            ("2026-011", False),
            ("2026_01", False),
            ("2026-ab", False),
            ("abcd-01", False),
            ("", False),
        ),
    ],
)
def test_an_opening_balance_needs_its_month(month: str, is_one: bool) -> None:
    for balance in ("opening_credits", "opening_actions"):
        problems = replace(BudgetPolicy(opening_month=month), **{balance: 1}).problems()
        assert [problem.partition(" ")[0] for problem in problems] == (
            [] if is_one else ["opening_month"]
        )
    assert BudgetPolicy(opening_month=month).problems() == [], "nothing to place in a month"


@pytest.mark.parametrize(
    ("warned", "used", "after"),
    [
        *(
            (0, 499, 0),
            (0, 500, 50),
            (0, 799, 50),
            (50, 800, 80),
            (0, 949, 80),
            (80, 950, 95),
            (95, 2_000, 95),
        ),
        *(
            (95, 850, 95),
            (95, 849, 80),
            (80, 700, 80),
            (80, 699, 50),
            (50, 400, 50),
            (50, 399, 0),
            (95, 0, 0),
        ),
    ],
)
@pytest.mark.parametrize("unit", ["credits", "actions"])
@pytest.mark.parametrize("length", ["day", "month"])
def test_a_soft_limit_is_reported_again_once_use_was_ten_percent_below_it(
    length: str,
    unit: str,
    warned: int,
    used: int,
    after: int,
) -> None:
    now_ms = _ms("2026-11-24T15:00")
    period = "2026-11-24" if length == "day" else "2026-11"
    policy = replace(BudgetPolicy(), **{f"{unit}_per_{length}": 1_000})
    before = msgspec.convert(
        {"id": period, f"{unit}_spent": used, f"{unit}_warned": warned},
        Period,
    )
    state = Budget(**{f"{length}s": (before,)})  # type: ignore[arg-type]
    expected = replace(before, **{f"{unit}_warned": after})
    assert getattr(budget.reviewed(policy, state, now_ms), f"{length}s") == (expected,)
    assert getattr(budget.reviewed(policy, state, now_ms + 40 * DAY_MS), f"{length}s") == (
        before,
    ), "it is over"


def test_a_correction_is_refused_where_the_clock_is_behind_a_day_or_a_month() -> None:
    policy = BudgetPolicy()
    now_ms = _ms("2026-11-25T00:30")
    ahead, _ = _reserved(policy, Budget(), now_ms)
    assert budget.correct(policy, ahead, Cost(3, 1), now_ms - HOUR_MS, day=True) == BudgetRefused(
        "clock",
        now_ms - HOUR_MS + 1_000,
    )
    only_months = Budget(months=(Period("2026-12"),))
    midnight_ms = _ms("2026-12-01T00:00")
    assert isinstance(
        budget.correct(policy, only_months, Cost(3, 1), midnight_ms - 1, day=False),
        BudgetRefused,
    )
    for day in (True, False):
        booked = of_type(Budget, budget.correct(policy, ahead, Cost(3, 1), now_ms, day=day))
        assert [(of_day.credits_elsewhere, of_day.actions_elsewhere) for of_day in booked.days] == [
            (3, 1) if day else (0, 0),
        ]
        assert [(month.credits_elsewhere, month.actions_elsewhere) for month in booked.months] == [
            (3, 1),
        ]


@pytest.mark.parametrize(
    ("limits", "right"),
    [
        ((), True),
        ((1, 99), True),
        ((50,), True),
        ((0, 50), False),
        ((-1, 50), False),
        ((50, 100), False),
        ((80, 50), False),
        ((50, 50), False),
    ],
)
def test_soft_limits_rise_from_1_to_99_percent(limits: tuple[int, ...], right: bool) -> None:
    problems = BudgetPolicy(soft_limits=limits).problems()
    assert [problem.partition(" ")[0] for problem in problems] == ([] if right else ["soft_limits"])


@pytest.mark.parametrize("tz", ["Mars/Olympus", "Europe", "../UTC", "/UTC", ""])
def test_a_time_zone_has_a_known_name(tz: str) -> None:
    (problem,) = BudgetPolicy(tz=tz).problems()
    assert problem == f"tz = {tz!r}: no such time zone; use a name like 'Europe/Berlin'"


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
    assert (first.credits, first.actions, first.leads) == pytest.approx((credits_, actions, 1))


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
    day = periods_at(tz, 1, _ms(noon, tz))
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
    now_is = periods_at(tz, billing_day, _ms(now, tz))
    assert now_is.month == month
    assert now_is.month_start_ms == _ms(begin, tz)
    assert now_is.month_end_ms == _ms(end, tz)


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
        _ms("2010-11-07T12:00", "America/St_Johns"),
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


def test_a_hot_share_needs_a_cap_to_be_a_share_of() -> None:
    problems = ["hot_share = 0.25: is a share of a cap, and no cap is set"]
    assert BudgetPolicy(hot_share=0.25).problems() == problems
    assert BudgetPolicy().problems() == []
    for cap in CAPS:
        assert replace(BudgetPolicy(hot_share=0.25), **{cap: 100}).problems() == []


@pytest.mark.parametrize(("spent", "warned"), [(48, 0), (49, 50), (78, 50), (79, 80)])
@pytest.mark.parametrize("meter", ["credits", "actions"])
def test_a_soft_limit_is_reached_by_what_is_used_with_the_next_lead(
    meter: str,
    spent: int,
    warned: int,
) -> None:
    policy = replace(BudgetPolicy(), **{f"{meter}_per_day": 100, f"{meter}_per_month": 200})
    name = f"{meter}_spent"
    state = Budget(
        (Period("2026-11-30", **{name: spent}),),
        (Period("2026-11", **{name: 2 * spent + 1}),),
    )
    reserved = of_type(
        tuple,
        budget.reserve(policy, state, Cost(1, 1), _ms("2026-11-30T12:00", "UTC")),
    )
    for period in reserved[0].days + reserved[0].months:
        assert {"credits": period.credits_warned, "actions": period.actions_warned} == {
            "credits": 0,
            "actions": 0,
        } | {meter: warned}
