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

from stream_app.dev.simulator import Simulator, parse_script
from tests.support.raw_server import OK, READ, RawServer, serve

SLUG = "acme--crm"
DEADLINE_S = 60.0


class SimulatorBench:
    """One simulator and what a test does with it."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.session = session

    async def post(self, payload: object, slug: str = SLUG, **how: Any) -> int:
        """Submits a payload; returns the status."""
        return (await self.answer(payload, slug, **how))[0]

    async def answer(
        self,
        payload: object,
        slug: str = SLUG,
        *,
        token: str | None = None,
        raw: bytes | None = None,
        content_type: str | None = "application/json",
    ) -> tuple[int, dict[str, str], str]:
        """Submits a payload (or raw bytes); returns status, headers and body."""
        headers = {"x-clay-webhook-auth": token} if token else {}
        if content_type is not None:
            headers["content-type"] = content_type
        async with self.session.post(
            f"{self.sim.url}/v3/sources/webhook/{slug}",
            data=BytesIO(json.dumps(payload).encode() if raw is None else raw),
            headers=headers,
            skip_auto_headers=["content-type"],
            allow_redirects=False,
        ) as response:
            return response.status, dict(response.headers), await response.text()

    async def control(self, path: str, body: object = None) -> Any:
        """POSTs to /control/<path>; it must answer 200."""
        async with self.session.post(
            f"{self.sim.control_url}/control/{path}",
            json=body or {},
        ) as response:
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


async def wait_until(
    condition: Callable[[], Awaitable[bool]],
    deadline_s: float = DEADLINE_S,
) -> None:
    end = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < end, "the deadline passed"
        await asyncio.sleep(0.005)


Start = Callable[[str], Awaitable[SimulatorBench]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a simulator from a script's text."""
    async with AsyncExitStack() as stack:

        async def make(script: str = "") -> SimulatorBench:
            sim = Simulator(parse_script(script))
            await sim.start()
            stack.push_async_callback(sim.stop)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return SimulatorBench(sim, session)

        yield make


@pytest.fixture
async def receiver() -> AsyncIterator[RawServer]:
    """Where callbacks go: its `requests` are those that came."""
    async with serve(READ, OK.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)) as server:
        yield server
