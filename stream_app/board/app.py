"""The board's routes: who may see a page, and what the answer is when something is wrong."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_app.board.access import PATH, STRANGER, BoardAccess, LoginNeeded, Role, Visitor
from stream_app.board.actions.base import Action, Actions
from stream_app.board.actions.publish import PublishActions, Publishing
from stream_app.board.api_access import Refused
from stream_app.board.assets import Assets
from stream_app.board.frame import PageMaker
from stream_app.board.login import Login
from stream_app.board.lookup import Results, Waiting
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.site import KAFKA_WITHIN_S, Moment, Site
from stream_app.board.views import Handler, Topics, Views
from stream_app.kafka.groups import Consumption
from stream_app.ops import logs as log

SHARED_S: Final = 1.0
"""How long requests share what was read and made for the first of them."""


class Consumers(Protocol):
    """Asks Kafka who consumes and how much waits."""

    async def look(self, within_s: float) -> Consumption | None:
        """Return what is known; None if Kafka does not answer."""


class Board:
    """Builds the routes. Without an operator token there are none for `actions` and `publishing`."""

    def __init__(
        self,
        site: Site,
        access: BoardAccess,
        lag: Callable[[], ProjectionLag],
        consumers: Consumers,
        topics: Topics,
        results: Results,
        waiting: Waiting,
        now_ms: Callable[[], int],
        shared_s: float = SHARED_S,
        actions: Sequence[Action] = (),
        publishing: Publishing | None = None,
    ) -> None:
        logger = log.get("board")
        self._access = access
        self._consumers = consumers
        self._shared_s = shared_s
        self._seen = -math.inf, Moment(0, ProjectionLag(), None, STRANGER)
        self._assets = Assets()
        self._maker = PageMaker(site, access, self._assets, lag, now_ms)
        self._login = Login(access, self._maker, logger)
        self._views = Views(self._maker, results, waiting, topics, logger)
        has_operators = "operator" in access.roles
        self._actions = Actions(self._maker, actions if has_operators else ())
        self._publish = PublishActions(self._maker, publishing, logger) if publishing and has_operators else None

    def close(self) -> None:
        """End the board's thread. It waits for a publication until what was sent is on Kafka."""
        self._maker.threads.close()
        if self._publish is not None:
            self._publish.close()

    def routes(self) -> list[Route]:
        """The routes, to serve at the root."""
        return [
            Route(f"{PATH}/static/{{path:path}}", self._assets.serve, methods=["GET"]),
            *self._login.routes(),
            *(self._guarded("operator", *each) for each in self._actions.routes()),
            *(self._guarded("operator", *each) for each in (self._publish.routes() if self._publish else ())),
            *(self._guarded("viewer", *each) for each in self._views.routes()),
            self._guarded("viewer", "GET", "/{path:path}", self._unknown),
        ]

    def _guarded(self, role: Role, method: str, path: str, handler: Handler) -> Route:
        return Route(PATH + path, partial(self._answer, role, handler), methods=[method])

    async def _answer(self, role: Role, handler: Handler, request: Request) -> Response:
        try:
            visitor = self._access.check(request, role)
        except LoginNeeded:
            return self._login.needed(request)
        except Refused as refused:
            return self._maker.refused(request, refused)
        maker = self._maker
        moment = await self._moment(visitor, new=request.method not in ("GET", "HEAD"))
        try:
            return await handler(request, moment)
        except Refused as refused:
            return maker.refused(request, refused, visitor)
        except sqlite3.Error as error:
            text = f"The read model cannot be read: {error}. {moment.lag.trouble}".strip()
            return maker.refused(request, Refused(503, "read_model", text), visitor)

    async def _moment(self, visitor: Visitor, *, new: bool) -> Moment:
        """Return what the request sees. `new`: nothing that was read before, because the request changes something."""
        now_s = time.monotonic()
        began_s, moment = self._seen
        if new or now_s - began_s >= self._shared_s:
            # Read the lag before the query: the model may be newer than the page says, never older.
            lag = self._maker.lag()
            moment = Moment(0, lag, await self._consumers.look(KAFKA_WITHIN_S), STRANGER)
            self._seen = now_s, moment
        return msgspec.structs.replace(moment, now_ms=self._maker.now_ms(), visitor=visitor)

    async def _unknown(self, request: Request, moment: Moment) -> Response:
        raise Refused(404, "no_page", "There is no such page: choose one above")
