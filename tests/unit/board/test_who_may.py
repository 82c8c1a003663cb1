"""Every port of every process: each route, asked by every role, under every kind of Host, with
every method.

The expectation is one table, so a route that is added without a rule fails here.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import AsyncMock

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from stream_app.board.access import COOKIE, Access
from stream_app.board.lookup import Lookup
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.query import Queries
from stream_app.services.board import board_app
from stream_app.services.process import ops_app
from tests.board.client import Client
from tests.board.model_records import NOW_MS, sources
from tests.board.scene import OPERATOR_TOKEN, OWN_TOKEN, TOKEN, board_of, fill, settings_of
from tests.gateway.support import URL, Gateway, good, scope_of
from tests.unit.board.waiting import Waiting, fetch_result

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
HOSTS: Final = {
    "loopback": ("127.0.0.1:9107", "127.0.0.1"),
    "loopback of IPv6": ("[::1]:9107", "::1"),
    "claimed": ("127.0.0.1:9107", "192.0.2.1"),
    "public": ("leads.example.com", "127.0.0.1"),
    "forged": ("127.0.0.1#leads.example.com", "127.0.0.1"),
}
"""The header Host, and the address of the peer that sends it."""
ROLES: Final = ("anonymous", "wrong token", "token", "viewer", "operator")
"""`token` sends it as the look-up API wants it; the last two have a session of the board."""
OK: Final = frozenset({200})
READ: Final = frozenset({200, 303, 400, 404})
WROTE: Final = frozenset({200, 303, 400, 404, 415, 422})
CALLBACKS: Final = "/callbacks/{address:path}"


class Port(NamedTuple):
    """A port of a process. `kinds`: each of its routes -> a row of `RULES`."""

    app: ASGIApp
    kinds: Mapping[str, str]
    methods: Mapping[str, set[str]]


class Request(NamedTuple):
    """One request."""

    path: str
    method: str
    host: str
    role: str


def expected(kind: str, asked: Request, methods: set[str]) -> frozenset[int]:
    """Return the statuses that are right: the table of who may do what."""
    reads = asked.method in ("GET", "HEAD")
    # says nothing but that the process lives, or is for operators on a port of its own
    if kind == "open":
        return OK if reads else frozenset({405})
    if kind == "way in":  # leads to the board, which asks who it is
        return frozenset({303}) if reads else frozenset({405})
    if kind == "callback":  # without a lead's own token, nothing is taken
        return frozenset({401}) if asked.method == "POST" else frozenset({405})
    if kind == "look-up":
        if asked.role != "token":
            return frozenset({401})
        return READ if reads else frozenset({405})
    if kind == "ticket":
        if asked.method != "POST":
            return frozenset({303, 404, 405})  # as every path below /board that is none
        return OK if asked.role == "token" else frozenset({401})
    if kind == "login":
        return frozenset({200, 303, 403, 404, 405, 415})
    if kind == "static":
        return frozenset({200, 404}) if reads else frozenset({405})
    if asked.method not in methods:
        if not reads:
            return frozenset({404, 405})
        kind = "viewer"  # the page that says that there is no such page
    if asked.role not in ("viewer", "operator"):
        return frozenset({303, 401})
    if kind == "operator" and asked.role != "operator":
        return frozenset({403})
    return READ if reads else WROTE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("who-may")
    fill(folder / "model.sqlite", settings_of(folder))
    return folder


async def test_the_gateway_takes_callbacks_and_shows_nothing() -> None:
    gateway = Gateway()
    port = port_of(gateway.app, {"/healthz": "open", CALLBACKS: "callback"})
    await ask_all(port)
    assert not gateway.inbox.records, "no callback was taken"


async def test_the_operations_port_of_each_process_only_reads() -> None:
    """`serve_ops` is the same for worker, replay, gateway, trace and board."""
    app = ops_app(CollectorRegistry(), AsyncMock(return_value=None))
    kinds = {"/metrics": "open", "/healthz": "open", "/readyz": "open"}
    await ask_all(port_of(app, kinds))


@pytest.mark.parametrize("has_token", [True, False])
async def test_the_board_answers_only_who_may_ask(folder: Path, has_token: bool) -> None:
    names = sources().names
    settings = settings_of(folder, token=has_token, operator=has_token)
    queries = Queries(folder / "model.sqlite", set())
    model = folder / "model.sqlite"
    access = Access(TOKEN if has_token else OWN_TOKEN, made_here=not has_token)
    about = (
        queries,
        lambda: ProjectionLag(NOW_MS, 0),
        fetch_result,
        AsyncMock(return_value=None),
        names,
    )
    lookup = Lookup(*about, access, Waiting().find, lambda: NOW_MS)
    board = board_of(settings, model, shared_s=600)
    with closing(board):
        pages = {route.path: kind_of(route) for route in board.routes()}
        look_up = {route.path: "look-up" for route in lookup.routes()}
        assert set(look_up) == {
            *(
                "/leads/{lead_id:path}",
                "/leads",
                "/waiting",
                "/lanes",
                "/bill",
                "/books",
                "/dlq",
                "/imports",
                "/yield",
                "/openapi.json",
            ),
        }
        port = port_of(
            board_app([*lookup.routes(), *board.routes()]),
            {"/healthz": "open"} | look_up | pages,
        )
        client = Client(board)  # comes with a ticket where no token is configured
        cookies = {"viewer": f"{COOKIE}={client.cookies[COOKIE]}"} if not has_token else {}
        for role, token in (("viewer", TOKEN), ("operator", OPERATOR_TOKEN)) if has_token else ():
            await client.login(token)
            cookies[role] = f"{COOKIE}={client.cookies[COOKIE]}"
        await ask_all(port, TOKEN if has_token else OWN_TOKEN, cookies)


def kind_of(route: Route) -> str:
    """Return the row of the table for a route of the board: an operator's, unless it only shows."""
    if route.path in ("/board/login", "/board/logout", "/board/enter"):
        return "login"
    if route.path == "/board/ticket":
        return "ticket"
    if route.path == "/":
        return "way in"
    if route.path.startswith("/board/static/"):
        return "static"
    return (
        "operator" if "/act/" in route.path or route.path.startswith("/board/publish") else "viewer"
    )


