"""The money in the books: compares what lanes reserved and spent with rows and events.

A reservation belongs to the day and month of its POST, and its cost is booked there too
(domain/limits/budget.py).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from stream_app.domain.books.records import StatusTotals
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import (
    NO_COST,
    BudgetPolicy,
    Cost,
    Period,
    Reservation,
    periods_at,
)
from stream_app.domain.model.messages import Meter
from stream_app.domain.model.text import count

Sums = dict[str, list[int]]
"""Day ("2026-11-24") or month ("2026-11") -> [credits, actions]. The two keys differ in length."""


class LaneAccount(msgspec.Struct, frozen=True):
    """The money of a lane in one day or month, as its row, its leads' rows and its events have it.

    Attributes:
        reserved: What the lane's row has reserved.
        reserved_by_rows: What the rows of its leads have reserved.
        spent: What the lane's row has spent.
        spent_by_events: What the events of its leads have spent. None if it cannot be known: the
            lane was changing, events of that time were deleted, or the workspace is not in the
            configuration.
        unknown: The part of `spent` that was booked at the ceiling because Clay reported no cost.
        elsewhere: What operators booked manually: spent elsewhere, or (below 0) returned by Clay.
        estimated: The part of `spent` that is the estimate of a destination, because Clay's answer
            did not say what its lead cost. Of the events that there still are, without `unknown`.
    """

    workspace: str
    period: str
    meter: Meter
    reserved: int
    reserved_by_rows: int
    spent: int
    spent_by_events: int | None
    unknown: int = 0
    elsewhere: int = 0
    estimated: int = 0


class OpenCost(msgspec.Struct, frozen=True):
    """An unconfirmed cost of a lead.

    Neither Clay nor an operator has confirmed what was booked for one of its POSTs.
    """

    workspace: str
    destination: str
    lead_id: str
    booked: Reservation


class Accounts:
    """Sums what events and rows say about money."""

    def __init__(self, workspaces: Mapping[str, BudgetPolicy]) -> None:
        self._workspaces = workspaces
        self._spent: defaultdict[str, Sums] = defaultdict(dict)
        self._estimated: defaultdict[str, Sums] = defaultdict(dict)

    def book(self, workspace: str, spent: Reservation, estimated: Cost = NO_COST) -> None:
        """Add what an event booked with its step.

        `estimated`: by how much that changed what is booked without anyone having said it.
        """
        _add(self._spent[workspace], spent)
        if estimated != NO_COST:
            guess = msgspec.structs.replace(
                spent,
                credits=estimated.credits,
                actions=estimated.actions,
            )
            _add(self._estimated[workspace], guess)

    def lanes(
        self,
        lanes: Iterable[Lane],
        reservations: Iterable[tuple[str, Reservation]],
        open_costs: Iterable[OpenCost],
        known_from_ms: int | None,
        problem: Callable[[str, str], None],
    ) -> list[LaneAccount]:
        """Compare the lanes of a partition with the reservations in its rows and with its events.

        Args:
            lanes: The rows of the lanes.
            reservations: Workspace and reservation of each row.
            open_costs: The unconfirmed costs of all rows.
            known_from_ms: Events are complete since then (0: from the beginning), epoch ms; None:
                events and rows are not of the same moment.
            problem: Called with a workspace and what is wrong.
        """
        reserved: defaultdict[str, Sums] = defaultdict(dict)
        for workspace, held in reservations:
            _add(reserved[workspace], held)
        unknown: defaultdict[str, Sums] = defaultdict(dict)
        for lead in open_costs:
            _add(unknown[lead.workspace], lead.booked)
        accounts: list[LaneAccount] = []
        for lane in lanes:
            by_rows = reserved.pop(lane.workspace, {})
            for period in (*lane.budget.days, *lane.budget.months):
                by_events = self._spent_by_events(lane.workspace, period, known_from_ms)
                unconfirmed = unknown[lane.workspace].get(period.id, [0, 0])
                accounts += _both_meters(
                    lane.workspace,
                    period,
                    by_rows.pop(period.id, [0, 0]),
                    by_events,
                    unconfirmed,
                    self._estimated[lane.workspace].get(period.id, [0, 0]),
                )
            for period_id, (credits_, _) in by_rows.items():
                problem(
                    lane.workspace,
                    f"rows reserve {count(credits_, 'credit')} in {period_id}, which the lane does "
                    "not have",
                )
        for workspace in reserved:
            problem(workspace, "rows hold reservations, but the lane has no row")
        for account in accounts:
            if account.reserved != account.reserved_by_rows:
                what = (
                    f"the lane has {account.reserved} {account.meter} reserved in {account.period}"
                )
                problem(account.workspace, f"{what}, its rows {account.reserved_by_rows}")
            if account.spent_by_events not in (None, account.spent):
                what = f"the lane has {account.spent} {account.meter} spent in {account.period}"
                problem(account.workspace, f"{what}, its leads' events {account.spent_by_events}")
        return accounts

    def _spent_by_events(
        self,
        workspace: str,
        period: Period,
        known_from_ms: int | None,
    ) -> list[int] | None:
        policy = self._workspaces.get(workspace)
        if policy is None or known_from_ms is None:
            return None
        first = periods_at(policy.tz, policy.billing_day, known_from_ms)
        if known_from_ms and period.id <= (first.day if len(period.id) > _MONTH else first.month):
            return None
        return self._spent[workspace].get(period.id, [0, 0])


_MONTH: Final = len("2026-11")


def _add(sums: Sums, amount: Reservation) -> None:
    for period_id in (amount.day, amount.month):
        both = sums.setdefault(period_id, [0, 0])
        both[0] += amount.credits
        both[1] += amount.actions


def _both_meters(
    workspace: str,
    now: Period,
    by_rows: list[int],
    by_events: list[int] | None,
    unconfirmed: list[int],
    estimated: list[int],
) -> list[LaneAccount]:
    events = by_events or (None, None)
    meters: tuple[tuple[Meter, int, int, int], ...] = (
        ("credits", now.credits_reserved, now.credits_spent, now.credits_elsewhere),
        ("actions", now.actions_reserved, now.actions_spent, now.actions_elsewhere),
    )
    return [
        LaneAccount(
            workspace,
            now.id,
            meter,
            reserved,
            by_rows[n],
            spent,
            events[n],
            unconfirmed[n],
            elsewhere,
            # Retention may have deleted the event that booked what is not known.
            max(0, estimated[n] - unconfirmed[n]),
        )
        for n, (meter, reserved, spent, elsewhere) in enumerate(meters)
    ]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that does not add up.

    `where`: the record's id, or the lane's workspace; `lead_id`: if known.
    """

    where: str
    what: str
    lead_id: str = ""


