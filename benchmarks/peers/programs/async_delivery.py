"""Delivers leads over aiohttp, with the libraries that most Python services use: aiolimiter and
tenacity.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import aiohttp
from aiolimiter import AsyncLimiter
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

IN_FLIGHT = int(os.environ["IN_FLIGHT"])
_RATE_PER_S = float(os.environ["RATE_PER_S"])
_URL = os.environ["URL"]


class NotTaken(Exception):
    """The API was busy or is not there: try again later."""


class Delivery:
    """Posts a lead at the rate, retries it, and passes it to `dead_letter` in the end."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        dead_letter: Callable[[bytes], Awaitable[object]],
    ) -> None:
        self._session = session
        self._dead_letter = dead_letter
        self._limiter = AsyncLimiter(1, 1 / _RATE_PER_S) if _RATE_PER_S else None

    async def __call__(self, lead: bytes) -> None:
        attempts = AsyncRetrying(
            stop=stop_after_attempt(6),
            wait=wait_exponential_jitter(initial=0.5, max=10),
            retry=retry_if_exception_type((NotTaken, aiohttp.ClientError, TimeoutError)),
        )
        try:
            async for attempt in attempts:
                with attempt:
                    await self.post(lead)
        except RetryError:
            await self._dead_letter(lead)

    async def post(self, lead: bytes) -> None:
        if self._limiter is not None:
            await self._limiter.acquire()
        async with self._session.post(
            _URL,
            data=lead,
            headers={"content-type": "application/json"},
        ) as answer:
            await answer.read()
            if answer.status == 429 or answer.status >= 500:
                raise NotTaken(answer.status)
            answer.raise_for_status()


def new_session() -> aiohttp.ClientSession:
    """Return a session with a connection for each lead in flight."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT),
        timeout=aiohttp.ClientTimeout(total=30),
    )
