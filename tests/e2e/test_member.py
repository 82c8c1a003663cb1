"""A wait that ends too late says the state of a process, and why it is not ready."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.dev.process import free_port
from tests.e2e.member import Member
from tests.support.raw_server import READ, serve

NOT_READY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 12\r\n\r\nno partition"
READY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until it is killed."""
    argv = [sys.executable, "-I", "-S", "-c", "input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as running:
        yield running
        running.kill()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    written = tmp_path / "worker-1.log"
    written.write_text('{"event": "started"}\nno broker\n')
    return written


async def test_a_process_that_is_not_ready_says_why(
    process: subprocess.Popen[bytes],
    log: Path,
) -> None:
    async with serve(READ, NOT_READY) as server:
        member = Member(process, server.port, log)
        with pytest.raises(
            AssertionError,
            match=r"worker-1 is not ready: no partition; .*no broker",
        ):
            await member.joined(0.1)


async def test_a_process_that_is_ready_is_waited_for_no_longer(
    process: subprocess.Popen[bytes],
    log: Path,
) -> None:
    async with serve(READ, READY) as server:
        member = Member(process, server.port, log)
        await member.joined(5)
        assert "worker-1 is ready" in await asyncio.to_thread(member.describe)


async def test_a_process_that_does_not_answer_or_has_ended_is_told_apart(
    process: subprocess.Popen[bytes],
    log: Path,
) -> None:
    member = Member(process, free_port(), log)
    assert "worker-1 does not answer: " in await asyncio.to_thread(member.describe)
    member.kill()
    assert "worker-1 has ended with -9" in await asyncio.to_thread(member.describe)
