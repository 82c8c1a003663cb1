"""Whether Clay's host and the callback URL answer from here, without a secret path or address in what is said."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from stream_app.clay.callback_url import CallbackUrl
from stream_app.clay.egress import Egress
from stream_app.clay.host_check import HostCheck
from stream_app.dev.process import free_port
from tests.support.raw_server import HANG, serve


async def _serving(status: int) -> tuple[web.AppRunner, str]:
    app = web.Application()

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(status=status, text="ok")

    app.router.add_get("/base/healthz", healthz)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{port}/base/"


@pytest.mark.parametrize(("status", "says"), [(200, ""), (502, "/healthz answers HTTP 502"), (302, "HTTP 302")])
async def test_the_probe_of_the_callback_url_explains_each_status(status: int, says: str) -> None:
    runner, url = await _serving(status)
    try:
        reported = await CallbackUrl(url, Egress.of())()
    finally:
        await runner.cleanup()
    assert says in reported
    assert bool(says) == bool(reported)


async def test_nothing_answers() -> None:
    port = free_port()
    reported = await CallbackUrl(f"http://127.0.0.1:{port}", Egress.of())()
    assert reported
    assert str(port) not in reported


async def test_no_table_calls_back() -> None:
    assert await CallbackUrl(None, Egress.of())() == ""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WEBHOOK = "/v3/sources/webhook/secret"


@pytest.mark.parametrize(
    ("status", "answers"), [(200, True), (302, True), (404, True), (405, True), (501, True), (500, False), (503, False)]
)
async def test_a_server_error_is_no_answer(status: int, answers: bool) -> None:
    seen: list[tuple[str, str]] = []

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        seen.append((request.method, request.path))
        return web.Response(status=status)

    runner = web.AppRunner(web.Application(middlewares=[record]))
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    check = HostCheck(Egress.of())
    try:
        found = await asyncio.gather(*(check(f"http://127.0.0.1:{port}{WEBHOOK}") for _ in range(5)))
    finally:
        await runner.cleanup()
    assert set(found) == {answers}
    assert seen == [("HEAD", "/")], "one request, without the webhook's secret path"


async def test_a_closed_port_is_no_answer() -> None:
    assert not await HostCheck(Egress.of())(f"http://127.0.0.1:{free_port()}{WEBHOOK}")


async def test_a_host_that_hangs_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_app.clay.host_check._WITHIN_S", 0.2)
    async with serve(HANG) as server:
        assert not await HostCheck(Egress.of())(server.url)
