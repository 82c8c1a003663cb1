"""Who may use the board: a session after a login, a bearer token of the look-up API, or only this machine.

The token that was entered at the login decides the role. A viewer reads; an operator also gives commands. Without an
operator token there is no operator. The look-up API only reads.

A session is not stored: the cookie holds the name and the time of the login, signed with a key that is derived from the
token of the role. So a board that restarts accepts it, and a new token ends all of its sessions.
"""

import asyncio
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stream_app.domain.model.addresses import is_loopback
from stream_app.tasks import cancel

_HOST: Final = re.compile(r"(?:([A-Za-z0-9.-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
_FORWARDED: Final = (
    "forwarded",
    "via",
    "x-forwarded",
    "x-real-ip",
    "x-original",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-",
    "fastly-",
    "x-envoy",
    "x-appengine",
    "x-azure",
    "x-amzn",
    "x-vercel",
    "fly-",
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
    """Raise Refused unless a program of this machine made the request, and no proxy."""
    if not _is_direct(request):
        text = (
            "Without board.token_env only this machine is answered, directly, at http://127.0.0.1, and with the header "
            "Connection: keep-alive that browsers send: set a token for all others"
        )
        raise Refused(403, "not_loopback", text)


def _is_direct(request: Request) -> bool:
    """Return True if a program of this machine made the request, and no proxy.

    The address of the peer is the only part of a request that its sender cannot choose, but browsers
    and proxies of this machine have it, too. A web page whose own host name resolves to this machine
    names that host, and a proxy shows itself by headers that it adds. One with stock settings, such as
    `proxy_pass http://127.0.0.1:9107` of nginx, adds none and names our own address as the host; but
    `Connection` is of one hop only, so that a proxy never passes it on from its client, and these send
    HTTP/1.0, `Connection: close` or no such header, where every browser and HTTP library asks us to
    keep the connection.
    """
    peer = request.client
    if peer is None or not is_loopback(peer.host):
        return False
    keeps = [value.strip().lower() for name, value in request.scope["headers"] if name == b"connection"]
    is_forwarded = any(name.startswith(_FORWARDED) for name in request.headers)
    direct = request.scope["http_version"] == "1.1" and keeps == [b"keep-alive"] and not is_forwarded
    return direct and is_loopback(_host_of(request))


def _host_of(request: Request) -> str:
    """Return the host that the request names, without port; "" unless there is exactly one valid Host header."""
    hosts = [value for name, value in request.scope["headers"] if name == b"host"]
    host = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    return (host[1] or host[2]) if host else ""


COOKIE: Final = "stream_app_board"
PATH: Final = "/board"
LONGEST_NAME: Final = 80
LOCAL: Final = "this machine"
"""Who looks at the board where no token is configured."""
PROXY_SECRET_HEADER: Final = "x-stream-app-proxy-secret"

MOST_WAITING: Final = 16
"""Wrong tokens that wait for their answer at once."""
RETRY_AFTER_S: Final = 4
"""When a wrong token finds a place again: all that wait are answered by then."""

_FAILURE_S: Final = 1.0
_ATTEMPTS: Final = MOST_WAITING // RETRY_AFTER_S

Role = Literal["viewer", "operator"]
SESSION_S: Final[dict[Role, int]] = {"viewer": 12 * 3_600, "operator": 2 * 3_600}
"""How long a session lasts after its login, in seconds. Operators spend credits, so theirs is shorter."""


class LoginNeeded(Exception):
    """There is no valid session."""


class Session(msgspec.Struct, frozen=True):
    """A login. `who`: the person's name; `began_s`: epoch s."""

    who: str
    began_s: int


class Visitor(msgspec.Struct, frozen=True):
    """Who makes a request, and in which role. `has_session`: False for one from this machine without a login."""

    who: str
    role: Role
    has_session: bool = True


STRANGER: Final = Visitor("", "viewer", has_session=False)


class Proxy(msgspec.Struct, frozen=True):
    """A proxy that logs people in. Its header counts only together with the secret.

    Attributes:
        header: The header with the person's name, such as X-Auth-Request-Email.
        secret: What it sends as X-Stream-App-Proxy-Secret.
    """

    header: str
    secret: str


_session: Final = msgspec.json.Decoder(Session)


class BoardAccess:
    """Checks each request to the board.

    Args:
        token: The token of viewers. None: programs and browsers of this machine may read.
        now_s: The clock, epoch s.
        operator_token: The token of operators. None: there are none.
        proxy: Names the people. None: they enter their name.
        url: Where people find the board.
    """

    def __init__(
        self, token: str | None, now_s: Callable[[], int], operator_token: str | None, proxy: Proxy | None, url: str
    ) -> None:
        tokens: dict[Role, str | None] = {"viewer": token, "operator": operator_token}
        self._tokens: dict[Role, bytes] = {role: value.encode() for role, value in tokens.items() if value is not None}
        self._keys: dict[Role, bytes] = {
            role: hmac.digest(value, f"stream-app board session 2 {role}".encode(), "sha256")
            for role, value in self._tokens.items()
        }
        self._url = urlsplit(url)
        self._now_s = now_s
        self._proxy = proxy
        self._attempts = asyncio.Semaphore(_ATTEMPTS)
        self._waiting = 0
        self.asks_name = proxy is None
        """People enter their name at the login."""
        self.roles = list(self._tokens)
        """The roles that have a token."""

    def check(self, request: Request, role: Role = "viewer") -> Visitor:
        """Return who makes the request.

        Raises:
            LoginNeeded: There is no session, and one is needed.
            Refused: It is not allowed, or its session has not the role.
        """
        if request.method not in ("GET", "HEAD"):
            self._check_origin(request)
        visitor = self._read(request)
        if visitor is None:
            if "viewer" in self._tokens:
                raise LoginNeeded
            check_is_direct(request)
            visitor = Visitor(LOCAL, "viewer", has_session=False)
        if role == "operator" and visitor.role != "operator":
            text = "Only operators may do this: log in with the token of board.operator_token_env"
            raise Refused(403, "not_operator", text)
        return visitor

    async def login(self, request: Request, token: str, who: str) -> tuple[str, Visitor]:
        """Return the cookie's value, and who logged in. A wrong token is refused after a second, if few others wait.

        Raises:
            Refused: The token is wrong, or there is no name.
        """
        self._check_origin(request)
        if not self._tokens:
            raise Refused(404, "no_login", "No token is configured, so there is no login")
        given = token.strip().encode()
        roles = [role for role, value in self._tokens.items() if hmac.compare_digest(given, value)]
        if not roles:
            await self._wait(request)
            names = " or ".join(_SETTING[role] for role in self._tokens)
            raise Refused(403, "wrong_token", f"This is not the token of {names}")
        name = self._named_by_proxy(request) if self._proxy else _clean(who)
        if not name:
            raise Refused(422, "no_name", "Enter your name: it is logged, and commands are kept with it")
        raw = msgspec.json.encode(Session(name, self._now_s()))
        visitor = Visitor(name, roles[0])
        return f"{urlsafe_b64encode(raw).decode()}.{self._signature(visitor.role, raw)}", visitor

    async def _wait(self, request: Request) -> None:
        """Let a wrong token wait, until its peer has gone at the latest. Its form has been read.

        Raises:
            Refused: Too many wait.
        """
        if self._waiting >= MOST_WAITING:
            text = f"Too many wrong tokens were entered: try again in {RETRY_AFTER_S} s"
            raise Refused(429, "too_many_logins", text)
        self._waiting += 1
        delay = asyncio.create_task(self._delay())
        gone = asyncio.ensure_future(request.receive())  # it has been read, so that this is the end of its connection
        try:
            await asyncio.wait((delay, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting -= 1
            await cancel([delay, gone])

    async def _delay(self) -> None:
        async with self._attempts:
            await asyncio.sleep(_FAILURE_S)

    def _read(self, request: Request) -> Visitor | None:
        body, _, signature = request.cookies.get(COOKIE, "").partition(".")
        given = signature.encode()
        try:
            raw = urlsafe_b64decode(body)
            roles = [role for role in self._keys if hmac.compare_digest(given, self._signature(role, raw).encode())]
            session = _session.decode(raw) if roles else None
        except (ValueError, msgspec.DecodeError):
            return None
        if session is None or not 0 <= self._now_s() - session.began_s < SESSION_S[roles[0]]:
            return None
        if self._proxy is not None and self._named_by_proxy(request) != session.who:
            return None  # another person uses this browser now
        return Visitor(session.who, roles[0])

    def _named_by_proxy(self, request: Request) -> str:
        assert self._proxy is not None
        secret, name = request.headers.get(PROXY_SECRET_HEADER, ""), _clean(request.headers.get(self._proxy.header, ""))
        if not name or not hmac.compare_digest(secret.encode(), self._proxy.secret.encode()):
            text = "The proxy did not name you: it must send board.user_header, and the secret in "
            raise Refused(403, "no_user", f"{text}{PROXY_SECRET_HEADER.title()}")
        return name

    def _signature(self, role: Role, raw: bytes) -> str:
        return hmac.new(self._keys[role], raw, sha256).hexdigest()

    def set_cookie(self, response: Response, value: str, age_s: int) -> None:
        """Set the session's cookie for `age_s` seconds; 0 deletes it. It needs HTTPS where the board has it."""
        secure = self._url.scheme == "https"
        response.set_cookie(COOKIE, value, age_s, path=PATH, secure=secure, httponly=True, samesite="strict")

    def _check_origin(self, request: Request) -> None:
        """Raise Refused if another site's page made the request. Browsers say so in headers that pages cannot set."""
        site = request.headers.get("sec-fetch-site")
        if site is None:  # an older browser; programs send neither header, and have no cookie that they could misuse
            origin = request.headers.get("origin", "").partition("://")[2]
            # A proxy may name our own address as the host.
            same = bool(origin) and origin in (request.headers.get("host", ""), self._url.netloc)
        else:
            same = site == "same-origin"
        if not same:
            raise Refused(403, "other_origin", "The request came from another site: open the page of the board itself")


_SETTING: Final[dict[Role, str]] = {"viewer": "board.token_env", "operator": "board.operator_token_env"}


def _clean(name: str) -> str:
    return "".join(filter(str.isprintable, name)).strip()[:LONGEST_NAME]
