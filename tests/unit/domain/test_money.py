"""The money of a lane's books: reserved by its rows, spent by its events, in each day and month."""

import pytest

from stream_app.domain.books.money import Accounts, LaneAccount, OpenCost
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Period, Reservation

DAY, MONTH = "2026-11-30", "2026-11"
DAY_MS, NIGHT_MS = 1_796_000_400_000, 1_796_083_200_000  # 2026-11-30T01:00Z, 2026-12-01T00:00Z
LANE = Lane(
    "acme", 0, budget=Budget((Period(DAY, 9, 20, 2, 5, credits_elsewhere=-1),), (Period(MONTH, 9, 20, 2, 5, 0, 3),))
)
HELD, SPENT = Reservation(DAY, MONTH, 20, 5), Reservation(DAY, MONTH, 9, 2)


def closed(
    lanes: list[Lane],
    held: list[tuple[str, Reservation]],
    spent: list[tuple[str, Reservation]],
    known_from_ms: int | None = 0,
) -> tuple[list[LaneAccount], list[tuple[str, str]]]:
    accounts, problems = Accounts({"acme": BudgetPolicy()}), list[tuple[str, str]]()
    for workspace, booked in spent:
        accounts.book(workspace, booked)
    costs = [OpenCost("acme", "people", "crm-1", Reservation(DAY, MONTH, 4, 1))]
    return accounts.lanes(lanes, held, costs, known_from_ms, lambda *text: problems.append(text)), problems


def test_a_lane_is_compared_with_its_rows_and_events_in_each_period_and_meter() -> None:
    accounts_, problems = closed([LANE], [("acme", HELD)], [("acme", SPENT)])
    assert accounts_ == [
        LaneAccount("acme", DAY, "credits", 20, 20, 9, 9, 4, -1),
        LaneAccount("acme", DAY, "actions", 5, 5, 2, 2, 1, 0),
        LaneAccount("acme", MONTH, "credits", 20, 20, 9, 9, 4, 0),
        LaneAccount("acme", MONTH, "actions", 5, 5, 2, 2, 1, 3),
    ]
    assert problems == []
    one_more, problems = closed([LANE, Lane("beta", 1)], [("acme", HELD)] * 2, [("acme", SPENT)] * 2)
    assert [account.reserved_by_rows for account in one_more] == [40, 10, 40, 10]
    assert problems == [
        *((("acme", f"the lane has {held} {meter} reserved in {period}, its rows {held * 2}")) if is_held else
          ("acme", f"the lane has {spent} {meter} spent in {period}, its leads' events {spent * 2}")
          for period in (DAY, MONTH)
          for meter, held, spent in (("credits", 20, 9), ("actions", 5, 2))
          for is_held in (True, False)),
    ]  # fmt: skip


def test_what_is_reserved_where_no_lane_has_it_is_a_problem() -> None:
    other = Reservation("2026-11-29", MONTH, 7, 1)
    _, problems = closed([LANE], [("acme", HELD), ("acme", other), ("beta", HELD)], [("acme", SPENT)])
    assert ("acme", "rows reserve 7 credits in 2026-11-29, which the lane does not have") in problems
    assert ("beta", "rows hold reservations, but the lane has no row") in problems
    assert len(problems) == 4, "and the month has more reserved by rows than by the lane"


@pytest.mark.parametrize(
    ("workspace", "known_from_ms", "day", "month"),
    [
        ("acme", 0, 9, 9),
        ("acme", 1, 9, 9),
        ("acme", DAY_MS - 86_400_000, 9, None),
        ("acme", DAY_MS, None, None),
        ("acme", NIGHT_MS, None, None),
        ("acme", None, None, None),
        ("gone", 0, None, None),
    ],
)
def test_events_say_what_was_spent_only_in_periods_that_they_cover(
    workspace: str, known_from_ms: int | None, day: int | None, month: int | None
) -> None:
    lane = Lane(workspace, 0, budget=LANE.budget)
    accounts_, problems = closed([lane], [(workspace, HELD)], [(workspace, SPENT)], known_from_ms)
    assert [account.spent_by_events for account in accounts_ if account.meter == "credits"] == [day, month]
    assert problems == []
