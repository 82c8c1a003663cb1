"""Workers as child processes: started, read line by line, sent signals, and never left behind."""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator

from stream_app.dev.kafka import Broker
from tests.support.kafka import until
from tests.support.pace import BUSY


class WorkerProcess:
    """One `tests.support.worker`. `lines` counts its lines; `last` is its stderr, for the message of a failure."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: Counter[str] = Counter()
        self.last = ""
        self._reading = [asyncio.create_task(self._read_lines()), asyncio.create_task(self._read_errors())]

    async def _read_lines(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines[line.decode().rstrip()] += 1

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.last = (self.last + line.decode())[-16000:]

    async def printed(self, *lines: str, within_s: float = 20) -> None:
        await until(lambda: all(self.lines[line] for line in lines), within_s, f"{lines} from a worker ({self.last})")

    async def ended(self, within_s: float) -> int:
        """Wait for its end. Return its exit code."""
        async with asyncio.timeout(within_s * BUSY):
            code = await self.process.wait()
            await asyncio.gather(*self._reading)
        return code


class Workers:
    """Starts workers of one group. Those that still run at the end of the test are killed."""

    def __init__(self, kafka: Broker, namespace: str, partitions: int) -> None:
        self.settings = {"bootstrap": kafka.bootstrap, "namespace": namespace, "partitions": partitions}
        self.all: list[WorkerProcess] = []

    async def start(self, *, slow_s: float = 1.0, session_s: float = 6.0) -> WorkerProcess:
        arguments = json.dumps({**self.settings, "slow_s": slow_s, "session_s": session_s})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.worker", arguments, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.all.append(WorkerProcess(process))
        return self.all[-1]


@contextlib.asynccontextmanager
async def workers(kafka: Broker, namespace: str, partitions: int) -> AsyncIterator[Workers]:
    started = Workers(kafka, namespace, partitions)
    try:
        yield started
    finally:
        for worker in started.all:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            await worker.ended(10)
