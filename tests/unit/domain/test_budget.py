"""The budget: against plain sums per window under any order of settlements; its caps, soft limits
and settings.
"""

from collections import defaultdict

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
from stream_app.domain.limits.meters import meters
from tests.support.narrow import of_type
from tests.unit.domain.dates import DAY_MS, HOUR_MS, ms_of

ONE = Cost(6, 1)


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
        self.now_ms = ms_of("2026-10-24T21:30")
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
    now_ms = ms_of("2026-11-24T15:00")
    day_ms = ms_of("2026-11-25T00:00")
    month_ms = ms_of("2026-12-01T00:00")
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
    now_ms = ms_of("2026-11-24T15:00")
    day_ms = ms_of("2026-11-25T00:00")
    month_ms = ms_of("2026-12-01T00:00")
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
    one, first = _reserved(BudgetPolicy(), Budget(), ms_of("2026-11-24T15:00"))
    both, second = _reserved(BudgetPolicy(), one, ms_of("2026-11-24T15:00"), Cost(20, 3))
    settled = budget.settle(budget.settle(both, first, Cost(5, 2)), second, Cost(11, 0))
    taken_back = budget.unbook(settled, Reservation(first.day, first.month, 5, 2))
    assert taken_back == budget.settle(budget.settle(both, first, Cost()), second, Cost(11, 0))


@pytest.mark.parametrize("cost", [ONE, Cost(6, 0), Cost(0, 1)])
def test_days_with_open_reservations_are_kept_for_a_week_and_done_ones_are_not(cost: Cost) -> None:
    state = Budget()
    now_ms = ms_of("2026-11-01T12:00")
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
        answer = budget.reserve(policy, state, ONE, ms_of("2026-11-24T12:00") - step * 40 * DAY_MS)
        if not isinstance(answer, BudgetRefused):
            state, reservation = answer
            granted.append(reservation.day)
    assert len(granted) == 9
    assert [day.id for day in state.days] == sorted(granted)
    assert {day.credits_reserved for day in state.days} == {6}
    state, reservation = _reserved(policy, state, ms_of("2026-11-25T12:00"))
    assert reservation.day == "2026-11-25", "a clock that goes on is not behind"


def test_stepping_back_into_a_day_never_used_or_forgotten_is_refused_until_time_passes() -> None:
    policy = BudgetPolicy(credits_per_day=6)
    now_ms = ms_of("2026-11-25T10:00")
    state, _ = _reserved(policy, Budget(), now_ms)
    back_ms = now_ms - DAY_MS
    assert budget.reserve(policy, state, ONE, back_ms) == BudgetRefused("clock", back_ms + 1_000)
    for day in (1, 2):
        state, reservation = _reserved(policy, state, now_ms + day * DAY_MS)
        state = budget.settle(state, reservation, ONE)
    state = budget.settle(state, Reservation("2026-11-25", "2026-11", 6, 1), ONE)
    state, _ = _reserved(policy, state, now_ms + 3 * DAY_MS)
    assert state.days_folded == "2026-11-26"
    for forgotten_ms in (now_ms, now_ms + DAY_MS):
        assert budget.reserve(policy, state, ONE, forgotten_ms) == BudgetRefused(
            "clock",
            forgotten_ms + 1_000,
        )


def test_without_a_cap_a_clock_behind_holds_nothing_and_the_newest_period_takes_the_lead() -> None:
    policy = BudgetPolicy()
    midnight_ms = ms_of("2026-12-01T00:00")
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
    now_ms = ms_of("2026-11-24T10:00")
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
    now_ms = ms_of("2026-11-24T15:00")
    part = cap * (1000 - tenths_of_a_percent) // 1000

    def is_refused(units: int, hot: bool) -> bool:
        cost = Cost(units) if key.startswith("credits") else Cost(0, units)
        return isinstance(budget.reserve(policy, Budget(), cost, now_ms, hot), BudgetRefused)

    assert [is_refused(units, hot=False) for units in (part, part + 1)] == [False, True]
    assert [is_refused(units, hot=True) for units in (cap, cap + 1)] == [False, True]


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
    now_ms = ms_of("2026-11-24T15:00")
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
    now_ms = ms_of("2026-11-25T00:30")
    ahead, _ = _reserved(policy, Budget(), now_ms)
    assert budget.correct(policy, ahead, Cost(3, 1), now_ms - HOUR_MS, day=True) == BudgetRefused(
        "clock",
        now_ms - HOUR_MS + 1_000,
    )
    only_months = Budget(months=(Period("2026-12"),))
    midnight_ms = ms_of("2026-12-01T00:00")
    assert isinstance(
        budget.correct(policy, only_months, Cost(3, 1), midnight_ms - 1, day=False),
        BudgetRefused,
    )
    wrong, _ = _reserved(policy, Budget(), now_ms + 400 * DAY_MS)
    assert isinstance(
        budget.correct(policy, wrong, Cost(3, 1), now_ms, day=True),
        Budget,
    ), "a clock was far ahead"
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
        budget.reserve(policy, state, Cost(1, 1), ms_of("2026-11-30T12:00", "UTC")),
    )
    for period in reserved[0].days + reserved[0].months:
        assert {"credits": period.credits_warned, "actions": period.actions_warned} == {
            "credits": 0,
            "actions": 0,
        } | {meter: warned}
