"""Whether Clay could reach us, as far as that can be tried from here: does the gateway answer at its public address?"""

from __future__ import annotations

from typing import Final

import aiohttp

from stream_app.clay.egress import Egress

_WITHIN_S: Final = 5.0


class CallbackUrl:
    """`overdue.CallbackUrlProbe`. `public_url`: as in the configuration; None where no table calls back."""

    def __init__(self, public_url: str | None, egress: Egress) -> None:
        self._egress = egress
        self._url = f"{public_url.rstrip('/')}/healthz" if public_url else ""

    async def __call__(self) -> str:
        """'' when it answers, else what came instead, without the address."""
        if not self._url:
            return ""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_S)) as session,
                session.get(
                    self._url,
                    allow_redirects=False,
                    ssl=self._egress.tls,
                    proxy=self._egress.proxy,
                    proxy_headers=self._egress.proxy_headers,
                ) as answer,
            ):
                return "" if answer.status == 200 else f"/healthz answers HTTP {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"{type(error).__name__} within {_WITHIN_S:g} s"
