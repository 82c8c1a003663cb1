"""Who may see the board: a signed session cookie after a login with the API token, or requests from this machine only.

A session is not stored: the cookie holds the name and the time of the login, signed with a key that is derived from the
token. So several gateways accept the same session, and a new token ends all of them.
"""

from __future__ import annotations

import asyncio
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stream_app.domain.hosts import is_loopback
from stream_app.gateway.access import Access, Refused, host_of

COOKIE: Final = "stream_app_board"
PATH: Final = "/board"
SESSION_S: Final = 12 * 3_600
LONGEST_NAME: Final = 80
LOCAL: Final = "this machine"
"""Who looks at the board where no token is configured."""

_FAILURE_S: Final = 1.0
_ATTEMPTS: Final = 4


class LoginNeeded(Exception):
    """There is no valid session."""


class Session(msgspec.Struct, frozen=True):
    """A login. `who`: the name that was entered; `began_s`: epoch s."""

    who: str
    began_s: int


_session: Final = msgspec.json.Decoder(Session)


class BoardAccess:
    """Checks each request to the board.

    Args:
        token: The token of the look-up API. None: accept only requests that were made to a loopback address.
        host: The address that the gateway listens on.
        now_s: The clock, epoch s.
    """

    def __init__(self, token: str | None, host: str, now_s: Callable[[], int]) -> None:
        self._token = None if token is None else token.encode()
        self._key = b"" if self._token is None else hmac.digest(self._token, b"stream-app board session 1", "sha256")
        self._local = Access(None, host)
        self._now_s = now_s
        self._attempts = asyncio.Semaphore(_ATTEMPTS)

    @property
    def has_login(self) -> bool:
        """True if a token is configured."""
        return self._token is not None

    def viewer(self, request: Request) -> str:
        """Return who makes the request. Raises LoginNeeded or Refused."""
        if request.method not in ("GET", "HEAD"):
            check_origin(request)
        if self._token is None:
            self._local.check_without_token(request)
            return LOCAL
        session = self._read(request.cookies.get(COOKIE, ""))
        if session is None:
            raise LoginNeeded
        return session.who

    async def login(self, request: Request, token: str, who: str) -> str:
        """Return the cookie's value. Raises Refused if the token is wrong; that takes a second.

        Args:
            request: The request, whose origin is checked.
            token: What was entered as the token.
            who: What was entered as the name.
        """
        check_origin(request)
        if self._token is None:
            raise Refused(404, "no_login", "No token is configured, so there is no login")
        if not hmac.compare_digest(token.strip().encode(), self._token):
            async with self._attempts:
                await asyncio.sleep(_FAILURE_S)
            raise Refused(403, "wrong_token", "This is not the token of gateway.api_token_env")
        raw = msgspec.json.encode(Session(who.strip()[:LONGEST_NAME] or "unnamed", self._now_s()))
        return f"{urlsafe_b64encode(raw).decode()}.{self._signature(raw)}"

    def _read(self, cookie: str) -> Session | None:
        body, _, signature = cookie.partition(".")
        try:
            raw = urlsafe_b64decode(body)
            if not hmac.compare_digest(signature.encode(), self._signature(raw).encode()):
                return None
            session = _session.decode(raw)
        except (ValueError, msgspec.DecodeError):
            return None
        return session if 0 <= self._now_s() - session.began_s < SESSION_S else None

    def _signature(self, raw: bytes) -> str:
        return hmac.new(self._key, raw, sha256).hexdigest()


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Set or (with an empty value) delete the session's cookie. Over a network it needs HTTPS."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=SESSION_S if value else 0,
        path=PATH,
        secure=not is_loopback(host_of(request)),
        httponly=True,
        samesite="strict",
    )


def check_origin(request: Request) -> None:
    """Raise Refused if another site's page made the request. Browsers say so in headers that pages cannot set."""
    site = request.headers.get("sec-fetch-site")
    if site is None:  # an older browser; programs send neither header, and have no cookie that they could misuse
        origin = request.headers.get("origin", "")
        same = origin.partition("://")[2] == request.headers.get("host", "")
    else:
        same = site == "same-origin"
    if not same:
        raise Refused(403, "other_origin", "The request came from another site: open the page of the board itself")
