"""The money of the books: what lanes say they reserved and spent, against what rows and events say.

A reservation is of the day and the month of its POST, so what it came to is booked there too (domain/lane/budget.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import msgspec

from stream_app.domain.lane import calendar as periods
from stream_app.domain.lane.budget import BudgetPolicy, Cost, Period, Reservation
from stream_app.domain.lane.lane import Lane

Sums = dict[str, list[int]]
"""Day ("2026-11-24") or month ("2026-11") -> [credits, actions]. The two cannot be mixed up: their lengths differ."""


class LaneAccount(msgspec.Struct, frozen=True):
    """A lane's money in one day or month: as its row says, and as rows (reserved) and events (spent) add up.

    spent_by_events  None where it cannot be told: the line was moving, the events of that time are not all kept any
                     more, or the workspace is not in the configuration.
    unknown    the part of `spent` that was booked at its ceiling, since Clay did not say what the leads cost.
    elsewhere  what operators booked beside the leads: spent by hand, or (below 0) given back by Clay.
    """

    workspace: str
    period: str
    meter: Literal["credits", "actions"]
    reserved: int
    reserved_by_rows: int
    spent: int
    spent_by_events: int | None
    unknown: int = 0
    elsewhere: int = 0


class OpenCost(msgspec.Struct, frozen=True):
    """A lead whose cost is not known: so much was booked, and neither Clay nor an operator has said otherwise."""

    workspace: str
    destination: str
    lead_id: str
    booked: Reservation


class Accounts:
    """What all events and rows say of money."""

    def __init__(self, workspaces: Mapping[str, BudgetPolicy]) -> None:
        self._workspaces = workspaces
        self._spent: defaultdict[str, Sums] = defaultdict(dict)

    def book(self, workspace: str, spent: Reservation) -> None:
        """What an event says was booked with its step."""
        for period_id in (spent.day, spent.month):
            _add(self._spent[workspace], period_id, Cost(spent.credits, spent.actions))

    def lanes(
        self,
        lanes: Iterable[Lane],
        reservations: Iterable[tuple[str, Reservation]],
        open_costs: Iterable[OpenCost],
        known_from_ms: int | None,
        say: Callable[[str, str], None],
    ) -> list[LaneAccount]:
        """Compare the lanes of a partition with its rows' reservations and its events.

        reservations   (workspace, what a row holds), of all rows there are. open_costs: of all rows, too.
        known_from_ms  events are complete from then on (0: from the beginning); None: they and the rows are not of
                       the same moment.
        say            takes (workspace, what is wrong).
        """
        reserved: defaultdict[str, Sums] = defaultdict(dict)
        for workspace, held in reservations:
            for period_id in (held.day, held.month):
                _add(reserved[workspace], period_id, Cost(held.credits, held.actions))
        unknown: defaultdict[str, Sums] = defaultdict(dict)
        for lead in open_costs:
            for period_id in (lead.booked.day, lead.booked.month):
                _add(unknown[lead.workspace], period_id, Cost(lead.booked.credits, lead.booked.actions))
        accounts: list[LaneAccount] = []
        for lane in lanes:
            by_rows = reserved.pop(lane.workspace, {})
            for period in (*lane.budget.days, *lane.budget.months):
                told = self._told(lane.workspace, period, known_from_ms)
                guessed = unknown[lane.workspace].get(period.id, [0, 0])
                accounts += _both_meters(lane.workspace, period, by_rows.pop(period.id, [0, 0]), told, guessed)
            for period_id, (credits_, _) in by_rows.items():
                say(lane.workspace, f"rows reserve {credits_} credits in {period_id}, of which the lane knows nothing")
        for workspace in reserved:
            say(workspace, "rows hold reservations, but the lane has no row")
        for each in accounts:
            if each.reserved != each.reserved_by_rows:
                what = f"the lane has {each.reserved} {each.meter} reserved in {each.period}"
                say(each.workspace, f"{what}, its rows {each.reserved_by_rows}")
            if each.spent_by_events not in (None, each.spent):
                what = f"the lane has {each.spent} {each.meter} spent in {each.period}"
                say(
                    each.workspace,
                    f"{what}, its leads' events {each.spent_by_events}",
                )
        return accounts

    def _told(self, workspace: str, period: Period, known_from_ms: int | None) -> list[int] | None:
        policy = self._workspaces.get(workspace)
        if policy is None or known_from_ms is None:
            return None
        first = periods.at(policy.tz, policy.billing_day, known_from_ms)
        if known_from_ms and period.id <= (first.day if len(period.id) > _MONTH else first.month):
            return None
        return self._spent[workspace].get(period.id, [0, 0])


_MONTH: Final = len("2026-11")


def _add(sums: Sums, period_id: str, cost: Cost) -> None:
    both = sums.setdefault(period_id, [0, 0])
    both[0] += cost.credits
    both[1] += cost.actions


def _both_meters(
    workspace: str, now: Period, by_rows: list[int], told: list[int] | None, guessed: list[int]
) -> list[LaneAccount]:
    credits_, actions = told or (None, None)
    return [
        LaneAccount(
            workspace,
            now.id,
            "credits",
            now.credits_reserved,
            by_rows[0],
            now.credits_spent,
            credits_,
            guessed[0],
            now.credits_elsewhere,
        ),
        LaneAccount(
            workspace,
            now.id,
            "actions",
            now.actions_reserved,
            by_rows[1],
            now.actions_spent,
            actions,
            guessed[1],
            now.actions_elsewhere,
        ),
    ]
