"""Every program in `examples/`, as a user runs it, on a real Kafka with the simulator as Clay."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app import find_lead, follow_status, read_books, read_results_sync
from stream_app.dev.kafka import Broker
from tests.e2e.behind import eventually
from tests.e2e.member import Member
from tests.e2e.pipeline import CALLBACK, Pipeline
from tests.support.pace import BUSY, slowness

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


async def run(line: Pipeline, script: str, *argv: str) -> list[str]:
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
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
async def test_every_example_runs(kafka: Broker, namespace: str) -> None:
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        2,
        partitions=2,
        callbacks=True,
        script=SCRIPT,
    ) as line:
        code, output = await line.run("status", "crm-17")
        assert code == 5, output
        assert "start it with: stream-app board" in output, output
        line.start("gateway")
        await line.receives()
        board = line.start("board")
        line.start("worker")
        status = line.settings.names.status

        printed = await run(line, "publish_leads.py", "--workspace", "w0")
        assert printed[0].startswith("lead 3 refused: Its e-mail is not an e-mail address")
        assert printed[1] == "2 of 3 leads published"
        ended = [text for text in printed if ": enriched" in text]
        assert sorted(text.split(":")[0] for text in ended) == ["crm-17", "crm-18"]

        await line.until_last({"enriched": 2}, 30)
        count = str(sum(map(len, line.histories.values())))
        await by_plain_consumers(line, status, count)

        results = [
            json.loads(text) for text in await run(line, "read_results.py", "--workspace", "w0")
        ]
        assert sorted(result["lead_id"] for result in results) == ["crm-17", "crm-18"]
        await by_the_api(line)
        await eventually(lambda: lags(board), 60)
        assert await board.stop() == 0
        log = board.log.read_text()
        assert not [word for word in ("CEO", "ada@", "Ada") if word in log]


async def lags(board: Member) -> str:
    """Return the metrics of a board whose read model does not have everything yet."""
    metrics = await board.get("/metrics")
    return "" if "stream_app_read_model_lag 0.0" in metrics else metrics


async def by_plain_consumers(line: Pipeline, status: str, count: str) -> None:
    """Both clients see the same events. After a reset the same group sees them again."""
    group = f"{status}-group"
    other = f"{status}-other"
    events = await run(
        line,
        "consume_status_aiokafka.py",
        "--topic",
        status,
        "--group",
        group,
        "--count",
        count,
    )
    assert len(events) == int(count)
    seen = await run(
        line,
        "consume_status_confluent.py",
        "--topic",
        status,
        "--group",
        other,
        "--count",
        count,
    )
    assert sorted(seen) == sorted(events)
    assert len({event.split()[0] for event in events}) == int(count), "the ids are unique"
    offsets = await run(line, "reset_offsets.py", "--topic", status, "--group", group)
    assert sorted(offset.rpartition(" ")[2] for offset in offsets) == ["0", "0"]
    again = await run(
        line,
        "consume_status_aiokafka.py",
        "--topic",
        status,
        "--group",
        group,
        "--count",
        count,
    )
    assert sorted(again) == sorted(events)


async def by_the_api(line: Pipeline) -> None:
    """Call what the examples do not call, and one form without an event loop."""
    config = str(line.directory / "stream_app.toml")
    async with follow_status(
        config,
        lead_id="crm-17",
        from_beginning=True,
        idle_timeout_s=5 * slowness(),
    ) as events:
        statuses = [event.status async for event in events if event.lead_id == "crm-17"]
    assert statuses[0] == "received"
    assert statuses[-1] == "enriched"
    results = await asyncio.to_thread(lambda: list(read_results_sync(config, workspace="w0")))
    assert len(results) == 2
    books = await read_books(config)
    assert books.balanced is True
    assert books.records == 2
    search = await find_lead("ADA@example.com", config)
    assert [lead.lead_id for lead in search.leads] == ["crm-17"]
    output = await line.done("status", "crm-17")
    assert "1 field (--result shows them)" in output
    assert "CEO" not in output
