"""The board's routes.

They say who may see a page, what it is made from, and what the answer is when something is wrong.
"""

import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

import msgspec
from attrs import define
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from stream_app.board.access import (
    LOCAL,
    LOGIN_RETRY_AFTER_S,
    PATH,
    SESSION_S,
    STRANGER,
    AccessRefused,
    BoardAccess,
    LoginNeeded,
    Role,
    Visitor,
)
from stream_app.board.formats import Assets
from stream_app.board.forms import Action, Actions
from stream_app.board.lookup import FetchResult, FindWaiting
from stream_app.board.page import PAGE_HEADERS, PageHandler, PageMaker, Renderer, commands_of
from stream_app.board.pages.dead import cause_page, dead_page, replay_page
from stream_app.board.pages.flow import (
    audit_page,
    backlog_page,
    books_page,
    import_page,
    imports_page,
    waiting_page,
)
from stream_app.board.pages.lane import lane_page
from stream_app.board.pages.lanes import lanes_page, now_page
from stream_app.board.pages.leads import find, lead_page, leads_page
from stream_app.board.pages.money import money_csv, money_page
from stream_app.board.pages.system import system_page
from stream_app.board.publish import PublishActions, Publishing
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.requests import (
    Query,
    address_of,
    lead_id_of,
    own_path,
    read_form,
    word,
    words,
)
from stream_app.board.site import KAFKA_WITHIN_S, Moment, PageData, Site
from stream_app.domain.model.topics import ExistingTopic
from stream_app.kafka.connection import Background
from stream_app.kafka.groups import Consumption
from stream_app.ops import logs as log

LOGIN: Final = f"{PATH}/login"
_log: Final = log.get("board")


async def _to_the_board(_: Request) -> Response:
    """Answer at the address of the port alone, which people type.

    It says nothing, so that anyone may ask.
    """
    return RedirectResponse(PATH, 303, PAGE_HEADERS)


class Login:
    """The handlers. Each login is logged."""

    def __init__(self, access: BoardAccess, maker: PageMaker) -> None:
        self._access = access
        self._maker = maker
        # Anyone may try to log in: one line a minute for each reason.
        self._say_refused: defaultdict[str, log.Throttled] = defaultdict(
            lambda: log.Throttled(
                lambda because: _log.warning("board_login_refused", because=because),
            ),
        )

    def routes(self) -> list[Route]:
        return [
            Route(LOGIN, self._maker.login_page, methods=["GET"]),
            Route(LOGIN, self._login, methods=["POST"]),
            Route(f"{PATH}/logout", self._logout, methods=["POST"]),
            *(self._ticket_routes() if self._access.made_here else ()),
        ]

    def _ticket_routes(self) -> Iterator[Route]:
        yield Route(f"{PATH}/ticket", self._ticket, methods=["POST"])
        yield Route(f"{PATH}/enter", self._enter, methods=["GET"])

    def needed(self, request: Request) -> Response:
        """Answer a request that has no session."""
        if request.method not in ("GET", "HEAD"):
            ended = AccessRefused(401, "no_session", "The session has ended: log in and try again")
            return self._maker.refused(request, ended)
        path = address_of(request)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site does not send the cookie; the same page opened by ourselves
            # does.
            return Response("", 200, {**PAGE_HEADERS, "refresh": f"0; url={path}"}, "text/html")
        target = f"{LOGIN}?next={quote(path, safe='')}"
        if "hx-request" in request.headers:
            return Response("", 401, {**PAGE_HEADERS, "hx-redirect": target})
        return RedirectResponse(target, 303, PAGE_HEADERS)

    async def _login(self, request: Request) -> Response:
        try:
            form = await read_form(request)
            cookie, visitor = await self._access.login(
                request,
                form.get("token", ""),
                form.get("who", ""),
            )
        except AccessRefused as refused:
            self._say_refused[refused.error](refused.error)
            response = await self._maker.login_page(request, str(refused), refused.status)
            if refused.status == 429:  # its connection makes room for others at once
                response.headers.update(
                    {"retry-after": str(LOGIN_RETRY_AFTER_S), "connection": "close"},
                )
            return response
        _log.info("board_login", who=visitor.who, role=visitor.role)
        response = RedirectResponse(own_path(form.get("next", "")), 303, PAGE_HEADERS)
        self._access.set_cookie(response, cookie, SESSION_S[visitor.role])
        return response

    async def _ticket(self, request: Request) -> Response:
        try:
            ticket = self._access.make_ticket(request)
        except AccessRefused as refused:
            return JSONResponse(
                {"error": refused.error, "text": str(refused)},
                refused.status,
                PAGE_HEADERS,
            )
        return JSONResponse({"path": f"{PATH}/enter?ticket={ticket}"}, headers=PAGE_HEADERS)

    async def _enter(self, request: Request) -> Response:
        try:
            # A request for the head alone uses no ticket up: it is not the browser that is to come
            # in.
            cookie = self._access.enter(
                word(request.query_params, "ticket") if request.method == "GET" else "",
            )
        except AccessRefused as refused:
            return await self._maker.login_page(request, str(refused), refused.status)
        _log.info("board_login", who=LOCAL, role="viewer")
        response = RedirectResponse(PATH, 303, PAGE_HEADERS)
        self._access.set_cookie(response, cookie, SESSION_S["viewer"])
        return response

    async def _logout(self, request: Request) -> Response:
        try:
            self._access.check(request)
        except LoginNeeded:
            pass
        except AccessRefused as refused:
            return self._maker.refused(request, refused)
        response = RedirectResponse(LOGIN, 303, PAGE_HEADERS)
        self._access.set_cookie(response, "", 0)
        return response


