"""The simulator as a program."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from stream_app.cli.main import main
from stream_app.dev.simulator import HELP

DEADLINE_S = 60.0


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


def test_a_bad_script_is_one_line_a_problem_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "bad.toml"
    script.write_text("sed = 1\n[[fault]]\nkind = 'nope'\n")
    assert main(["sim", "--script", str(script)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert all(line.startswith(str(script)) for line in err.splitlines())


def test_a_taken_port_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["sim", "--port", str(port)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cannot start" in err
    assert f"'127.0.0.1:{port}'" in err


@pytest.mark.parametrize("option", ["--port=99999", "--port=-1", "--control-port=70000"])
def test_a_bad_port_is_one_line_and_exit_2(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen: an OverflowError out of the socket."""
    assert main(["sim", option]) == 2
    assert capsys.readouterr().err == f"{option.replace('=', ' ')}: must be from 1 to 65535, or 0 for any free one\n"


def test_a_script_that_is_not_there_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "none.toml"
    assert main(["sim", "--script", str(script)]) == 2
    assert capsys.readouterr().err == f"{script}: cannot be read: No such file or directory\n"


def test_help_documents_control_and_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--help"]) == 0
    out = capsys.readouterr().out
    for part in ("/control/faults", "[[fault]]", "status_after", "/ledger/summary", "Exit codes"):
        assert part in out


def test_no_line_of_the_help_is_wider_than_a_terminal() -> None:
    assert [line for line in HELP.splitlines() if len(line) > 80] == []
