"""Probes the gateway's public address: does it answer?

Clay calls back to this address. The probe tests only what can be tested from this host.
"""

from __future__ import annotations

from typing import Final

import aiohttp

from stream_app.clay.egress import Egress

_WITHIN_S: Final = 5.0


class CallbackUrl:
    """Probes `gateway.public_url`; implements `CallbackUrlProbe`. The URL is None if no table calls back."""

    def __init__(self, public_url: str | None, egress: Egress) -> None:
        self._egress = egress
        self._url = f"{public_url.rstrip('/')}/healthz" if public_url else ""

    async def __call__(self) -> str:
        """Return '' if the gateway answers, else a description of the failure without the address."""
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
