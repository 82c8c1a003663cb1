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

    `token` is the bearer token. None: accept only requests that come directly from a program of this machine; then the
    board listens on a loopback address (config/rules.py).
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    def check(self, request: Request) -> None:
        """Raise Refused if the request is not allowed."""
        if self._token is not None:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                text = "Send the header Authorization: Bearer <token> with the token of board.token_env"
                raise Refused(401, "no_token", text)
        else:
            check_is_direct(request)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "read_only", "The look-up API only reads: use GET")


def check_is_direct(request: Request) -> None:
    """Raise Refused unless a program of this machine made the request, and no proxy.

    A web page whose own host name resolves to this machine names that host. A proxy shows itself by headers that it
    adds. One with stock settings, such as `proxy_pass http://127.0.0.1:9107` of nginx, adds none and names our own
    address as the host; but `Connection` is of one hop only, so that a proxy never passes it on from its client, and
    these send HTTP/1.0, `Connection: close` or no such header, where every browser and HTTP library asks us to keep the
    connection.
    """
    keeps = [value.strip().lower() for name, value in request.scope["headers"] if name == b"connection"]
    direct = request.scope["http_version"] == "1.1" and keeps == [b"keep-alive"] and not _is_forwarded(request)
    if not direct or not is_loopback(host_of(request)):
        text = (
            "Without board.token_env only this machine is answered, directly, at http://127.0.0.1, and with the header "
            "Connection: keep-alive that browsers send: set a token for all others"
        )
        raise Refused(403, "not_loopback", text)


def host_of(request: Request) -> str:
    """The host that the request names, without port; "" unless there is exactly one valid Host header."""
    hosts = [value for name, value in request.scope["headers"] if name == b"host"]
    found = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    return (found[1] or found[2]) if found else ""


def _is_forwarded(request: Request) -> bool:
    return any(name.startswith(_FORWARDED) for name in request.headers)
