"""Running totals of the ledger, for `/ledger/summary`, without reading the file again.

Memory is one small entry per lead and a few numbers per workspace.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Literal, NamedTuple

import msgspec

from stream_app.dev.simulator import lines

Leads = Literal["all", "repeated", "none"]


class LeadCount(NamedTuple):
    """Requests and accepted rows of one lead."""

    requests: int = 0
    accepted: int = 0


# Leads with the same counts share one tuple, so that a million leads cost only their keys.
_shared = cache(LeadCount)


class WorkspaceTotals(msgspec.Struct):
    """Totals of one workspace. `requests`, `rows` and `callbacks` are counted by status or state."""

    requests: Counter[str] = msgspec.field(default_factory=Counter)
    accepted: int = 0
    rows: Counter[str] = msgspec.field(default_factory=Counter)
    callbacks: Counter[str] = msgspec.field(default_factory=Counter)
    credits_charged: int = 0
    credits_refunded: int = 0
    actions_charged: int = 0


class Tally:
    """Totals since the start or the last reset."""

    def __init__(self) -> None:
        self._leads: dict[str, LeadCount] = {}
        self._workspaces: dict[str, WorkspaceTotals] = {}

    def requests_of(self, lead: str) -> int:
        """Return the number of requests that named this lead, whatever the response."""
        return self._leads.get(lead, _shared()).requests

    def accepted_of(self, lead: str) -> int:
        """Return the number of rows of this lead."""
        return self._leads.get(lead, _shared()).accepted

    def add(self, line: lines.Line) -> None:
        if line.workspace is None:
            return
        totals = self._workspaces.get(line.workspace)
        if totals is None:
            totals = self._workspaces[line.workspace] = WorkspaceTotals()
        match line:
            case lines.Request():
                self._add_request(line, totals)
            case lines.Refund():
                totals.credits_refunded += line.credits
            case lines.Charge():
                totals.credits_charged += line.credits
                totals.actions_charged += line.actions
            case lines.Row():
                totals.rows[line.state] += 1
            case lines.Callback():
                totals.callbacks[str(line.status)] += 1

    def _add_request(self, line: lines.Request, totals: WorkspaceTotals) -> None:
        totals.requests[str(line.status)] += 1
        totals.accepted += line.accepted
        leads = [line.lead_id] if line.elements is None else [lead for lead, _ in line.elements]
        for n, lead in enumerate(leads):  # a webhook with room for some elements of an array takes the first ones
            if lead is not None:
                count = self._leads.get(lead, _shared())
                self._leads[lead] = _shared(count.requests + 1, count.accepted + (n < line.accepted))

    def summary(self, leads: Leads) -> dict[str, object]:
        """Return the totals as plain data.

        Args:
            leads: Whose accepted rows to list: all, those with more than one, or none.
        """
        least = {"all": 1, "repeated": 2, "none": 1 << 62}[leads]
        workspaces = self._workspaces.values()
        return {
            "requests": sum(totals.requests.total() for totals in workspaces),
            "accepted": sum(totals.accepted for totals in workspaces),
            "by_status": sum((totals.requests for totals in workspaces), Counter()),
            "callbacks": sum((totals.callbacks for totals in workspaces), Counter()),
            "workspaces": self._workspaces,
            "leads_accepted": sum(count.accepted > 0 for count in self._leads.values()),
            "leads_repeated": sum(count.accepted > 1 for count in self._leads.values()),
            "leads": {lead: n.accepted for lead, n in self._leads.items() if n.accepted >= least},
        }
