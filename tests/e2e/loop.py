"""The closed loop of one workspace: a worker, a gateway, and a Clay that calls back."""

import json
from collections import Counter
from typing import Any, Final

from tests.e2e.fleet import Fleet
from tests.e2e.pipeline import ANSWERED, CALLBACK
from tests.support.pace import BUSY

TABLE: Final = (
    """
# The table's rows take around a second, of which pipeline.FAST_SIM's scale leaves a thousandth.
median_s = 800
p95_s = 2_000
"""
    + CALLBACK
    + """
[table.callback.body]
lead_id = "{{lead_id}}"
credits = "{{clay_credits}}"
email = "{{work_email}}"
phone = "{{phone}}"
"""
)
"""A table whose callback has what its row cost."""
CONFIG: Final = f"""
[delivery]
connect_timeout_s = {BUSY}
request_timeout_s = {BUSY + 1}
max_request_start_age_s = 2
uncertain_grace_s = {BUSY + 4}
[replay]
backoff_base_s = 1
backoff_cap_s = 10
tiers_s = [1, 10]
"""


class Loop(Fleet):
    """A fleet whose histories end with Clay's answer."""

    def ended(self) -> dict[str, Any]:
        """Return the last event of each input record that is finished."""
        last = [history[-1] for history in list(self.histories.values())]
        of_leads = [
            event for event in last if event.origin.startswith(f"{self.settings.names.leads}/")
        ]
        return {event.origin: event for event in of_leads if event.status in ANSWERED | {"parked"}}

    def answered(self) -> int:
        return sum(event.status in ANSWERED for event in self.ended().values())

    def charged(self) -> Counter[str]:
        """Return the credits that Clay charged for each lead, less refunds."""
        credits_: Counter[str] = Counter()
        for line in self.ledger():
            if line["kind"] in ("charge", "refund"):
                credits_[self.lead_of(line["lead_id"])] += line.get("credits", 0) * (
                    1 if line["kind"] == "charge" else -1
                )
        return credits_

    def booked(self) -> Counter[str]:
        """Return the credits that the events report for each lead."""
        credits_: Counter[str] = Counter()
        for history in self.histories.values():
            for event in history:
                credits_[event.lead_id] += event.credits or 0
        return credits_

    def ledger(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ledger_file().read_bytes().splitlines()]

    async def until_clay_rests(self, within_s: float) -> None:
        """Wait until no row runs and no callback is due: no further event can come."""

        def rests() -> bool:
            state = self.control("GET", "/control")
            return not state["rows_running"] and not state["callbacks_pending"]

        await self.until(rests, within_s, "Clay has nothing more to say")
