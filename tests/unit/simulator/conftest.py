"""A simulator in this process, a client for it, and a receiver for its callbacks."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from stream_app.dev.simulator import Simulator, parse_script

SLUG = "acme--crm"
DEADLINE_S = 60.0


class Bench:
    """One simulator and what a test does with it."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.session = session

    async def post(
        self, payload: object, slug: str = SLUG, *, token: str | None = None, raw: bytes | None = None
    ) -> int:
        """Submits a payload (or raw bytes); returns the status."""
        return (await self.answer(payload, slug, token=token, raw=raw))[0]

    async def answer(
        self, payload: object, slug: str = SLUG, *, token: str | None = None, raw: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """The same; returns status, headers and body."""
        async with self.session.post(
            f"{self.sim.url}/v3/sources/webhook/{slug}",
            data=BytesIO(json.dumps(payload).encode() if raw is None else raw),
            headers={"x-clay-webhook-auth": token} if token else {},
            allow_redirects=False,
        ) as response:
            return response.status, dict(response.headers), await response.read()

    async def control(self, path: str, body: object = None) -> Any:
        """POSTs to /control/<path>; it must answer 200."""
        async with self.session.post(f"{self.sim.control_url}/control/{path}", json=body or {}) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.sim.control_url}{path}") as response:
            return await response.json()

    async def lines(self, query: str = "") -> list[dict[str, Any]]:
        async with self.session.get(f"{self.sim.control_url}/ledger?{query}") as response:
            return [json.loads(line) for line in (await response.text()).splitlines()]

    async def of_kind(self, kind: str, count: int) -> list[dict[str, Any]]:
        """The ledger's lines of a kind, as soon as there are that many."""
        lines: list[dict[str, Any]] = []

        async def enough() -> bool:
            lines[:] = await self.lines(f"kind={kind}")
            return len(lines) >= count

        await wait_until(enough)
        assert len(lines) == count
        return lines

    async def settled(self) -> None:
        """Waits until no row runs and no callback is under way."""

        async def idle() -> bool:
            state = await self.get("/control")
            return not state["rows_running"] and not state["callbacks_pending"]

        await wait_until(idle)


async def wait_until(condition: Callable[[], Awaitable[bool]], deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < end, "the deadline passed"
        await asyncio.sleep(0.005)


Start = Callable[[str], Awaitable[Bench]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a simulator from a script's text."""
    async with AsyncExitStack() as stack:

        async def make(script: str = "") -> Bench:
            sim = Simulator(parse_script(script))
            await sim.start()
            stack.push_async_callback(sim.stop)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Bench(sim, session)

        yield make


class Receiver:
    """Where callbacks go. `status` is answered, with `says` as the body."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.says = "Thank you, lead received."
        self.bodies: list[str] = []
        self.headers: list[dict[str, str]] = []

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.text())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=self.status, text=self.says)

    async def has(self, count: int) -> None:
        """Waits for that many callbacks."""

        async def enough() -> bool:
            return len(self.bodies) >= count

        await wait_until(enough)
        assert len(self.bodies) == count


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/callback", receiver.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/callback"
        yield receiver
    finally:
        await runner.cleanup()
