"""Who may ask the look-up API, and how: with the bearer token, or on this machine, and to read only."""

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
"""How headers begin that proxies and tunnels add."""


class Refused(Exception):
    """The request is answered with this status, and these words."""

    def __init__(self, status: int, error: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.error = error


class Access:
    """Who may ask. `token`: the bearer token; without one only requests that were made to a loopback address."""

    def __init__(self, token: str | None, host: str) -> None:
        self._token = None if token is None else token.encode()
        self._loopback = is_loopback(host)

    def check(self, request: Request) -> None:
        """Raises Refused."""
        if self._token is not None:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                text = "Send the header Authorization: Bearer <token>, as the gateway's gateway.api_token_env has it"
                raise Refused(401, "no_token", text)
        elif not self._loopback:
            text = "The gateway listens on a public address, and has no gateway.api_token_env: it serves nothing so"
            raise Refused(403, "token_not_set", text)
        elif not is_loopback(_host_of(request)) or _is_forwarded(request):
            # A tunnel or proxy on this machine, or a page in a browser that has its own name lead here.
            text = "Without gateway.api_token_env only requests to http://127.0.0.1 are answered, not forwarded ones"
            raise Refused(403, "not_loopback", text)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "read_only", "The look-up API only reads: use GET")


def _host_of(request: Request) -> str:
    """The host that the request names, without its port; "" unless there is exactly one Host header and it is valid."""
    hosts = [value for name, value in request.scope["headers"] if name == b"host"]
    found = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    return (found[1] or found[2]) if found else ""


def _is_forwarded(request: Request) -> bool:
    return any(name.startswith(_FORWARDED) for name in request.headers)