_MAX_SEARCH_CHARACTERS: Final = 2_000
PageView = Callable[[Site, Moment, Query], PageData | None]
"""Reads the model and returns what a page shows; None if the workspace is unknown."""


@define(eq=False, repr=False)
class PageHandlers:
    """The handlers. Each look at personal data is logged."""

    _site: Site
    _maker: PageMaker
    _fetch_result: FetchResult
    _find_waiting: FindWaiting
    _topics: Background[dict[str, ExistingTopic]]

    def routes(self) -> list[tuple[str, str, PageHandler]]:
        """Return method, path below /board and handler of each page."""
        return [
            ("GET", "", partial(self._page, "now", "Now", now_page)),
            ("GET", "/lanes", partial(self._page, "lanes", "Lanes", lanes_page)),
            (
                "GET",
                "/lanes/{workspace}",
                partial(self._page, "lane", "{workspace}", lane_page, current="lanes"),
            ),
            ("GET", "/leads", partial(self._page, "leads", "Leads", leads_page)),
            ("POST", "/leads", self._find),
            (
                "GET",
                "/leads/{lead_id:path}",
                partial(self._page, "lead", "{lead_id}", lead_page, current="leads"),
            ),
            ("POST", "/leads/{lead_id:path}", self._show),
            ("GET", "/waiting", self._still_waiting),
            ("GET", "/imports", self._imports),
            ("GET", "/dead", partial(self._page, "dead", "Dead letters", dead_page)),
            (
                "GET",
                "/dead/records",
                partial(self._page, "cause", "Dead letters", cause_page, current="dead"),
            ),
            (
                "GET",
                "/replays/{replay}",
                partial(self._page, "replay", "Replay {replay}", replay_page, current="dead"),
            ),
            ("GET", "/books", partial(self._page, "books", "Books", books_page)),
            ("GET", "/money", self._money),
            ("GET", "/money.csv", self._money_csv),
            ("GET", "/audit", partial(self._page, "audit", "Audit", audit_page)),
            ("GET", "/system", self._system),
        ]

    async def _page(
        self,
        name: str,
        title: str,
        page: PageView,
        request: Request,
        moment: Moment,
        current: str = "",
    ) -> Response:
        """Answer with a page that is made from the words of the address alone."""
        query = {**request.query_params, **request.path_params}
        make = partial(page, self._site, moment, query)
        title = title.format(**words(query, ("workspace", "replay", "lead_id", "id")))
        return await self._maker.page(request, moment, name, title, make, current=current)

    async def _find(self, request: Request, moment: Moment) -> Response:
        text = (await read_form(request)).get("text", "")[:_MAX_SEARCH_CHARACTERS]
        return RedirectResponse(
            await self._maker.threads.run(partial(find, self._site, text, moment.now_ms)),
            303,
            PAGE_HEADERS,
        )

    async def _show(self, request: Request, moment: Moment) -> Response:
        """Show the personal data of a lead. Who does it is logged."""
        lead_id = lead_id_of(request.path_params)
        places = await self._maker.threads.run(partial(self._site.queries.results, lead_id))
        _log.info(
            "personal_data_shown",
            who=moment.visitor.who,
            lead_id=lead_id,
            results=len(places),
        )
        shown = [await self._fetch_result(place) for place in places]
        make = partial(lead_page, self._site, moment, request.path_params, shown)
        return await self._maker.page(
            request,
            moment,
            "lead",
            lead_id,
            make,
            current="leads",
            live=False,
        )

    async def _still_waiting(self, request: Request, moment: Moment) -> Response:
        lead_id = word(request.query_params, "lead_id")
        person = word(request.query_params, "person")
        if not lead_id and not person:
            return await self._page(
                "backlog",
                "Waiting on Kafka",
                backlog_page,
                request,
                moment,
                "leads",
            )
        search = await self._find_waiting(lead_id, person, "")
        make = partial(waiting_page, self._site, moment, search)
        return await self._maker.page(
            request,
            moment,
            "waiting",
            "Waiting on Kafka",
            make,
            current="leads",
            live=False,
        )

    async def _imports(self, request: Request, moment: Moment) -> Response:
        of_one = word(request.query_params, "workspace") and word(request.query_params, "id")
        if not of_one:
            return await self._page("imports", "Imports", imports_page, request, moment)
        title = "Import {id}"
        return await self._page("import", title, import_page, request, moment, "imports")

    async def _money(self, request: Request, moment: Moment) -> Response:
        of = " of {workspace}" if word(request.query_params, "workspace") else ""
        return await self._page("money", f"Money{of}", money_page, request, moment)

    async def _money_csv(self, request: Request, moment: Moment) -> Response:
        text = await self._maker.threads.run(
            partial(money_csv, self._site, word(request.query_params, "workspace")),
        )
        headers = {**PAGE_HEADERS, "content-disposition": 'attachment; filename="money.csv"'}
        return Response(text, headers=headers, media_type="text/csv")

    async def _system(self, request: Request, moment: Moment) -> Response:
        make = partial(system_page, self._site, moment, await self._topics.look(KAFKA_WITHIN_S))
        return await self._maker.page(request, moment, "system", "System", make)


