"""What the books report."""

from __future__ import annotations

import msgspec

from stream_app.domain.books.accounts import LaneAccount, OpenCost
from stream_app.domain.books.columns import StatusCount


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that does not add up. `where`: the record's id, or the lane's workspace; `lead_id`: if known."""

    where: str
    what: str
    lead_id: str = ""


class Report(msgspec.Struct):
    """The closed books.

    Attributes:
        balanced: True if everything adds up.
        records: Input records on the lead topics.
        accounted: The sum of all columns. It equals `records` if nothing is missing.
        statuses: The same by last status.
        copies: Records that returned to a lead topic or are on their way to it.
        outlived: Records that retention has deleted. Their histories are checked, but not counted.
        moving: Histories that could not be compared with their rows because they were changing.
        accounts: The money of each lane.
        not_leads: Erasures, corrections and callbacks that settled no lead, by status. No column counts them.
        saved: Estimated credits saved by earlier results, by workspace.
        provisional: Leads that were answered locally while their lane was held, and continue.
        open_costs: The first leads with an unconfirmed cost, booked at their ceiling.
        possible_doubles: How often a lead that may have reached Clay was resent by policy, by workspace.
    """

    balanced: bool = False
    records: int = 0
    accounted: int = 0
    columns: dict[str, StatusCount] = {}
    statuses: dict[str, StatusCount] = {}
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
