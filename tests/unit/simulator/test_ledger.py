"""The ledger: agrees with what the client saw, the same for the same seed, and holds no secrets."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stream_app.dev.simulator import Simulator, parse_script
from stream_app.dev.simulator import ledger as module
from tests.support.kafka import until
from tests.support.raw_server import RawServer
from tests.unit.simulator.conftest import SimulatorBench, Start

STORM = """
limits = { rate_per_s = 0 }
[table]
latency = { scale = 0.001 }
callback = { run_if = "always", url = "http://127.0.0.1:9/", retry = { enabled = false } }
[[fault]]
kind = "status_before"
share = 0.1
status = 503
[[fault]]
kind = "status_after"
share = 0.1
[[fault]]
kind = "reset_after_read"
share = 0.05
[[fault]]
kind = "callbacks_lost"
share = 0.3
"""


async def storm(
    bench: SimulatorBench,
    leads: int,
    concurrency: int,
) -> tuple[Counter[str], Counter[str]]:
    """Submits leads, each twice. Returns what the client saw: statuses, and 2xx per lead."""
    statuses: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    todo = iter([f"lead-{n % leads}" for n in range(2 * leads)])

    async def send() -> None:
        for lead in todo:
            try:
                status = str(await bench.post({"lead_id": lead, "delivery_id": f"{lead}-d"}))
            except aiohttp.ClientConnectionError:
                status = "reset"
            statuses[status] += 1
            accepted[lead] += status == "200"

    await asyncio.gather(*[send() for _ in range(concurrency)])
    await bench.settled()
    return statuses, accepted


async def test_totals_agree_with_what_the_client_saw_and_with_the_meters(start: Start) -> None:
    bench = await start(STORM)
    statuses, answered = await storm(bench, 100, 8)
    assert len(statuses) == 4
    summary = await bench.get("/ledger/summary")
    lines = await bench.lines()
    requests = [line for line in lines if line["kind"] == "request"]
    assert summary["by_status"] == statuses == Counter(str(line["status"]) for line in requests)
    accepted = Counter(line["lead_id"] for line in requests if line["accepted"])
    assert summary["requests"] == 200
    assert summary["leads"] == accepted
    assert all(accepted[lead] >= count for lead, count in answered.items())
    assert (
        summary["accepted"]
        == accepted.total()
        == statuses["200"] + statuses["500"] + statuses["reset"]
    )
    totals = summary["workspaces"]["acme"]
    meters = (await bench.get("/control"))["workspaces"]["acme"]
    charged = sum(line.get("credits", 0) for line in lines if line["kind"] == "charge")
    refunded = sum(line["credits"] for line in lines if line["kind"] == "refund")
    assert totals["credits_charged"] == charged
    assert totals["credits_refunded"] == refunded
    assert meters == meters | {
        "credits": 6_000 - charged + refunded,
        "actions": 15_000 - totals["actions_charged"],
    }
    assert totals["actions_charged"] == sum(totals["callbacks"].values()) == totals["accepted"]


def without_times(lines: list[dict[str, Any]]) -> list[str]:
    passing = ("seq", "at_ms", "ms", "row")
    return sorted(
        json.dumps(
            {key: value for key, value in line.items() if key not in passing},
            sort_keys=True,
        )
        for line in lines
    )


async def test_a_seed_decides_everything_under_any_interleaving(start: Start) -> None:
    ledgers = []
    for seed, concurrency in ((1, 1), (1, 9), (2, 1)):
        bench = await start(f"seed = {seed}\n{STORM}")
        await storm(bench, 40, concurrency)
        ledgers.append(without_times((await bench.lines())[1:]))
    assert ledgers[0] == ledgers[1]
    assert ledgers[0] != ledgers[2]


async def test_the_file_has_every_answered_request_once_the_ledger_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A reader of the file asks first for lines beyond the last one, and then misses nothing."""
    monkeypatch.setattr(module, "FLUSH_AFTER_S", 3_600.0)
    file = tmp_path / "ledger.jsonl"
    sim = Simulator(parse_script(""), ledger=file)
    await sim.start()
    try:
        async with aiohttp.ClientSession() as session:
            bench = SimulatorBench(sim, session)
            assert await bench.post({"lead_id": "a"}) == 200
            assert "request" not in file.read_text()
            assert await bench.lines(f"since={10**12}") == []
            requests = [line for line in file.read_text().splitlines() if '"request"' in line]
            assert [json.loads(line)["lead_id"] for line in requests] == ["a"]
    finally:
        await sim.stop()


async def test_no_secret_and_no_personal_data_in_ledger_or_state(
    start: Start,
    receiver: RawServer,
) -> None:
    bench = await start(
        '[table.latency]\nscale = 0\n[webhooks.acme--crm]\ntoken = "t0ken-in"\n'
        '[table.callback]\nheaders = { x = "{{callback_token}}" }\n',
    )
    lead = {
        "lead_id": "a",
        "email": "ada@example.com",
        "domain": "example.com",
        "callback_url": f"{receiver.url}?k=t0ken-url",
        "callback_token": "t0ken-out",
    }
    assert await bench.post(lead, token="t0ken-in") == 200
    assert await bench.post(lead, token="t0ken-wrong") == 401
    await until(lambda: receiver.requests)
    await bench.settled()
    text = json.dumps(await bench.lines()) + json.dumps(await bench.get("/control"))
    assert "t0ken" not in text
    assert "example.com" not in text


@pytest.mark.parametrize(
    ("path", "body", "status", "problem"),
    [
        ("faults", [{"kind": "nope"}, {"kind": "gone", "share": 2}], 400, "fault[1].share"),
        ("limits", {"burst": 0, "rate": 1}, 400, "limits.rate: unknown"),
        ("credits", {"workspace": "unknown", "add": 1}, 400, "there is no 'unknown'"),
        ("webhooks", {"token": "x"}, 400, "slug: missing"),
        ("webhooks", {"slug": "x", "latency": {"scale": -1}}, 400, "latency.scale"),
        ("nonsense", {}, 404, "unknown; known: faults"),
    ],
)
async def test_a_wrong_control_call_says_what_is_wrong(
    start: Start,
    path: str,
    body: object,
    status: int,
    problem: str,
) -> None:
    bench = await start("")
    async with bench.session.post(f"{bench.sim.url}/control/{path}", json=body) as response:
        problems = (await response.json())["problems"]
    assert response.status == status
    assert any(problem in line for line in problems), problems
    assert all("\n" not in line for line in problems)
