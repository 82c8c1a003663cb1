"""docs/break-it.md: each fault of the simulated Clay does to a lead and to its lane what the page
says.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.dev.simulator.script import FAULTS, LISTENER, ROUTINE, Fault
from stream_app.domain.model.messages import StatusEvent
from tests.e2e.loop import CONFIG, TABLE, Loop

pytestmark = pytest.mark.timeout(400)

PAGE: Final = (Path(__file__).parents[2] / "docs" / "break-it.md").read_text(encoding="utf-8")
ROWS: Final = {
    kind: (re.findall(r"`([^`]+)`", lead), re.findall(r"`([^`]+)`", lane))
    for kind, lead, lane in re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$",
        PAGE,
        re.MULTILINE,
    )
}
"""What becomes of a lead, and what holds its lane then, by fault."""
KINDS: Final = sorted(FAULTS.keys() - LISTENER.keys())
LASTING: Final = ("rate_limited", "refuse")
"""These fail a lead again and again, so that the breaker of its lane opens sooner or later."""
_BEFORE: Final = ("received", "sending")
_RESTS_S: Final = 15.0
"""A lead without an event for so long rests: its callback is overdue after 7 s, and it is parked
after 13.
"""
_MAX_WAIT_S: Final = 60.0
"""A lead whose lane is held never rests: it looks again and again."""


def trail(history: list[StatusEvent]) -> list[str]:
    """What became of a lead after it was sent.

    A POST for which this machine was too busy to start it in time met no fault: Clay saw nothing of
    it, and the lead is sent again.
    """
    return [
        event.status
        for event in history
        if event.status not in _BEFORE and event.reason != "started_too_late"
    ]


def trails(line: Loop, leads: Mapping[str, str]) -> dict[str, list[str]]:
    """What became of each lead, by its fault. `leads` has the faults by lead id."""
    inputs = f"{line.settings.names.leads}/"
    of_leads = [
        history for origin, history in list(line.histories.items()) if origin.startswith(inputs)
    ]
    return {leads[history[0].lead_id]: trail(history) for history in of_leads}


def test_the_page_has_each_fault() -> None:
    assert ROWS.keys() == FAULTS.keys()
    for fault in re.findall(r"control/faults\" -d '(\{.+\})'", PAGE):
        assert msgspec.json.decode(fault, type=Fault).for_s == 30


@pytest.mark.slow
async def test_each_fault_does_what_the_page_says(kafka: Broker, namespace: str) -> None:
    """Each lane has a fault of its own. `refuse` closes the whole Clay, so it comes last."""
    order = [*KINDS, "refuse"]
    lane_of = {kind: f"w{number}" for number, kind in enumerate(order)}
    async with Loop(
        kafka.bootstrap,
        namespace,
        len(FAULTS),
        callbacks=True,
        config=CONFIG.replace("[delivery]", "[delivery]\nmax_attempts = 1"),
        script=TABLE,
        workspace="callback_health = { overdue = 300 }",
        destination="callback_deadline_s = 7\ncallback_grace_s = 6\nestimate_credits = 9",
        routines=[lane_of[kind] for kind in ROUTINE],
        notified=[lane_of[kind] for kind in ROUTINE],
    ) as line:
        late = {"callbacks_late": {"delay_s": 9}, "slow": {"delay_s": 1}}
        for kind in KINDS:
            fault = {"kind": kind, "workspace": lane_of[kind], **late.get(kind, {})}
            line.control("POST", "/control/faults", fault)
        await line.ready(line.start("worker"), line.start("replay"), line.start("gateway"))
        leads = {f"lead-{number}": kind for number, kind in enumerate(order)}
        await line.publish([line.lead(number, lane_of[kind]) for number, kind in enumerate(KINDS)])
        await rested(line, leads, KINDS)
        line.control("POST", "/control/faults", {"kind": "refuse"})
        await line.publish([line.lead(len(KINDS), lane_of["refuse"])])
        await rested(line, leads, order)
        _, answer = await line.ask("lanes")
    became = trails(line, leads)
    views = [lane["view"] for lane in answer["facts"]["lanes"] if lane["view"]]
    holds = {view["workspace"]: view.get("holds", "") for view in views}
    for kind, (steps, held) in ROWS.items():
        assert became[kind][: len(steps)] == steps, kind
        if kind not in LASTING:
            assert [holds[lane_of[kind]]] == (held or [""]), kind


async def rested(line: Loop, leads: Mapping[str, str], kinds: Sequence[str]) -> None:
    """Wait until the leads of these faults have come as far as the page says, and rest."""

    def events() -> int:
        return sum(map(len, list(line.histories.values())))

    def are_there() -> bool:
        became = trails(line, leads)
        return all(len(became.get(kind, ())) >= len(ROWS[kind][0]) for kind in kinds)

    await line.until(are_there, 60, "each lead has as many steps as the page has")
    began_s = time.monotonic()
    seen = 0
    while events() > seen and time.monotonic() - began_s < _MAX_WAIT_S:
        seen = events()
        since_s = time.monotonic()
        while events() == seen and time.monotonic() - since_s < _RESTS_S:  # noqa: ASYNC110 - the silence counts
            await asyncio.sleep(0.2)
