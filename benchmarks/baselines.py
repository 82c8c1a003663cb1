"""What `benchmarks.line` compares the worker with, each a process: the target, a bare loop, a stock
Faust agent.

`python -m benchmarks.baselines target | bare BOOTSTRAP TOPIC URL IN_FLIGHT | stock BOOTSTRAP TOPIC
URL`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def instant_target() -> Iterator[int]:
    """Run a target in a process of its own until the block ends. Yields its port on 127.0.0.1."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.baselines", "target"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


class _Target(asyncio.Protocol):
    """Answers each request at once and counts; `GET /count` tells."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            if head.startswith(b"GET"):
                body = str(_Target.count).encode()
                answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
                self._transport.write(answer)
                self._received = rest
                continue
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(rest) < length:
                return
            self._received = rest[length:]
            _Target.count += 1
            self._transport.write(ANSWER)


async def _serve_target() -> None:
    server = await asyncio.get_running_loop().create_server(_Target, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


async def _bare(bootstrap: str, topic: str, url: str, in_flight: int) -> None:
    import aiohttp
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"{topic}-bare",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    slots = asyncio.Semaphore(in_flight)
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:

        async def post(value: bytes) -> None:
            async with session.post(
                url,
                data=value,
                headers={"content-type": "application/json"},
            ) as answer:
                await answer.read()
            slots.release()

        async for record in consumer:
            await slots.acquire()
            tasks.create_task(post(record.value or b""))


def _stock(bootstrap: str, topic: str, url: str) -> None:
    import faust
    import httpx

    app = faust.App(
        f"{topic}-stock",
        broker=f"kafka://{bootstrap}",
        web_enabled=False,
        topic_disable_leader=True,
        store="memory://",
        datadir=tempfile.mkdtemp(),
    )
    source = app.topic(
        topic,
        value_type=bytes,
        value_serializer="raw",
        key_type=bytes,
        key_serializer="raw",
    )

    async def agent(stream: Any) -> None:
        async with httpx.AsyncClient() as client:
            async for value in stream:
                await client.post(url, content=value, headers={"content-type": "application/json"})

    app.agent(source)(agent)
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


def main() -> None:
    """Be one of them."""
    case, *arguments = sys.argv[1:]
    if case == "target":
        asyncio.run(_serve_target())
    elif case == "bare":
        bootstrap, topic, url, in_flight = arguments
        asyncio.run(_bare(bootstrap, topic, url, int(in_flight)))
    else:
        sys.argv = sys.argv[:1]
        _stock(*arguments)


if __name__ == "__main__":
    main()
