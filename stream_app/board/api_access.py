"""Access control of the look-up API: a bearer token, or requests from this machine only. Reads only."""

from __future__ import annotations

import hmac
import re
from typing import Final

from starlette.requests import Request

from stream_app.domain.hosts import is_loopback

_HOST: Final = re.compile(r"(?:([A-Za-z0-9.-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
_FORWARDED: Final = (
    *("forwarded", "via", "x-forwarded", "x-real-ip", "x-original", "x-client-ip", "x-cluster-client-ip"),
    *("true-client-ip", "cf-", "fastly-", "x-envoy", "x-appengine", "x-azure", "x-amzn", "x-vercel", "fly-"),
)
"""Prefixes of the headers that proxies and tunnels add."""


class Refused(Exception):
    """The request is rejected with this status, code and text."""

    def __init__(self, status: int, error: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.error = error


class Access:
    """Checks each request.

    Args:
        token: The bearer token. None: accept only requests that were made to a loopback address.
        host: The address that the gateway listens on.
    """

    def __init__(self, token: str | None, host: str) -> None:
        self._token = None if token is None else token.encode()
        self._loopback = is_loopback(host)

    def check(self, request: Request) -> None:
        """Raise Refused if the request is not allowed."""
        if self._token is not None:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                text = "Send the header Authorization: Bearer <token> with the token of gateway.api_token_env"
                raise Refused(401, "no_token", text)
        else:
            self.check_without_token(request)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "read_only", "The look-up API only reads: use GET")

    def check_without_token(self, request: Request) -> None:
        """Raise Refused unless the request was made directly to a loopback address."""
        if not self._loopback:
            text = (
                "The gateway listens on a public address without gateway.api_token_env: set it to use the look-up API"
            )
            raise Refused(403, "token_not_set", text)
        if not is_loopback(host_of(request)) or _is_forwarded(request):
            # A proxy on this machine could forward it, or a web page whose own host name resolves to this
            # machine.
            text = "Without gateway.api_token_env only direct requests to http://127.0.0.1 are allowed"
            raise Refused(403, "not_loopback", text)


def host_of(request: Request) -> str:
    """The host that the request names, without port; "" unless there is exactly one valid Host header."""
    hosts = [value for name, value in request.scope["headers"] if name == b"host"]
    found = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    return (found[1] or found[2]) if found else ""


def _is_forwarded(request: Request) -> bool:
    return any(name.startswith(_FORWARDED) for name in request.headers)
