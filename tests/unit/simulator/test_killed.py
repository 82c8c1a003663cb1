"""A simulator that is killed keeps its rows: as at Clay, what was accepted is run, paid for and
reported.
"""

import asyncio
import json
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.kafka import until
from tests.support.raw_server import RawServer
from tests.unit.simulator.conftest import wait_until
from tests.unit.simulator.program import DEADLINE_S, program

LEADS = 40
SCRIPT = """
limits = { rate_per_s = 0 }
[table]
dedupe_on = "email"
[table.latency]
scale = 0.02
[[table.columns]]
name = "title"
credits = 3
values = ["CEO", "CTO"]
[[table.columns]]
name = "phone"
credits = 2
values = ["1", "2"]
error_share = 0.2
[table.callback]
url = "URL"
run_if = "always"
body = { lead_id = "{{lead_id}}", title = "{{title}}", credits = "{{clay_credits}}" }
"""
DONE = ("done", "errors")


class Clay:
    """A simulator as a program that keeps its rows in a folder, and is killed and started there
    again.
    """

    def __init__(self, folder: Path, receiver: RawServer) -> None:
        (folder / "sim.toml").write_text(SCRIPT.replace("URL", receiver.url))
        self.rows = folder / "rows.jsonl"
        self._arguments = ["--port", "0", "--script", str(folder / "sim.toml")]
        self._arguments += ["--ledger", str(folder / "ledger.jsonl"), "--rows", str(self.rows)]
        self._receiver = receiver

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Clay"]:
        """Yield while it runs, then kill it."""
        async with (
            program(*self._arguments) as process,
            aiohttp.ClientSession() as self._session,
        ):
            assert process.stdout is not None
            ready = await asyncio.wait_for(
                process.stdout.readline(),
                DEADLINE_S,
            )
            self._url = json.loads(ready)["url"]
            yield self

    async def post(self, lead: int) -> None:
        body = {
            "lead_id": f"crm-{lead}",
            "email": f"p{lead}@example.com",
            "callback_token": "t0ken",
        }
        async with self._session.post(
            f"{self._url}/v3/sources/webhook/acme--crm",
            json=body,
        ) as answer:
            assert answer.status == 200

    async def get(self, path: str) -> Any:
        async with self._session.get(f"{self._url}{path}") as answer:
            return await answer.json()

    async def control(self, action: str) -> None:
        async with self._session.post(f"{self._url}/control/{action}") as answer:
            assert answer.status == 200

    async def lines(self, kind: str) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._url}/ledger?kind={kind}") as answer:
            return [json.loads(line) for line in (await answer.text()).splitlines()]

    async def settled(self) -> None:
        async def idle() -> bool:
            state = await self.get("/control")
            return not state["rows_running"] and not state["callbacks_pending"]

        await wait_until(idle)

    @property
    def reported(self) -> dict[str, list[dict[str, str]]]:
        """The callbacks that came, by lead."""
        bodies = [json.loads(body) for _, body in self._receiver.requests]
        return {
            body["lead_id"]: [one for one in bodies if one["lead_id"] == body["lead_id"]]
            for body in bodies
        }


async def test_what_was_accepted_before_a_kill_is_run_paid_for_once_and_reported(
    tmp_path: Path,
    receiver: RawServer,
) -> None:
    clay = Clay(tmp_path, receiver)
    async with clay.running():
        for lead in range(LEADS):
            await clay.post(lead)
        await until(lambda: 3 <= len(clay.reported) < LEADS)
        before = await clay.get("/ledger/summary")
    for _ in range(2):  # each is a kill in the middle of what the one before left
        async with clay.running():
            reported = len(clay.reported)
            await until(lambda: len(clay.reported) > min(reported, LEADS - 1))  # noqa: B023 # awaited before the next
    async with clay.running():
        await clay.settled()
        summary = await clay.get("/ledger/summary")
        meters = (await clay.get("/control"))["workspaces"]["acme"]
        rows = await clay.lines("row")
        charges = await clay.lines("charge")
    assert len(clay.reported) == LEADS
    assert before["accepted"] == summary["accepted"] == summary["leads_accepted"] == LEADS
    assert Counter(row["lead_id"] for row in rows) == Counter(
        f"crm-{lead}" for lead in range(LEADS)
    )
    assert {row["state"] for row in rows} == set(DONE), "some columns failed"
    assert sorted(row["row"] for row in rows) == list(range(1, LEADS + 1))
    paid = Counter(
        (charge["lead_id"], charge["column"]) for charge in charges if charge["column"] == "title"
    )
    assert set(paid.values()) == {1}, (
        "a column that was paid for before the kill is not paid for again"
    )
    totals = summary["workspaces"]["acme"]
    assert meters["credits"] == 6_000 - totals["credits_charged"] + totals["credits_refunded"]
    for name, callbacks in clay.reported.items():
        assert len({json.dumps(callback) for callback in callbacks}) == 1, (
            f"{name}: it draws the same again"
        )
        assert callbacks[0]["title"] in ("CEO", "CTO")
        assert callbacks[0]["credits"] in ("3", "5")


async def test_numbers_duplicates_and_a_reset_outlive_a_kill(
    tmp_path: Path,
    receiver: RawServer,
) -> None:
    clay = Clay(tmp_path, receiver)
    async with clay.running():
        await clay.post(1)
        await clay.settled()
    assert stat.S_IMODE(clay.rows.stat().st_mode) == 0o600, "it holds what leads say"
    with clay.rows.open("ab") as torn:
        # the kill came while it was written: it was never answered
        torn.write(b'{"number": 2, "webh')
    async with clay.running():
        await clay.post(1)
        await clay.post(2)
        await clay.settled()
        rows = await clay.lines("row")
        assert sorted((row["row"], row["state"]) for row in rows) == [
            (1, "done"),
            (2, "deduped"),
            (3, "done"),
        ]
        assert (await clay.get("/control"))["webhooks"]["acme--crm"]["submissions"] == 3
        await clay.control("reset")
    async with clay.running():
        assert (await clay.get("/ledger/summary"))["accepted"] == 0
        await clay.post(1)
        await clay.settled()
        rows = await clay.lines("row")
        assert [(row["row"], row["state"]) for row in rows][3:] == [(1, "done")]
        numbers = [
            json.loads(line)["seq"] for line in (tmp_path / "ledger.jsonl").read_text().splitlines()
        ]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("arguments", [("--rows", "rows.jsonl")])
async def test_rows_need_a_ledger(arguments: tuple[str, ...]) -> None:
    async with program(*arguments) as process:
        _, err = await asyncio.wait_for(
            process.communicate(),
            DEADLINE_S,
        )
    assert process.returncode == 2
    assert b"--rows needs --ledger" in err
