"""The simulator as a program, and its scripts: every problem of a bad one at once."""

import asyncio
import json
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from stream_app.dev.simulator import HELP, ScriptError, parse_script
from tests.unit.simulator.program import DEADLINE_S, program


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_listens_says_so_and_ends_cleanly(tmp_path: Path, stop: signal.Signals) -> None:
    script = tmp_path / "faults.toml"
    ledger = tmp_path / "ledger.jsonl"
    script.write_text('[[fault]]\nkind = "hang_after_read"\nwebhook = "hang"\n')
    arguments = ("--port", "0", "--seed", "5", "--script", str(script), "--ledger", str(ledger))
    async with (
        program(*arguments) as process,
        aiohttp.ClientSession() as session,
    ):
        assert process.stdout is not None
        ready = json.loads(
            await asyncio.wait_for(
                process.stdout.readline(),
                DEADLINE_S,
            ),
        )
        assert ready.keys() == {"url", "control_url", "pid", "ledger"}
        url = ready["url"] + "/v3/sources/webhook/"
        unanswered = asyncio.create_task(session.post(url + "hang", json={"lead_id": "hanging"}))
        async with session.post(url + "x", json={"lead_id": "last"}) as response:
            assert response.status == 200
        process.send_signal(stop)
        out, err = await asyncio.wait_for(
            process.communicate(),
            DEADLINE_S,
        )
        assert process.returncode == 0
        assert out == b""
        assert b"Traceback" not in err
        with pytest.raises(aiohttp.ClientConnectionError):
            await unanswered
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert lines[0]["kind"] == "start"
    assert lines[0]["seed"] == 5
    assert lines[-1]["kind"] == "stop"
    assert any(line.get("lead_id") == "last" for line in lines)


BAD = """
sed = 1
limits = { rate_per_s = -1 }
[table.latency]
median_s = 10
p95_s = 5
[[table.columns]]
credits = 1
[[fault]]
kind = "refuse"
share = 0.5
[[fault]]
kind = "explode"
"""


def test_every_problem_is_one_line_and_none_hides_another() -> None:
    with pytest.raises(ScriptError) as failure:
        parse_script(BAD)
    problems = failure.value.problems
    assert all("\n" not in problem for problem in problems)
    for place in (
        "sed: unknown",
        "limits.rate_per_s:",
        "table.latency.p95_s:",
        "table.columns[0].name: missing",
        "fault[0].share: does not belong to 'refuse'",
        "fault[1].kind: 'explode' is unknown",
    ):
        assert any(problem.startswith(place) for problem in problems), place


def test_the_example_in_the_help_is_a_good_script() -> None:
    example = re.split(r"example script:\n|\nkinds of faults", HELP)[1]
    script = parse_script("\n".join(line.removeprefix("    ") for line in example.splitlines()))
    assert script.seed == 7
    assert script.webhooks["acme--crm"].callback.well_set
    assert script.fault[0].status == 502
