"""Asks whether Clay's host answers, with a request that submits nothing.

An answer does not prove that a webhook takes leads. But where the host does not answer, no webhook does.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import aiohttp
import yarl

from stream_app.clay.egress import Egress
from stream_app.tasks import cancel

_WITHIN_S: Final = 3.0


class HostCheck:
    """Sends `HEAD /` to the host of a webhook. Callers share the one request that is in flight to a host."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._running: dict[yarl.URL, asyncio.Task[bool]] = {}

    async def __call__(self, webhook_url: str) -> bool:
        """Return True if the host answers within 3 s with anything but a server error."""
        host = yarl.URL(webhook_url).origin()
        running = self._running.get(host)
        if running is None:
            running = self._running[host] = asyncio.create_task(self._answers(host))
            running.add_done_callback(lambda _: self._running.pop(host, None))
        return await asyncio.shield(running)

    async def close(self) -> None:
        """End the requests in flight."""
        await cancel(list(self._running.values()))

    async def _answers(self, host: yarl.URL) -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_S)) as session,
                session.head(
                    host,
                    allow_redirects=False,
                    ssl=self._egress.tls,
                    proxy=self._egress.proxy,
                    proxy_headers=self._egress.proxy_headers,
                ) as answer,
            ):
                # A host may know no HEAD, and answers with 501 although it is well.
                return answer.status < HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.NOT_IMPLEMENTED
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
