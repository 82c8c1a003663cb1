"""Where is my lead? Asked at the command line and over HTTP, with a board and a worker on a real Kafka."""

import asyncio
import time

import httpx
import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.messages import Result
from stream_app.domain.record import Record
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_gateway import until_ready
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(180)


async def test_status_shows_where_a_lead_is(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=2) as line:
        code, said = await line.run("status", "lead-0")
        assert code == 5
        assert "start it with: stream-app board" in said
        board = line.start("board")
        line.start("worker")
        again = line.lead(0, "w0", lead_id="other-id")  # the same person
        await line.publish([*line.leads(2), again, Record(line.settings.names.leads, b"w0", b"no lead", (), 0)])
        await line.until_over(4, 60)
        found = Result("lead-0", "w0", "w0-crm", "clay", 1, 1_790_000_000_000, 9, {"Title": "Countess"})
        value = msgspec.json.encode(found)
        await line.publish([Record(line.settings.names.enriched, b"w0/w0-crm/lead-0", value, (), 0)])
        async with httpx.AsyncClient(base_url=line.settings.board_url, timeout=20 * BUSY) as client:
            await until_ready(client)
            await up_to_date(client)
            lead = (await client.get("/leads/lead-0")).json()["lead"]
            assert [step["status"] for step in lead["histories"][0]["events"]] == ["received", "sending", "accepted"]
            assert lead["results"][0]["fields"] == {"Title": "Countess"}
            assert (await client.get("/books")).json()["columns"]["accepted_final"] == 2
            assert (await client.get("/dlq")).json()["dlq"]["open"] == 1
            assert {each["workspace"] for each in (await client.get("/lanes")).json()["lanes"]} == {"w0", "w1"}
            assert sum((await client.get("/books")).json()["waiting"].values()) == 0
            assert "stream_app_read_model_lag 0.0" in await line.get(board, "/metrics")
        await at_the_command_line(line)
        assert await line.stop(board) == 0
        log = line.logs[board.pid].read_text()
        assert "person0" not in log
        assert "Countess" not in log


async def at_the_command_line(line: Pipeline) -> None:
    """By id, by e-mail in any spelling, by the id of the copy, by workspace; as text and as JSON."""
    said = await line.done("status", "lead-0")
    assert "received" in said
    assert "status accepted: Clay took it, and nothing ever comes back" in said
    assert "1 field (--result shows them)" in said
    assert "Countess" not in said
    said = await line.done("status", " PERSON0@Example.com ", "--result")
    assert said.startswith("lead-0\n")
    assert "Title: Countess" in said
    code, said = await line.ask("status", "other-id")
    (lead,) = said["leads"]
    assert lead["histories"][0]["status"] == "duplicate"
    for argv in (["unknown"], ["unknown@example.com"], ["lead-0", "--workspace", "w1"]):
        code, said = await line.run("status", *argv)
        assert (code, "The lead is unknown, and no record of it waits on Kafka" in said) == (1, True)
        assert "unknown@" not in said
    code, said = await line.run("status", " ")
    assert (code, "no lead given" in said) == (2, True)


async def up_to_date(client: httpx.AsyncClient) -> None:
    """Wait until the model has all that is on Kafka now."""
    now_ms, deadline = time.time_ns() // 1_000_000, time.monotonic() + 30 * BUSY
    while ((await client.get("/lanes")).json()["as_of_ms"] or 0) < now_ms:
        assert time.monotonic() < deadline, "the model is not up to date"
        await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_status_finds_a_waiting_lead_and_its_hold(kafka: Broker, namespace: str) -> None:
    """Without a worker, and in a lane that an operator has paused."""
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=2) as line:
        line.start("board")
        home = line.settings.home("w0")
        await line.publish(line.leads(30))
        async with httpx.AsyncClient(base_url=line.settings.board_url, timeout=20 * BUSY) as client:
            await until_ready(client)
            await up_to_date(client)
        said = await line.done("status", "lead-20")
        assert f"w0, waits on Kafka as {namespace}leads/{home}/20, since " in said
        assert "with about 20 records before it" in said
        assert "HELD, no worker runs: nothing is sent; lifted by: stream-app worker" in said
        code, said = await line.run("lanes", "pause", "w0", "--why", "table is rebuilt")
        assert code == 3, said
        line.start("worker")
        await line.until(lambda: "held_paused" in line.last(), 30, "a lead that is held")
        code, said = await line.ask("status", "PERSON29@example.com")
        assert code == 0, said
        (lead,) = said["waiting"]["leads"]
        assert (lead["lead_id"], lead["origin"]) == ("lead-29", f"{namespace}leads/{home}/29")
        assert [(each["code"], each["workspace"]) for each in lead["findings"]] == [("paused", "w0")]
        assert "table is rebuilt" in lead["findings"][0]["what"]
