"""A pipeline whose destinations are routines, and what its ledger says of runs, questions and
notifications.
"""

from collections import Counter
from typing import Any, Final

import msgspec

from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.delivery.state_machine import lead_of as lead_of_row
from tests.e2e.fleet import Run
from tests.e2e.loop import CONFIG, Loop

TABLE: Final = """
# The rows of a run take around a second, of which pipeline.FAST_SIM's scale leaves a thousandth.
median_s = 800
p95_s = 2_000
"""
REPORTS: Final = 'cost_output = "credits"'
"""A routine whose author made an output with what an item cost."""
_row: Final = msgspec.json.Decoder(Delivery)


class RoutineLine(Loop):
    """A fleet whose leads are run by routines."""

    def __init__(self, *args: Any, **options: Any) -> None:
        settings: dict[str, Any] = {"config": CONFIG, "script": TABLE, "routine": REPORTS}
        super().__init__(*args, **(settings | options))

    def runs(self) -> dict[str, str]:
        """Return the lead of each run that Clay made."""
        made = [request for request in self.requests() if isinstance(request, Run)]
        return {run.run_id: run.lead_id or "" for run in made if run.run_id}

    def polls(self, status: int | str | None = None) -> Counter[str]:
        """Return how often the results of each lead were asked for, and answered so."""
        lead_of_run = self.runs()
        return Counter(
            lead_of_run[line["run_id"]]
            for line in self.ledger()
            if line["kind"] == "poll"
            and line["endpoint"] == "results"
            and line.get("run_id") in lead_of_run
            and status in (None, line["status"])
        )

    def told(self) -> Counter[str]:
        """Return how often the end of each lead's run was announced, by Clay's own count."""
        lead_of_run = self.runs()
        return Counter(
            lead_of_run[line["run_id"]]
            for line in self.ledger()
            if line["kind"] == "notify" and line["status"] == 200
        )

    def most_a_minute(self, workspace: str) -> int:
        """Return the most requests to the Public API in any minute, as the simulator counts."""
        state = self.control("GET", "/control")
        return int(state["workspaces"][workspace]["api_most_a_minute"])

    async def rows(self) -> dict[str, Delivery]:
        """Return the last committed row of each lead."""
        rows: dict[str, Delivery] = {}
        for record in await self.read(self.settings.names.state):
            if record.key.startswith(b"d/") and record.value:
                rows[lead_of_row(record.key)[2]] = _row.decode(record.value)
        return rows

    async def check_account(self, *, again: frozenset[str] = frozenset()) -> None:
        """Compare Clay's ledger with histories and rows: nothing lost, and nothing run twice.

        again: leads that a person has sent again.
        """
        self.check_histories()
        lead_of_run = self.runs()
        runs_of = Counter(lead_of_run.values())
        ended = {event.lead_id for event in self.ended().values()}
        assert not set(lead_of_run.values()) - ended, "every run's lead has ended"
        twice = {lead for lead, count in runs_of.items() if count > 1}
        assert twice <= again, {lead: self.describe(lead) for lead in twice}
        assert self.posted_again().keys() <= again
        rows = await self.rows()
        for lead, row in rows.items():
            assert not row.run or lead_of_run[row.run] == lead, (lead, row.run, lead_of_run)
        answered = {
            lead for run, lead in lead_of_run.items() if run in {row.run for row in rows.values()}
        }
        unknown = runs_of.keys() - answered - self.uncertain()
        assert not unknown, {lead: self.describe(lead) for lead in unknown}

    def uncertain(self) -> set[str]:
        """Return the leads whose POST was uncertain at some time."""
        return {
            event.lead_id
            for history in list(self.histories.values())
            for event in history
            if event.status == "send_uncertain"
        }
