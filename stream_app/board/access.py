"""Who may use the board: sessions after a login or with a ticket, and tokens of the look-up API.

The token that was entered at the login decides the role. A viewer reads; an operator also gives
commands. Without an operator token there is no operator. The look-up API takes a bearer token and
only reads. Where no token of viewers is configured, the board has made one (config/board_files.py),
and its user's browser comes in with a ticket, which `stream-app open` asks for.

A session is not stored: the cookie holds the name and the time of the login, signed with a key that
is derived from the token of the role. A board that restarts therefore accepts it, and a new token
ends all of its sessions.
"""

import asyncio
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stream_app.tasks import cancel


class AccessRefused(Exception):
    """The request is rejected with this status, code and text."""

    def __init__(self, status: int, error: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.error = error


class Access:
    """Checks each request to the look-up API.

    Args:
        token: The bearer token.
        made_here: The board has made it, because none is configured.
    """

    def __init__(self, token: str, *, made_here: bool) -> None:
        self._token = token.encode()
        self._made_here = made_here

    def check(self, request: Request) -> None:
        """Raise AccessRefused if the request is not allowed."""
        check_bearer(request, self._token, made_here=self._made_here)
        if request.method not in ("GET", "HEAD"):
            raise AccessRefused(405, "read_only", "The look-up API only reads: use GET")


def check_bearer(request: Request, token: bytes, *, made_here: bool) -> None:
    """Raise AccessRefused unless the request has the token. `made_here`: the board made it."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token):
        return
    text = "Send the header Authorization: Bearer <token> with the token of board.token_env"
    if made_here:
        text = (
            "No token is configured, so the board answers only the user who runs it, "
            "whose commands find its own token (`stream-app open --token` prints it): "
            "set board.token_env for everyone else"
        )
    raise AccessRefused(401, "no_token", text)


COOKIE: Final = "stream_app_board"
PATH: Final = "/board"
MAX_NAME_CHARACTERS: Final = 80
LOCAL: Final = "this machine"
"""Who looks at the board with a ticket."""
PROXY_SECRET_HEADER: Final = "x-stream-app-proxy-secret"

MAX_WAITING: Final = 16
"""Wrong tokens that wait for their answer at once."""
LOGIN_RETRY_AFTER_S: Final = 4
"""When a wrong token finds a place again: all that wait are answered by then."""

TICKET_S: Final = 60
MAX_TICKETS: Final = 16
"""Tickets that are not used yet."""

_FAILURE_S: Final = 1.0
_ATTEMPTS: Final = MAX_WAITING // LOGIN_RETRY_AFTER_S

Role = Literal["viewer", "operator"]
SESSION_S: Final[dict[Role, int]] = {"viewer": 12 * 3_600, "operator": 2 * 3_600}
"""How long a session lasts after its login, in seconds. Operators spend credits, so theirs is
shorter.
"""


class LoginNeeded(Exception):
    """There is no valid session."""


class Session(msgspec.Struct, frozen=True):
    """A login.

    Attributes:
        who: The person's name.
        began_s: When it began, in epoch s.
    """

    who: str
    began_s: int


class Visitor(msgspec.Struct, frozen=True):
    """Who makes a request, and in which role.

    Attributes:
        has_session: False for a person who is not known yet.
    """

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
        token: The token of viewers.
        now_s: The clock, epoch s.
        made_here: The board has made the token, because none is configured.
        operator_token: The token of operators. None: there are none.
        proxy: Names the people. None: they enter their name.
        url: Where people find the board.
    """

    def __init__(
        self,
        token: str,
        now_s: Callable[[], int],
        *,
        made_here: bool,
        operator_token: str | None,
        proxy: Proxy | None,
        url: str,
    ) -> None:
        tokens: dict[Role, str | None] = {"viewer": token, "operator": operator_token}
        self._tokens: dict[Role, bytes] = {
            role: value.encode() for role, value in tokens.items() if value is not None
        }
        self._keys: dict[Role, bytes] = {
            role: hmac.digest(value, f"stream-app board session 2 {role}".encode(), "sha256")
            for role, value in self._tokens.items()
        }
        self._url = urlsplit(url)
        self._now_s = now_s
        self._proxy = proxy
        self._attempts = asyncio.Semaphore(_ATTEMPTS)
        self._waiting = 0
        self._tickets: dict[str, int] = {}
        """Ticket -> epoch s until which it lets a browser in."""
        self.made_here = made_here
        """The board has made the token of viewers, so it gives tickets to those who have it."""
        self.asks_name = proxy is None
        """People enter their name at the login."""
        self.roles = list(self._tokens)
        """The roles that have a token."""

    def check(self, request: Request, role: Role = "viewer") -> Visitor:
        """Return who makes the request.

        Raises:
            LoginNeeded: There is no session, and one is needed.
            AccessRefused: It is not allowed, or its session does not have the role.
        """
        if request.method not in ("GET", "HEAD"):
            self._check_origin(request)
        visitor = self._read(request)
        if visitor is None:
            raise LoginNeeded
        if role == "operator" and visitor.role != "operator":
            text = "Only operators may do this: log in with the token of board.operator_token_env"
            raise AccessRefused(403, "not_operator", text)
        return visitor

    async def login(self, request: Request, token: str, who: str) -> tuple[str, Visitor]:
        """Return the cookie's value, and who logged in.

        A wrong token is refused after a second, if few others wait.

        Raises:
            AccessRefused: The token is wrong, or there is no name.
        """
        self._check_origin(request)
        given = token.strip().encode()
        roles = [role for role, value in self._tokens.items() if hmac.compare_digest(given, value)]
        if not roles:
            await self._wait(request)
            names = [_SETTING[role] for role in self._tokens]
            if self.made_here:
                names[0] = "`stream-app open --token`"
            raise AccessRefused(
                403,
                "wrong_token",
                f"This is not the token of {' or '.join(names)}",
            )
        name = self._named_by_proxy(request) if self._proxy else _clean(who)
        if not name:
            raise AccessRefused(
                422,
                "no_name",
                "Enter your name: it is logged, and commands are kept with it",
            )
        return self.session(name, roles[0]), Visitor(name, roles[0])

    def session(self, who: str, role: Role) -> str:
        """Return the cookie's value of a session that begins now."""
        raw = msgspec.json.encode(Session(who, self._now_s()))
        return f"{urlsafe_b64encode(raw).decode()}.{self._signature(role, raw)}"

    def make_ticket(self, request: Request) -> str:
        """Return a ticket for a caller with the token. It lets one browser in, once and soon.

        The address of a page shows in lists of processes and in a browser's history, so it never
        has the token.

        Raises:
            AccessRefused: The request does not have the token.
        """
        check_bearer(request, self._tokens["viewer"], made_here=self.made_here)
        now_s = self._now_s()
        self._tickets = {
            ticket: until_s for ticket, until_s in self._tickets.items() if until_s > now_s
        }
        while len(self._tickets) >= MAX_TICKETS:
            del self._tickets[next(iter(self._tickets))]  # the oldest
        ticket = secrets.token_urlsafe(32)
        self._tickets[ticket] = now_s + TICKET_S
        return ticket

    def enter(self, ticket: str) -> str:
        """Return the cookie's value for the bearer of a ticket, which is used up.

        Raises:
            AccessRefused: There is no such ticket any more.
        """
        if self._tickets.pop(ticket, 0) <= self._now_s():
            text = f"This address was good once, and for {TICKET_S} s: run `stream-app open` again"
            raise AccessRefused(403, "old_ticket", text)
        return self.session(LOCAL, "viewer")

    async def _wait(self, request: Request) -> None:
        """Let a wrong token wait, until its peer has gone at the latest. Its form has been read.

        Raises:
            AccessRefused: Too many wait.
        """
        if self._waiting >= MAX_WAITING:
            text = f"Too many wrong tokens were entered: try again in {LOGIN_RETRY_AFTER_S} s"
            raise AccessRefused(429, "too_many_logins", text)
        self._waiting += 1
        delay = asyncio.create_task(self._delay())
        # The request has been read, so what comes next is the end of its connection.
        gone = asyncio.ensure_future(request.receive())
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
            roles = [
                role
                for role in self._keys
                if hmac.compare_digest(given, self._signature(role, raw).encode())
            ]
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
        secret = request.headers.get(PROXY_SECRET_HEADER, "")
        name = _clean(request.headers.get(self._proxy.header, ""))
        if not name or not hmac.compare_digest(secret.encode(), self._proxy.secret.encode()):
            text = "The proxy did not name you: it must send board.user_header, and the secret in "
            raise AccessRefused(403, "no_user", f"{text}{PROXY_SECRET_HEADER.title()}")
        return name

    def _signature(self, role: Role, raw: bytes) -> str:
        return hmac.new(self._keys[role], raw, sha256).hexdigest()

    def set_cookie(self, response: Response, value: str, age_s: int) -> None:
        """Set the session's cookie for `age_s` seconds; 0 deletes it.

        It needs HTTPS where the board has it.
        """
        secure = self._url.scheme == "https"
        response.set_cookie(
            COOKIE,
            value,
            age_s,
            path=PATH,
            secure=secure,
            httponly=True,
            samesite="strict",
        )

    def _check_origin(self, request: Request) -> None:
        """Raise AccessRefused if another site's page made the request.

        Browsers say so in headers that pages cannot set.
        """
        site = request.headers.get("sec-fetch-site")
        # An older browser sends no sec-fetch-site. Programs send neither header, and have no cookie
        # that they could misuse.
        if site is None:
            origin = request.headers.get("origin", "").partition("://")[2]
            # A proxy may name our own address as the host.
            same = bool(origin) and origin in (request.headers.get("host", ""), self._url.netloc)
        else:
            same = site == "same-origin"
        if not same:
            raise AccessRefused(
                403,
                "other_origin",
                "The request came from another site: open the page of the board itself",
            )


_SETTING: Final[dict[Role, str]] = {
    "viewer": "board.token_env",
    "operator": "board.operator_token_env",
}


def _clean(name: str) -> str:
    return "".join(filter(str.isprintable, name)).strip()[:MAX_NAME_CHARACTERS]