SHARED_S: Final = 1.0
"""How long requests share what was read and made for the first of them."""


class BoardRoutes:
    """Builds the routes.

    Without an operator token there are none for `actions` and `publishing`.
    """

    def __init__(
        self,
        site: Site,
        access: BoardAccess,
        lag: Callable[[], ProjectionLag],
        consumers: Background[Consumption],
        topics: Background[dict[str, ExistingTopic]],
        fetch_result: FetchResult,
        find_waiting: FindWaiting,
        now_ms: Callable[[], int],
        shared_s: float = SHARED_S,
        actions: Sequence[Action] = (),
        publishing: Publishing | None = None,
    ) -> None:
        self._access = access
        self._consumers = consumers
        self._shared_s = shared_s
        self._seen = -math.inf, Moment(0, ProjectionLag(), None, STRANGER)
        self._assets = Assets()
        self._maker = PageMaker(site, lag, now_ms, access, Renderer(self._assets))
        self._login = Login(access, self._maker)
        self._views = PageHandlers(site, self._maker, fetch_result, find_waiting, topics)
        has_operators = "operator" in access.roles
        self._actions = Actions(self._maker, actions if has_operators else ())
        self._publish = (
            PublishActions(self._maker, publishing) if publishing and has_operators else None
        )

    def close(self) -> None:
        """End the board's thread. It waits for a publication until what was sent is on Kafka."""
        self._maker.threads.close()
        if self._publish is not None:
            self._publish.close()

    def routes(self) -> list[Route]:
        return [
            Route("/", _to_the_board, methods=["GET"]),
            Route(f"{PATH}/static/{{path:path}}", self._assets.serve, methods=["GET"]),
            *self._login.routes(),
            *(self._guarded("operator", *route) for route in self._actions.routes()),
            *(
                self._guarded("operator", *route)
                for route in (self._publish.routes() if self._publish else ())
            ),
            *(self._guarded("viewer", *route) for route in self._views.routes()),
            self._guarded("viewer", "GET", "/{path:path}", self._unknown),
        ]

    def _guarded(self, role: Role, method: str, path: str, handler: PageHandler) -> Route:
        return Route(PATH + path, partial(self._answer, role, handler), methods=[method])

    async def _answer(self, role: Role, handler: PageHandler, request: Request) -> Response:
        visitor = STRANGER
        try:
            visitor = self._access.check(request, role)
            # A person who follows an order sees its answer beside the state after it, and nothing
            # that was read before.
            is_own = visitor.role == "operator" and bool(commands_of(request))
            new = is_own or request.method not in ("GET", "HEAD")
            return await handler(request, await self._moment(visitor, new=new))
        except LoginNeeded:
            return self._login.needed(request)
        except AccessRefused as refused:
            return self._maker.refused(request, refused, visitor)
        except sqlite3.Error as error:
            text = f"The read model cannot be read: {error}. {self._maker.lag().trouble}".strip()
            return self._maker.refused(request, AccessRefused(503, "read_model", text), visitor)

    async def _moment(self, visitor: Visitor, *, new: bool) -> Moment:
        """Return what the request sees.

        `new`: nothing that was read before, because the request changes something.
        """
        now_s = time.monotonic()
        began_s, moment = self._seen
        if new or now_s - began_s >= self._shared_s:
            # Read the lag before the query: the model may be newer than the page says, never older.
            lag = self._maker.lag()
            kafka = await self._consumers.look(KAFKA_WITHIN_S)
            moment = Moment(
                0,
                lag,
                kafka,
                STRANGER,
                is_asking=kafka is None and self._consumers.is_first,
            )
            self._seen = now_s, moment
        return msgspec.structs.replace(moment, now_ms=self._maker.now_ms(), visitor=visitor)

    async def _unknown(self, request: Request, moment: Moment) -> Response:
        raise AccessRefused(404, "no_page", "There is no such page: choose one above")
