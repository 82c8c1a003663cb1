"""Every program in `examples/`, as a user runs it, on a real Kafka with the simulator as Clay."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from stream_app import find_lead, follow_status, follow_status_sync, read_books, read_results_sync
from stream_app.dev.kafka import Broker
from tests.e2e.behind import eventually
from tests.e2e.pipeline import CALLBACK, Pipeline
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(180)

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = (
    """
[[table.columns]]
name = "title"
values = ["CEO"]
"""
    + CALLBACK
    + """
[table.callback.body]
lead_id = "{{lead_id}}"
title = "{{title}}"
"""
)


async def run(line: Pipeline, script: str, *argv: str, code: int = 0) -> list[str]:
    """Return the lines that an example prints. Fails with its stderr."""
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP": line.bootstrap,
        "STREAM_APP_CONFIG": str(line.directory / "stream_app.toml"),
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(EXAMPLES / script), *argv],
        capture_output=True,
        text=True,
        timeout=100 * BUSY,
        check=False,
        env=environment,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stdout if code == 0 else done.stderr).splitlines()


@pytest.mark.slow
async def test_every_example_runs(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=2, callbacks=True, script=SCRIPT) as line:
        code, output = await line.run("status", "crm-17")
        assert (code, "start it with: stream-app board" in output) == (5, True), output
        line.start("gateway")
        board = line.start("board")
        line.start("worker")
        status = line.settings.names.status

        printed = await run(line, "publish_leads.py", "--workspace", "w0")
        assert printed[0].startswith("lead 3 refused: Its e-mail is not an e-mail address")
        assert printed[1] == "2 of 3 leads published"
        ended = [text for text in printed if ": enriched" in text]
        assert sorted(text.split(":")[0] for text in ended) == ["crm-17", "crm-18"]

        count = str(sum(map(len, line.histories.values())))
        await by_plain_consumers(line, status, count)

        results = [json.loads(text) for text in await run(line, "read_results.py", "--workspace", "w0")]
        assert sorted(result["lead_id"] for result in results) == ["crm-17", "crm-18"]
        await by_the_api(line)
        await by_the_command(line)
        assert "stream_app_read_model_lag 0.0" in await line.get(board, "/metrics")
        assert await line.stop(board) == 0
        log = line.logs[board.pid].read_text()
        assert not [word for word in ("CEO", "ada@", "Ada") if word in log]


async def by_plain_consumers(line: Pipeline, status: str, count: str) -> None:
    """Both clients see the same events. After a reset the same group sees them again."""
    group, other = f"{status}-group", f"{status}-other"
    events = await run(line, "consume_status_aiokafka.py", "--topic", status, "--group", group, "--count", count)
    assert len(events) == int(count)
    seen = await run(line, "consume_status_confluent.py", "--topic", status, "--group", other, "--count", count)
    assert sorted(seen) == sorted(events)
    assert len({event.split()[0] for event in events}) == int(count), "the ids are unique"
    offsets = await run(line, "reset_offsets.py", "--topic", status, "--group", group)
    assert sorted(offset.rpartition(" ")[2] for offset in offsets) == ["0", "0"]
    again = await run(line, "consume_status_aiokafka.py", "--topic", status, "--group", group, "--count", count)
    assert sorted(again) == sorted(events)
    async with AIOKafkaConsumer(status, bootstrap_servers=line.bootstrap, group_id=group) as member:
        await member.getmany(timeout_ms=100)
        output = await run(line, "reset_offsets.py", "--topic", status, "--group", group, code=1)
    assert output[-1].endswith("stop all members of the group first")
    past = ["--to-datetime", "2020-01-01T00:00+00:00"]
    assert sorted(await run(line, "reset_offsets.py", "--topic", status, "--group", other, *past)) == sorted(
        offset.replace(group, other, 1) for offset in offsets
    )


async def by_the_api(line: Pipeline) -> None:
    """Call what the examples do not call, and the forms without an event loop."""
    config = str(line.directory / "stream_app.toml")
    async with follow_status(config, lead_id="crm-17", from_beginning=True, idle_timeout_s=5) as events:
        statuses = [event.status async for event in events if event.lead_id == "crm-17"]
    assert (statuses[0], statuses[-1]) == ("received", "enriched")
    assert await asyncio.to_thread(statuses_in, config) == statuses
    results = await asyncio.to_thread(lambda: list(read_results_sync(config, workspace="w0")))
    assert len(results) == 2
    books = await read_books(config)
    assert (books.balanced, books.records) == (True, 2)
    search = await find_lead("ADA@example.com", config)
    assert [lead.lead_id for lead in search.leads] == ["crm-17"]


async def by_the_command(line: Pipeline) -> None:
    """Where is my lead? By id, by e-mail in any spelling, by the id of a copy, by workspace; as text and as JSON."""
    again = line.lead(0, "w0", lead_id="other-id", fields={"email": "ada@example.com"})  # the same person
    await line.publish([again])
    await line.until(lambda: line.last()["duplicate"] == 1, 30, "a copy")
    await eventually(lambda: unknown(line, "other-id"), 60)
    output = await line.done("status", "crm-17")
    assert "received" in output
    assert "1 field (--result shows them)" in output
    assert "CEO" not in output
    output = await line.done("status", " ADA@Example.com ", "--result")
    assert output.startswith("crm-17\n")
    assert "title: CEO" in output
    code, output = await line.ask("status", "other-id")
    (lead,) = output["leads"]
    assert lead["histories"][0]["status"] == "duplicate"
    for argv in (["unknown"], ["unknown@example.com"], ["crm-17", "--workspace", "w1"]):
        code, output = await line.run("status", *argv)
        assert (code, "The lead is unknown, and no record of it waits on Kafka" in output) == (1, True)
        assert "unknown@" not in output
    code, output = await line.run("status", " ")
    assert (code, "no lead given" in output) == (2, True)


async def unknown(line: Pipeline, lead: str) -> str:
    """Empty once the board's model has the lead."""
    code, output = await line.run("status", lead)
    return output if code else ""


def statuses_in(config: str) -> list[str]:
    """Return the statuses, without an event loop."""
    with follow_status_sync(config, lead_id="crm-17", from_beginning=True, idle_timeout_s=5) as events:
        return [event.status for event in events]
