"""Every route of the gateway, asked by every role, under every kind of Host, with every method: what is answered.

The expectation is one function, so a route that is added without a rule fails here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from stream_app.board.api_access import Access
from stream_app.board.lookup import Lookup
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.gateway.asgi import build_asgi
from tests.board.model_records import NOW_MS, sources
from tests.gateway.support import URL, Gateway, good
from tests.unit.board.test_lookup import Results, Waiting

TOKEN: Final = "a token of the look-up API, for tests"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
HOSTS: Final = {"loopback": "127.0.0.1:9103", "public": "leads.example.com", "forged": "127.0.0.1#leads.example.com"}
ROLES: Final = {"anonymous": None, "wrong token": "Bearer guessed", "token": f"Bearer {TOKEN}"}
OPEN: Final = ("/healthz", "/readyz")
LOOK_UP: Final = (
    "/leads/{lead_id:path}",
    "/leads",
    "/waiting",
    "/lanes",
    "/books",
    "/dlq",
    "/imports",
    "/openapi.json",
)
CALLBACKS: Final = "/callbacks/{address:path}"


class AccessCase(NamedTuple):
    """One request, and the gateway that it is sent to: with a token for its look-up API, or without."""

    path: str
    method: str
    host: str
    role: str
    has_token: bool

    @property
    def expected(self) -> set[int]:
        """The statuses that are right."""
        if self.path in OPEN:
            return {200} if self.method in ("GET", "HEAD") else {405}
        if self.path == CALLBACKS:  # without a lead's own token, nothing is taken
            return {401} if self.method == "POST" else {405}
        if self.path in LOOK_UP:
            if self.has_token:
                refused = None if self.role == "token" else {401}
            else:
                refused = None if self.host == "loopback" else {403}
            found = {200, 404, 400} if self.method in ("GET", "HEAD") else {405}
            return refused or found
        raise AssertionError(f"{self.path}: nothing says who may ask it")


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "model.sqlite"
    model = ReadModel(path, sources())
    yield path
    model.close()


async def test_each_route_answers_only_authorized_requests(model: Path) -> None:
    names = sources().names
    gateway = Gateway()

    async def backlog() -> dict[str, int] | None:
        return {}

    for has_token in (True, False):
        access = Access(TOKEN if has_token else None, "127.0.0.1")
        queries = Queries(model, set())
        topics = (names.dlq, names.parked)
        lookup = Lookup(queries, lambda: ProjectionLag(NOW_MS, 0), Results(), backlog, access, *topics, Waiting())
        app = build_asgi(gateway.receiver, gateway.shelf.not_ready, lambda _: None, lookup.routes())
        paths = [route.path for route in routes_of(app)]
        assert set(paths) == {*OPEN, *LOOK_UP, CALLBACKS}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            for path, method, host, role in itertools.product(paths, METHODS, HOSTS, ROLES):
                asked = AccessCase(path, method, host, role, has_token)
                answer = await client.request(method, **sent(asked))
                assert answer.status_code in asked.expected, (asked, answer.status_code, answer.text)
                assert TOKEN not in answer.text
    assert not gateway.shelf.records, "no callback was taken"


def sent(asked: AccessCase) -> dict[str, Any]:
    path = {CALLBACKS: URL, "/leads/{lead_id:path}": "/leads/crm-1"}.get(asked.path, asked.path)
    given = ROLES[asked.role]
    headers = {"host": HOSTS[asked.host]} | ({} if given is None else {"authorization": given})
    body = {name: value for name, value in good().items() if name != "callback_token"}
    return {"url": path, "headers": headers, "json": body if asked.path == CALLBACKS else None}


def routes_of(app: Any) -> list[Route]:
    """The routes of the app inside `build_asgi`'s wrapper."""
    (starlette,) = [cell.cell_contents for cell in app.__closure__ if isinstance(cell.cell_contents, Starlette)]
    return [route for route in starlette.routes if isinstance(route, Route)]
