"""The HTTP server with many peers: whom it cuts, who goes first, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import cast

import pytest
import uvloop
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from stream_app.gateway.http.connection import Connection
from stream_app.gateway.http.request import Bounds
from stream_app.gateway.http.server import HttpServer, serve_http
from stream_app.ops import logs as log
from stream_app.ops.gateway_metrics import GatewayMetrics
from tests.support.kafka import until
from tests.support.pace import BUSY
from tests.unit.gateway.test_http_bounds import BOUNDS, GET, answer, echo, stuck


@asynccontextmanager
async def serving(app: ASGIApp, bounds: Bounds, grace_s: float = 5) -> AsyncIterator[tuple[int, list[str]]]:
    cuts: list[str] = []
    async with serve_http(
        app, "127.0.0.1", 0, head_within_s=60, grace_s=grace_s, on_cut=cuts.append, bounds=bounds
    ) as port:
        yield port, cuts


async def connect(port: int, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        pytest.skip(f"{address} is no address of this machine: only Linux has all of 127.0.0.0/8")


async def get(port: int, address: str) -> bytes:
    opened, writer = await connect(port, address)
    writer.write(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    async with asyncio.timeout(20 * BUSY):
        found = await opened.read()
    writer.close()
    return found


async def test_a_peer_with_many_connections_loses_its_oldest_and_keeps_none_out() -> None:
    async with serving(echo, Bounds(within_s=60, connections=10)) as (port, cuts):
        other = await connect(port, "127.0.0.3")
        opened = [await connect(port, "127.0.0.2") for _ in range(40)]
        await until(lambda: len(cuts) == 31)
        assert set(cuts) == {"too_many_connections"}
        assert (await get(port, "127.0.0.1")).startswith(b"HTTP/1.1 200")
        other[1].write(GET)
        assert (await other[0].readline()).startswith(b"HTTP/1.1 200"), "a peer with one connection keeps it"
        ended = [await asyncio.wait_for(_ended(each), 10) for each, _ in opened[:31]]
        assert all(ended), "the oldest ones"
        for _, writer in [*opened, other]:
            writer.close()


async def _ended(opened: asyncio.StreamReader) -> bool:
    try:
        return await opened.read() == b""
    except ConnectionError:
        return True


async def test_connections_with_a_request_under_way_are_never_cut_for_others() -> None:
    go_on = asyncio.Event()

    async def later(_: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await answer(send, b"late")

    async with serving(later, Bounds(within_s=60, connections=3)) as (port, cuts):
        asking = [asyncio.create_task(get(port, "127.0.0.1")) for _ in range(10)]
        await asyncio.sleep(0.1)
        go_on.set()
        assert all(each.endswith(b"late") for each in await asyncio.gather(*asking)), "the others wait to be accepted"
        assert not cuts


async def test_requests_start_peer_by_peer_and_so_many_in_a_turn() -> None:
    class Waiting:
        def __init__(self, peer: str) -> None:
            self.peer = peer

        async def serve(self) -> None:
            turns[-1].append(self.peer)

    turns: list[list[str]] = [[]]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpServer(echo, listener, Bounds(within_s=60, starts=4), lambda _: None)
        for peer in ["a"] * 20 + ["b"]:
            server.ready(cast(Connection, Waiting(peer)))
        for _ in range(20):
            await asyncio.sleep(0)
            turns.append([])
    turns = [turn for turn in turns if turn]
    assert sum(map(len, turns)) == 21
    assert max(map(len, turns)) <= 4
    assert "b" in turns[0]


async def test_the_end_of_a_process_is_bounded() -> None:
    async def large(_: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"y" * 20_000_000)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (large if scope["path"] == "/large" else stuck)(scope, receive, send)

    before = asyncio.all_tasks()
    async with serving(either, Bounds(within_s=60), grace_s=0.2) as (port, _):
        opened = [await connect(port, "127.0.0.1") for _ in range(6)]
        for (_, writer), words in zip(opened, [b"", b"GET", GET, GET, GET.replace(b"/", b"/large", 1)], strict=False):
            writer.write(words)
        await asyncio.sleep(0.1)
    await until(lambda: asyncio.all_tasks() == before)
    for _, writer in opened:
        writer.close()


async def test_an_answer_that_is_not_read_ends_after_its_time() -> None:
    async def large(_: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"y" * 20_000_000)

    async with serving(large, Bounds(within_s=0.2)) as (port, cuts):
        _, writer = await connect(port, "127.0.0.1")
        writer.write(GET)
        await until(lambda: cuts == ["answer_not_read"])
        writer.close()


async def test_cuts_are_counted_and_logged_once_for_each_reason() -> None:
    registry = CollectorRegistry()
    with capture_logs() as logs:
        metrics = GatewayMetrics(registry, log.get("test"), clock=lambda: 1.0)
        async with serve_http(
            echo, "127.0.0.1", 0, head_within_s=60, grace_s=1, on_cut=metrics.connection_cut, bounds=BOUNDS
        ) as port:
            for _ in range(20):
                opened, writer = await connect(port, "127.0.0.1")
                writer.write(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 100)
                assert await asyncio.wait_for(_ended(opened), 10)
                writer.close()
    cut = registry.get_sample_value("stream_app_gateway_connections_cut_total", {"because": "head_too_large"})
    assert cut == 20
    assert [(line["event"], line["because"]) for line in logs] == [("connection_cut", "head_too_large")]


@pytest.mark.parametrize(
    "test",
    [
        test_a_peer_with_many_connections_loses_its_oldest_and_keeps_none_out,
        test_connections_with_a_request_under_way_are_never_cut_for_others,
        test_the_end_of_a_process_is_bounded,
        test_an_answer_that_is_not_read_ends_after_its_time,
        test_cuts_are_counted_and_logged_once_for_each_reason,
    ],
)
def test_the_same_on_uvloop(test: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
