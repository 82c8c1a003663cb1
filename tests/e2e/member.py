"""A process of the pipeline under test: how it ends, what it wrote, and what it answers."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import psutil

from stream_app.dev.process import LOOPBACK, end
from tests.support.pace import BUSY

_SENT: Final = re.compile(
    r'^stream_app_lead_events_total\{.*status="sending",workspace="([^"]+)"\} ([0-9.e+]+)',
    re.M,
)
_ANSWER_WITHIN_S: Final = 2 * BUSY


class Member:
    """A process of the pipeline.

    Attributes:
        process: The process itself.
        port: Its port for operations, on which it serves its metrics and says whether it is ready.
        log: The file of its stdout and stderr.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    # -------------------------------------------------------------------------------------- its end

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def frozen(self) -> bool:
        return self.alive and psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait(10 * BUSY)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        while self.alive and not self.frozen:  # a busy process stops some time after the signal
            time.sleep(0.01)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def stop(self, grace_s: float = 40) -> int:
        """Send SIGTERM. Return its exit code."""
        await asyncio.to_thread(end, self.process, grace_s=grace_s * BUSY)
        return self.process.returncode

    async def ended(self, within_s: float) -> int:
        """Wait for its end. Return its exit code."""
        return await asyncio.to_thread(self.process.wait, within_s)

    # -------------------------------------------------------------------------------- what it wrote

    def output(self) -> list[str]:
        """Return the lines of its stderr."""
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def logged(self) -> list[dict[str, Any]]:
        """Return its log events, without the lines for people."""
        return [json.loads(line) for line in self.output() if line.startswith("{")]

    def last_words(self) -> list[str]:
        """Return its lines for people; each log event is a line of JSON."""
        return [line for line in self.output() if not line.startswith("{")]

    # ------------------------------------------------------------------------------ what it answers

    def answers(self) -> bool:
        """True if it serves its metrics."""
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, self.port)) == 0

    async def get(self, path: str) -> str:
        """Return what it answers on its port for operations.

        Raises OSError for any status but 200.
        """
        return await asyncio.to_thread(self._answer, path, 10 * BUSY)

    def not_ready(self) -> str:
        """Return why it is not ready, in its own words if it answers; "" if it is ready.

        A worker or replay process is ready when it has its partitions and serves them.
        """
        try:
            self._answer("/readyz", _ANSWER_WITHIN_S)
        except urllib.error.HTTPError as error:
            return f"is not ready: {error.read().decode().strip()}"
        except OSError as error:
            return f"does not answer: {error}"
        return ""

    async def joined(self, within_s: float) -> None:
        """Wait until it is ready: a worker or replay process has its partitions then."""
        deadline = time.monotonic() + within_s * BUSY
        while await asyncio.to_thread(self.not_ready):
            if time.monotonic() > deadline:
                described = await asyncio.to_thread(self.describe)
                raise AssertionError(f"not ready within {within_s * BUSY:g} s: {described}")
            await asyncio.sleep(0.1)

    def sent(self) -> dict[str, float] | None:
        """Return the leads that it wrote ahead, by workspace, from its metrics.

        None if it does not answer.
        """
        try:
            metrics = self._answer("/metrics", _ANSWER_WITHIN_S)
        except OSError:
            return None
        return {name: float(count) for name, count in _SENT.findall(metrics)}

    def describe(self) -> str:
        """Return its state and the end of its log, as text."""
        if self.alive:
            state = self.not_ready() or f"is ready, and has sent {self.sent()}"
        else:
            state = f"has ended with {self.process.returncode}"
        return f"{self.log.stem} {state}; its log ends with {self.output()[-3:]}"

    def _answer(self, path: str, timeout_s: float) -> str:
        address = f"http://{LOOPBACK}:{self.port}{path}"
        with urllib.request.urlopen(address, timeout=timeout_s) as answer:
            return str(answer.read().decode())
