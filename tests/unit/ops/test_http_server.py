"""The server of every process: which requests it refuses, how many it serves, and how it ends."""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from unittest.mock import AsyncMock

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_app.domain.model.errors import StreamAppError
from stream_app.ops import http
from stream_app.ops.http import serve_http
from stream_app.services.process import serve_ops
from tests.support.kafka import until
from tests.support.pace import BUSY
from tests.support.raw_server import on_uvloop, say

GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LARGE = b"y" * 20_000_000
READY = AsyncMock(return_value=None)


async def answer(send: Send, body: bytes = b"ok") -> None:
    length = str(len(body)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]},
    )
    await send({"type": "http.response.body", "body": body})


async def ok(_: Scope, receive: Receive, send: Send) -> None:
    await answer(send)


async def large(_: Scope, receive: Receive, send: Send) -> None:
    await answer(send, LARGE)


class Held:
    """An app that answers when the test lets it."""

    def __init__(self) -> None:
        self.arrived = 0
        self.go_on = asyncio.Event()

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        self.arrived += 1
        await self.go_on.wait()
        await answer(send)


def serving(app: ASGIApp, grace_s: int = 5) -> AbstractAsyncContextManager[int]:
    return serve_http(app, "127.0.0.1", 0, grace_s=grace_s)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (GET, b"200"),
        (b"GET / HTTP/1.0\r\nhost: x\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nHost: y\r\nconnection: close\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\nconnection: close\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/0.9\r\nhost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"GET / HTTP/3.7\r\nhost: x\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (
            (
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: "
                b"chunked\r\n\r\n"
            ),
            b"400",
        ),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
            b"400",
        ),
    ],
)
async def test_only_http_1_with_exactly_one_host_is_served(
    words: bytes,
    status: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(ok) as port:
        answered = await say(port, words)
    assert answered.split()[1] == status
    assert answered.count(b"HTTP/1.1 ") == 1
    assert b"\r\nserver:" not in answered.lower()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@on_uvloop
async def test_an_answer_before_the_body_is_seen() -> None:
    body = b"y" * 10_000_000
    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(
        body,
    )
    async with serving(ok) as port:
        for _ in range(5):
            assert (await say(port, head + body)).endswith(b"\r\n\r\nok")


async def test_who_waits_for_100_continue_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "_DROPPED_WITHIN_S", 600.0)
    head = (
        b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n"
        b"content-length: 9\r\n\r\n"
    )
    async with serving(ok) as port:
        answered = await say(port, head)
    assert answered.startswith(b"HTTP/1.1 200")
    assert answered.endswith(b"ok")


@on_uvloop
async def test_256_are_served_at_once_and_more_get_503() -> None:
    held = Held()
    async with serving(held) as port:
        asking = [asyncio.create_task(say(port, GET)) for _ in range(http.LIMIT_CONCURRENCY - 1)]
        await until(lambda: held.arrived == len(asking))
        assert (await say(port, GET)).startswith(b"HTTP/1.1 503")
        held.go_on.set()
        assert all([(await pending).endswith(b"ok") for pending in asking])
        assert (await say(port, GET)).endswith(b"ok")


@on_uvloop
async def test_a_server_has_a_limit_of_its_own_and_refuses_in_its_own_words() -> None:
    async def refusal(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("too many", 429)(scope, receive, send)

    held = Held()
    limit = http.Limit(http.LIMIT_CONCURRENCY + 10, refusal)
    async with http.serve_http(held, "127.0.0.1", 0, grace_s=1, limit=limit) as port:
        asking = [asyncio.create_task(say(port, GET)) for _ in range(limit.connections)]
        await until(lambda: held.arrived == len(asking))
        answer = await say(port, GET)
        assert answer.startswith(b"HTTP/1.1 429")
        assert answer.endswith(b"too many")
        held.go_on.set()
        assert all([(await pending).endswith(b"ok") for pending in asking])
        assert (await say(port, GET)).endswith(b"ok")


@on_uvloop
async def test_who_is_answered_at_the_end_cannot_reach_the_server_any_longer() -> None:
    async def asks_again() -> None:
        await asking
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)

    held = Held()
    async with http.serve_http(
        held,
        "127.0.0.1",
        0,
        grace_s=5,
        on_closed=held.go_on.set,
    ) as port:
        asking = asyncio.create_task(say(port, GET))
        again = asyncio.create_task(asks_again())
        await until(lambda: held.arrived == 1)
    assert (await asking).endswith(b"ok")
    await again


@on_uvloop
async def test_requests_under_way_end_before_the_server_does() -> None:
    held = Held()
    async with serving(held) as port:
        asking = asyncio.create_task(say(port, GET))
        await until(lambda: held.arrived == 1)
        asyncio.get_running_loop().call_later(0.3, held.go_on.set)
    assert (await asking).endswith(b"ok")
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


@on_uvloop
async def test_the_end_of_a_process_is_bounded_and_one_line_says_how_many_requests_were_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = Held()
    begun = asyncio.Event()

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/large":
            begun.set()
            await large(scope, receive, send)
        else:
            await held(scope, receive, send)

    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    async with serving(either, grace_s=1) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        for (_, writer), words in zip(
            opened,
            [b"", b"GET", GET, GET, GET, GET.replace(b"/", b"/large", 1)],
            strict=True,
        ):
            writer.write(words)
        await until(lambda: held.arrived == 3 and begun.is_set())
        ends = loop.time()
    assert loop.time() - ends < 4 * BUSY
    await until(lambda: asyncio.all_tasks() == before)
    for _, writer in opened:
        writer.close()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        "Cancel 3 running task(s), timeout graceful shutdown exceeded",
    ]
    assert not errors[0].exc_info


async def test_metrics_health_and_readiness_are_served() -> None:
    registry = CollectorRegistry()
    Counter("leads", "Leads.", registry=registry).inc(exemplar={"trace_id": "abc"})
    not_ready = AsyncMock(return_value=None)
    async with (
        serve_ops("127.0.0.1", 0, registry, not_ready) as port,
        httpx.AsyncClient() as client,
    ):
        url = f"http://127.0.0.1:{port}"
        metrics = await client.get(f"{url}/metrics")
        assert metrics.status_code == 200
        assert "leads_total 1.0" in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert "trace_id" not in metrics.text
        asked = {
            "accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
        }
        metrics = await client.get(f"{url}/metrics", headers=asked)
        assert metrics.headers["content-type"].startswith(
            "application/openmetrics-text; version=1.0.0",
        )
        assert 'leads_total 1.0 # {trace_id="abc"} 1.0' in metrics.text
        assert metrics.text.endswith("# EOF\n")
        assert [(await client.get(f"{url}/{path}")).text for path in ("healthz", "readyz")] == [
            "ok\n",
            "ok\n",
        ]
        not_ready.return_value = "not joined to the group yet"
        answer = await client.get(f"{url}/readyz")
        assert answer.status_code == 503
        assert answer.text == "not joined to the group yet\n"
        assert (await client.get(f"{url}/other")).status_code == 404
        assert (await client.post(f"{url}/healthz")).status_code == 405


async def test_a_port_that_is_taken_is_an_error_in_one_line() -> None:
    async with serve_ops("127.0.0.1", 0, CollectorRegistry(), READY) as port:
        with pytest.raises(
            StreamAppError,
            match=rf"^cannot serve on 127\.0\.0\.1:{port} .*\[http\]",
        ):
            async with serve_ops("127.0.0.1", port, CollectorRegistry(), READY):
                pass
