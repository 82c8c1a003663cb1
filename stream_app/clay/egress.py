"""Outgoing connections of the worker and of `doctor`: trusted certificate authorities and the proxy."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

import aiohttp
import certifi
import yarl

from stream_app.domain.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Egress:
    """How to connect to hosts outside.

    Attributes:
        tls: Verifies certificates.
        proxy_url: `http://user:password@host:port`, a secret. None: no proxy.
    """

    tls: ssl.SSLContext
    proxy_url: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, ca_file: str | None = None, proxy_url: str | None = None) -> Self:
        """Build from configured values.

        Args:
            ca_file: PEM file. It replaces the public certificate authorities.
            proxy_url: See the class.

        Raises:
            SettingsError: The file cannot be read, or is not a PEM file.
        """
        try:
            return cls(ssl.create_default_context(cafile=ca_file or certifi.where()), proxy_url)
        except OSError as exc:
            raise SettingsError([f"egress.ca_file = {ca_file!r}: cannot read it as a PEM file: {exc}"]) from exc

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
