"""Whether the callback URL answers from here: yes, otherwise, or not at all, and never with its address."""

import pytest
from aiohttp import web

from stream_app.clay.callback_url import CallbackUrl
from stream_app.clay.egress import Egress
from stream_app.dev.process import free_port


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