class BooksReport(msgspec.Struct):
    """The closed books.

    Attributes:
        balanced: True if everything adds up.
        records: Input records on the lead topics.
        leads: The leads that they are of: each lead is in one column, with its status of now.
        accounted: The sum of all columns. It equals `records` if nothing is missing.
        statuses: The same by last status.
        copies: Records that returned to a lead topic or are on their way to it.
        outlived: Records that retention has deleted. Their histories are checked, but not counted.
        moving: Histories that could not be compared with their rows because they were changing.
        accounts: The money of each lane.
        not_leads: Erasures, corrections and callbacks that settled no lead, by status. No column
            counts them.
        saved: Estimated credits saved by earlier results, by workspace.
        provisional: Leads that were answered locally while their lane was held, and continue.
        open_costs: The first unconfirmed costs, each of one POST, booked at its ceiling. A lead
            that was sent again has one for each POST whose cost nobody has said.
        possible_doubles: How often a lead that may have reached Clay was sent again, by workspace.
        without_value: Records without a value on the topics to which producers write. They are no
            leads and get no dead letter, so that `records` does not count them.
        batches: Of `records`, those that stand for a batch that is too large once it is
            decompressed.
        in_batches: How many records those batches have.
    """

    balanced: bool = False
    records: int = 0
    leads: int = 0
    accounted: int = 0
    columns: dict[str, StatusTotals] = {}
    statuses: dict[str, StatusTotals] = {}
    copies: int = 0
    events: int = 0
    outlived: int = 0
    moving: int = 0
    accounts: list[LaneAccount] = []
    problems: list[Problem] = []
    problem_count: int = 0
    not_leads: dict[str, int] = {}
    saved: dict[str, int] = {}
    provisional: int = 0
    open_costs: list[OpenCost] = []
    open_cost_count: int = 0
    possible_doubles: dict[str, int] = {}
    without_value: int = 0
    batches: int = 0
    in_batches: int = 0
