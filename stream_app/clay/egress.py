"""Outgoing connections of the worker and of `doctor`: how they leave, and which hosts answer."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal, Self
from urllib.parse import unquote, urlsplit

import aiohttp
import yarl

from stream_app.domain.errors import SettingsError
from stream_app.tasks import cancel

_HOST_WITHIN_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Egress:
    """How to connect to hosts outside.

    Attributes:
        tls: Verifies certificates. True: against the authorities that the system trusts. aiohttp has read them already.
        proxy_url: `http://user:password@host:port`, a secret. None: no proxy.
    """

    tls: ssl.SSLContext | Literal[True]
    proxy_url: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, ca_file: str | None = None, proxy_url: str | None = None) -> Self:
        """Build from configured values.

        Args:
            ca_file: PEM file. It replaces the authorities that the system trusts.
            proxy_url: See the class.

        Raises:
            SettingsError: The file cannot be read, or is not a PEM file.
        """
        try:
            return cls(ssl.create_default_context(cafile=ca_file) if ca_file else True, proxy_url)
        except OSError as exc:
            raise SettingsError([f"egress.ca_file = {ca_file!r}: cannot read it as a PEM file: {exc}"]) from exc

    @property
    def tls_context(self) -> ssl.SSLContext:
        """`tls` for a client that would take other authorities for True."""
        return ssl.create_default_context() if self.tls is True else self.tls

    @property
    def proxy(self) -> yarl.URL | None:
        """The proxy's address without its credentials."""
        return None if self.proxy_url is None else yarl.URL(self.proxy_url).with_user(None)

    @property
    def proxy_headers(self) -> dict[str, str]:
        """The proxy's credentials as a header. Empty if the URL has none."""
        parts = urlsplit(self.proxy_url or "")
        if parts.username is None:
            return {}
        login = aiohttp.encode_basic_auth(unquote(parts.username), unquote(parts.password or ""))
        return {"proxy-authorization": login}


class HostCheck:
    """Sends `HEAD /` to the host of a webhook. Callers share the one request that is in flight to a host.

    An answer does not prove that a webhook takes leads. But where the host does not answer, no webhook does.
    """

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
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_HOST_WITHIN_S)) as session,
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
