"""The provider of a column fails at a real Clay simulator: the fall is told, its destination is
held, and the numbers are those of Clay's own ledger.
"""

import asyncio
import time
from typing import Any, Final

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.loop import CONFIG, TABLE, Loop
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(300)

COLUMN: Final = """
[[table.columns]]
name = "work_email"
credits = 2
values = ["ada@b.example"]
[[table.columns]]
name = "phone"
values = ["1"]
"""
"""A phone number is always there, because a row without a result would send no callback."""
LEADS: Final = 50


async def test_a_provider_that_fails_suspends_its_destination_and_is_counted(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Loop(
        kafka.bootstrap,
        namespace,
        1,
        callbacks=True,
        config=CONFIG,
        script=TABLE + COLUMN,
        destination="yield = ['email']\nyield_suspends = true\nestimate_credits = 3",
    ) as line:
        await line.ready(line.start("worker"), line.start("gateway"), line.start("board"))
        await line.publish([line.lead(number, "w0") for number in range(LEADS)])
        await line.until(lambda: line.answered() == LEADS, 60, "all leads are answered")
        line.control("POST", "/control/faults", {"kind": "provider_fails"})
        more = range(LEADS, 3 * LEADS)
        await line.publish([line.lead(number, "w0") for number in more])
        view = await _until_held(line)
        assert view["text"].startswith("Clay finds email for")
        assert [fall["column"] for fall in view["falls"]] == ["email"]
        await line.until_clay_rests(60)
        await line.publish([line.lead(3 * LEADS, "w0")])
        await line.until(lambda: line.last()["held_paused"] > 0, 60, "the next lead waits")
        row = await _counted(line)
        _, answer = await line.ask("explain")
        codes = [finding["code"] for finding in answer["findings"]]
        rows = [
            entry for entry in line.ledger() if entry["kind"] == "row" and entry["state"] == "done"
        ]
    assert row["answered"] == len(rows)
    assert row["filled"] == sum(entry["found"] == 2 for entry in rows) == LEADS
    assert row["credits"] == sum(line.booked().values())
    assert "yield_fell" in codes


async def _until_held(line: Loop) -> dict[str, Any]:
    """The view of the lane as soon as its yield holds it."""
    ends_s = time.monotonic() + 60 * BUSY
    while time.monotonic() < ends_s:
        _, answer = await line.ask("lanes")
        view: dict[str, Any] = answer["facts"]["lanes"][0]["view"] or {}
        if view.get("holds") == "yield_fell":
            return view
        await asyncio.sleep(0.5)
    raise AssertionError(f"not held: {view}")


async def _counted(line: Loop) -> dict[str, Any]:
    """The counts of the last hour, as soon as the board has all answers that were booked."""
    ends_s = time.monotonic() + 60 * BUSY
    while time.monotonic() < ends_s:
        _, answer = await line.ask("yield")
        rows = answer["yields"]
        answered = sum("credits" in _last(history) for history in line.histories.values())
        if rows and rows[0]["hour"]["answered"] == answered > LEADS:
            counts: dict[str, Any] = rows[0]["hour"]
            return counts
        await asyncio.sleep(0.5)
    raise AssertionError(f"not counted: {rows}")


def _last(history: list[Any]) -> set[str]:
    """What the last event of a history has."""
    event = history[-1]
    return {"credits"} if event.credits is not None else set()
