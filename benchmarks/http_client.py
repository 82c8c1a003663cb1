"""What one POST costs: CPU per request of our client and of what it could have been built on.

`python -m benchmarks.http_client [--json] [--requests 3000] [--in-flight 100]`. A trivial server in
a process of its own answers at once; a case is a process of its own too, so that none warms
another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import httpx
from rich.console import Console
from rich.table import Table

from stream_app.clay import Egress
from stream_app.clay.client import ClayClient
from stream_app.clay.transport import Transport

BODY = json.dumps({f"field_{n}": "x" * 20 for n in range(12)}).encode()
TOKEN = "token"
HEADERS = {"content-type": "application/json", "x-clay-webhook-auth": TOKEN}
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n"
    + b'{"status":"ok"}'
)
ROUNDS = 3
TIME_LIMIT_S = 120.0

Post = Callable[[], Awaitable[None]]


class _Trivial(asyncio.Protocol):
    """Answers whenever a whole request is in; knows nothing of HTTP beyond that."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        _, separator, body = self._received.partition(b"\r\n\r\n")
        if separator and len(body) >= len(BODY):
            self._received = b""
            self._transport.write(ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Trivial, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)  # ends with the benchmark, however that ends


async def _ours(stack: AsyncExitStack, url: str) -> Post:
    client = await stack.enter_async_context(
        ClayClient(
            request_timeout_s=30.0,
            connect_timeout_s=5.0,
            pool_timeout_s=5.0,
            max_connections=100,
            keepalive_s=15.0,
        ),
    )

    async def post() -> None:
        await client.send(url, TOKEN, BODY)

    return post


async def _bare_aiohttp(stack: AsyncExitStack, url: str) -> Post:
    session = await stack.enter_async_context(aiohttp.ClientSession())

    async def post() -> None:
        async with session.post(url, data=BODY, headers=HEADERS) as answer:
            await answer.read()

    return post


async def _httpx_on_our_transport(stack: AsyncExitStack, url: str) -> Post:
    transport = Transport(
        connect_timeout_s=5.0,
        keepalive_s=15.0,
        read_buffer_bytes=4_096,
        egress=Egress.of(),
    )
    client = await stack.enter_async_context(httpx.AsyncClient(transport=transport))

    async def post() -> None:
        await client.post(url, content=BODY, headers=HEADERS)

    return post


async def _httpx_as_it_comes(stack: AsyncExitStack, url: str) -> Post:
    client = await stack.enter_async_context(httpx.AsyncClient(timeout=60.0))

    async def post() -> None:
        await client.post(url, content=BODY, headers=HEADERS)

    return post


OURS = "ClayClient"
CASES: dict[str, Callable[[AsyncExitStack, str], Awaitable[Post]]] = {
    OURS: _ours,
    "aiohttp alone": _bare_aiohttp,
    "httpx's client on our transport": _httpx_on_our_transport,
    "httpx as it comes": _httpx_as_it_comes,
}


async def _measure(case: str, url: str, requests: int, in_flight: int) -> float:
    """Microseconds of CPU (all threads of this process) per request, the median of some rounds."""
    async with AsyncExitStack() as stack:
        post = await CASES[case](stack, url)

        async def lane(count: int) -> None:
            for _ in range(count):
                await post()

        async def run(count: int) -> None:
            await asyncio.gather(*(lane(count // in_flight) for _ in range(in_flight)))

        await run(in_flight * 2)
        rounds = []
        for _ in range(ROUNDS):
            before = time.process_time()
            await run(requests)
            rounds.append((time.process_time() - before) / (requests // in_flight * in_flight))
        return statistics.median(rounds) * 1e6


def _in_a_process(case: str, url: str, requests: int, in_flight: int) -> float:
    arguments = [case, url, str(requests), str(in_flight)]
    command = [sys.executable, "-m", "benchmarks.http_client", "--case", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"the case {case!r} failed:\n{ran.stderr}")
    return float(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(_serve())
    elif arguments.case:
        case, url, requests, in_flight = arguments.case
        sys.stdout.write(f"{asyncio.run(_measure(case, url, int(requests), int(in_flight)))}\n")
    else:
        _report(
            _compare(arguments.requests, arguments.in_flight),
            arguments.in_flight,
            arguments.json,
        )


def _compare(requests: int, in_flight: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.http_client", "--serve"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v3/sources/webhook/benchmark"
            return {case: _in_a_process(case, url, requests, in_flight) for case in CASES}
        finally:
            server.stdin.close()


def _report(cpu_us: dict[str, float], in_flight: int, as_json: bool) -> None:
    console = Console()
    if as_json:
        console.print_json(data={"in_flight": in_flight, "cpu_us_per_request": cpu_us})
        return
    ours = cpu_us[OURS]
    table = Table(title=f"One POST, {in_flight} in flight, instant target")
    for heading in ("client", "CPU per request", f"times {OURS}"):
        table.add_column(heading, justify="left" if heading == "client" else "right")
    for case, cost in cpu_us.items():
        table.add_row(case, f"{cost:,.0f} us", f"{cost / ours:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