def port_of(app: Any, kinds: Mapping[str, str]) -> Port:
    """Return a port. Each route of the app has a rule, and each rule a route."""
    routes = routes_of(app)
    assert {route.path for route in routes} == set(kinds)
    methods: dict[str, set[str]] = {}
    for route in routes:
        methods.setdefault(route.path, set()).update(route.methods or METHODS)
    return Port(app, kinds, methods)


async def ask_all(port: Port, token: str = TOKEN, cookies: Mapping[str, str] = {}) -> None:
    """Ask each route in every way.

    `token`: that of readers; `cookies`: of the roles that have a session.
    """
    roles = [role for role in ROLES if role in cookies or role not in ("viewer", "operator")]
    for role, path, method, host in itertools.product(roles, port.kinds, METHODS, HOSTS):
        asked = Request(path, method, host, role)
        status, text = await answer(port.app, asked, token, cookies.get(role, ""))
        right = expected(port.kinds[path], asked, port.methods[path])
        assert status in right, (asked, status, text)
        assert token.encode() not in text


async def answer(app: ASGIApp, asked: Request, token: str, cookie: str) -> tuple[int, bytes]:
    """Return the status and the body.

    The app is called without httpx, which takes three times as long as the app.
    """
    path = (
        asked.path.replace("{lead_id:path}", "crm-1")
        .replace("{workspace}", "acme")
        .replace("{path:path}", "x")
    )
    path = URL if asked.path == CALLBACKS else path.replace("{", "x").replace("}", "x")
    given = {"token": token, "wrong token": "guessed"}.get(asked.role)
    host, peer = HOSTS[asked.host]
    headers = {
        "host": host,
        "sec-fetch-site": "same-origin",
        **({"content-type": "application/json"} if asked.path == CALLBACKS else {}),
        **({"cookie": cookie} if cookie else {}),
        **({"authorization": f"Bearer {given}"} if given else {}),
    }
    callback = {name: value for name, value in good().items() if name != "callback_token"}
    body = json.dumps(callback).encode() if asked.path == CALLBACKS else b""
    unread: list[Message] = [{"type": "http.request", "body": body}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # it does not hang up
        return unread.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    scope = scope_of(
        path,
        ((name, value.encode()) for name, value in headers.items()),
        asked.method,
    )
    await app({**scope, "client": (peer, 1)}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def routes_of(app: Any) -> list[Route]:
    """Return the routes of an app, also inside `build_asgi`'s wrapper."""
    if not isinstance(app, Starlette):
        (app,) = [
            cell.cell_contents
            for cell in app.__closure__
            if isinstance(cell.cell_contents, Starlette)
        ]
    return [route for route in app.routes if isinstance(route, Route)]
