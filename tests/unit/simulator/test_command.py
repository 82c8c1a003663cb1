"""The simulator as a program."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from stream_app.dev.simulator import HELP

DEADLINE_S = 15.0


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stream_app",
        "sim",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_listens_says_so_and_ends_cleanly(tmp_path: Path, stop: signal.Signals) -> None:
    script, ledger = tmp_path / "faults.toml", tmp_path / "ledger.jsonl"
    script.write_text('[[fault]]\nkind = "hang_after_read"\nwebhook = "hang"\n')
    arguments = ("--port", "0", "--seed", "5", "--script", str(script), "--ledger", str(ledger))
    async with program(*arguments) as process, aiohttp.ClientSession() as session:
        assert process.stdout is not None
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE_S))
        assert ready.keys() == {"url", "control_url", "pid", "ledger"}
        url = ready["url"] + "/v3/sources/webhook/"
        unanswered = asyncio.create_task(session.post(url + "hang", json={"lead_id": "hanging"}))
        async with session.post(url + "x", json={"lead_id": "last"}) as response:
            assert response.status == 200
        process.send_signal(stop)
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert (process.returncode, out) == (0, b"")
        assert b"Traceback" not in err
        with pytest.raises(aiohttp.ClientConnectionError):
            await unanswered
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert (lines[0]["kind"], lines[0]["seed"], lines[-1]["kind"]) == ("start", 5, "stop")
    assert any(line.get("lead_id") == "last" for line in lines)


async def test_a_bad_script_is_one_line_a_problem_and_exit_2(tmp_path: Path) -> None:
    script = tmp_path / "bad.toml"
    script.write_text("sed = 1\n[[fault]]\nkind = 'nope'\n")
    async with program("--script", str(script)) as process:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (process.returncode, out) == (2, b"")
    assert len(err.splitlines()) == 2
    assert all(line.startswith(str(script).encode()) for line in err.splitlines())


async def test_a_taken_port_is_one_line_and_exit_1(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, program("--port", str(port)) as process:
        _, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 1
    assert err.count(b"\n") == 1
    assert b"cannot start" in err
    assert b"'127.0.0.1:%d'" % port in err


@pytest.mark.parametrize("option", ["--port=99999", "--port=-1", "--control-port=70000"])
async def test_a_bad_port_is_one_line_and_exit_2(option: str) -> None:
    """Seen: an OverflowError out of the socket."""
    async with program(option) as process:
        _, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    reported = f"{option.replace('=', ' ')}: must be from 1 to 65535, or 0 for any free one\n"
    assert (process.returncode, err.decode()) == (2, reported)


async def test_a_script_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    async with program("--script", str(tmp_path / "none.toml")) as process:
        _, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (process.returncode, err.decode()) == (
        2,
        f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory\n",
    )


async def test_help_documents_control_and_script() -> None:
    async with program("--help") as process:
        out, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0
    for part in (b"/control/faults", b"[[fault]]", b"status_after", b"/ledger/summary", b"Exit codes"):
        assert part in out


def test_no_line_of_the_help_is_wider_than_a_terminal() -> None:
    assert [line for line in HELP.splitlines() if len(line) > 80] == []
