"""Where is my lead? Asked at the command line and over HTTP, with a board and a worker on a real Kafka."""

import time

import httpx
import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.messages import Result
from stream_app.domain.model.records import Record
from tests.e2e.behind import eventually
from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(180)


async def test_status_shows_where_a_lead_is(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=2) as line:
        code, output = await line.run("status", "lead-0")
        assert code == 5
        assert "start it with: stream-app board" in output
        board = line.start("board")
        line.start("worker")
        again = line.lead(0, "w0", lead_id="other-id")  # the same person
        await line.publish([*line.leads(2), again, Record(line.settings.names.leads, b"w0", b"no lead", (), 0)])
        await line.until_over(4, 60)
        stored = Result("lead-0", "w0", "w0-crm", "clay", 1, 1_790_000_000_000, 9, {"Title": "Countess"})
        value = msgspec.json.encode(stored)
        await line.publish([Record(line.settings.names.enriched, b"w0/w0-crm/lead-0", value, (), 0)])
        async with httpx.AsyncClient(base_url=line.settings.board_url, timeout=20 * BUSY) as client:
            await up_to_date(client)
            lead = (await client.get("/leads/lead-0")).json()["lead"]
            assert [step["status"] for step in lead["histories"][0]["events"]] == ["received", "sending", "accepted"]
            assert lead["results"][0]["fields"] == {"Title": "Countess"}
            assert (await client.get("/books")).json()["columns"]["accepted_final"] == 2
            assert (await client.get("/dlq")).json()["dlq"]["open"] == 1
            assert {lane["workspace"] for lane in (await client.get("/lanes")).json()["lanes"]} == {"w0", "w1"}
            assert sum((await client.get("/books")).json()["waiting"].values()) == 0
            assert "stream_app_read_model_lag 0.0" in await line.get(board, "/metrics")
        await at_the_command_line(line)
        assert await line.stop(board) == 0
        log = line.logs[board.pid].read_text()
        assert "person0" not in log
        assert "Countess" not in log


async def at_the_command_line(line: Pipeline) -> None:
    """By id, by e-mail in any spelling, by the id of the copy, by workspace; as text and as JSON."""
    output = await line.done("status", "lead-0")
    assert "received" in output
    assert "status accepted: Clay took it, and nothing ever comes back" in output
    assert "1 field (--result shows them)" in output
    assert "Countess" not in output
    output = await line.done("status", " PERSON0@Example.com ", "--result")
    assert output.startswith("lead-0\n")
    assert "Title: Countess" in output
    code, output = await line.ask("status", "other-id")
    (lead,) = output["leads"]
    assert lead["histories"][0]["status"] == "duplicate"
    for argv in (["unknown"], ["unknown@example.com"], ["lead-0", "--workspace", "w1"]):
        code, output = await line.run("status", *argv)
        assert (code, "The lead is unknown, and no record of it waits on Kafka" in output) == (1, True)
        assert "unknown@" not in output
    code, output = await line.run("status", " ")
    assert (code, "no lead given" in output) == (2, True)


async def up_to_date(client: httpx.AsyncClient) -> None:
    """Wait until the board answers, and its model has all that is on Kafka now."""
    now_ms = time.time_ns() // 1_000_000

    async def late() -> str:
        try:
            as_of_ms = (await client.get("/lanes")).json()["as_of_ms"]
        except httpx.TransportError as error:
            return str(error) or "no answer"
        return "" if (as_of_ms or 0) >= now_ms else f"the model is of {as_of_ms}"

    await eventually(late, 60)
