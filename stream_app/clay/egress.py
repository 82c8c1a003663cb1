"""How the worker and `doctor` reach hosts outside: which authorities they trust, and through which proxy they go."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

import aiohttp
import httpx
import yarl


@dataclass(frozen=True, slots=True)
class Egress:
    """`tls` verifies certificates. `proxy_url` is http://user:password@host:port, and a secret; None: no proxy."""

    tls: ssl.SSLContext
    proxy_url: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, ca_file: str | None = None, proxy_url: str | None = None) -> Self:
        """`ca_file` (PEM) replaces the public authorities. Raises OSError: it cannot be read, or is no PEM file."""
        if ca_file is None:
            return cls(httpx.create_ssl_context(trust_env=False), proxy_url)
        return cls(ssl.create_default_context(cafile=ca_file), proxy_url)

    @property
    def proxy(self) -> yarl.URL | None:
        """The proxy's address without its credentials."""
        return None if self.proxy_url is None else yarl.URL(self.proxy_url).with_user(None)

    @property
    def proxy_headers(self) -> dict[str, str]:
        """The proxy's credentials as a header, where its URL has some."""
        parts = urlsplit(self.proxy_url or "")
        if parts.username is None:
            return {}
        login = aiohttp.encode_basic_auth(unquote(parts.username), unquote(parts.password or ""))
        return {"proxy-authorization": login}
