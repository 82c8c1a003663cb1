"""The board's routes: who may see a page, what it is made from, and what the answer is when something is wrong."""

import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast, get_args
from urllib.parse import quote

import msgspec
from attrs import define
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from stream_app.board.access import PATH, RETRY_AFTER_S, STRANGER, BoardAccess, LoginNeeded, Refused, Role, Visitor
from stream_app.board.formats import Assets
from stream_app.board.forms import Action, Actions
from stream_app.board.lookup import FetchResult, FindWaiting
from stream_app.board.page import HEADERS, Handler, PageMaker
from stream_app.board.pages.dead import REPLAY_ID, Which, cause_of, cause_page, dead_page, replay_page
from stream_app.board.pages.flow import audit_page, backlog_page, books_page, imports_of, waiting_page
from stream_app.board.pages.lanes import STATES, lane_page, lanes_page, now_page
from stream_app.board.pages.leads import Filter, find, lead_and_places, lead_page, leads_page
from stream_app.board.pages.money import money_csv, money_page
from stream_app.board.pages.system import system_page
from stream_app.board.publish import PublishActions, Publishing
from stream_app.board.read_model.board_query import CommandFilter
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.requests import (
    LONGEST_WORD,
    address_of,
    after_of,
    lead_id_of,
    number,
    numbers,
    one_of,
    own_path,
    read_form,
    span_of,
    word,
)
from stream_app.board.site import KAFKA_WITHIN_S, Moment, Site
from stream_app.domain.books.records import DeadLetterState
from stream_app.domain.model.topics import ExistingTopic
from stream_app.kafka.connection import Background
from stream_app.kafka.groups import Consumption
from stream_app.ops import logs as log

LOGIN: Final = f"{PATH}/login"
_log: Final = log.get("board")


class Login:
    """The handlers. Each login is logged."""

    def __init__(self, access: BoardAccess, maker: PageMaker) -> None:
        self._access = access
        self._maker = maker
        # Anyone may try to log in: one line a minute for each reason.
        self._say_refused: defaultdict[str, log.Throttled] = defaultdict(
            lambda: log.Throttled(lambda because: _log.warning("board_login_refused", because=because))
        )

    def routes(self) -> list[Route]:
        return [
            Route(LOGIN, self._form, methods=["GET"]),
            Route(LOGIN, self._login, methods=["POST"]),
            Route(f"{PATH}/logout", self._logout, methods=["POST"]),
        ]

    def needed(self, request: Request) -> Response:
        """Answer a request that has no session."""
        if request.method not in ("GET", "HEAD"):
            ended = Refused(401, "no_session", "The session has ended: log in and try again")
            return self._maker.refused(request, ended)
        path = address_of(request)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site does not send the cookie; the same page opened by ourselves does.
            return Response("", 200, {**HEADERS, "refresh": f"0; url={path}"}, "text/html")
        target = f"{LOGIN}?next={quote(path, safe='')}"
        if "hx-request" in request.headers:
            return Response("", 401, {**HEADERS, "hx-redirect": target})
        return RedirectResponse(target, 303, HEADERS)

    async def _form(self, request: Request) -> Response:
        return self._page(request, "", 200)

    async def _login(self, request: Request) -> Response:
        try:
            form = await read_form(request)
            cookie, visitor = await self._access.login(request, form.get("token", ""), form.get("who", ""))
        except Refused as refused:
            self._say_refused[refused.error](refused.error)
            response = self._page(request, str(refused), refused.status)
            if refused.status == 429:  # its connection makes room for others at once
                response.headers.update({"retry-after": str(RETRY_AFTER_S), "connection": "close"})
            return response
        _log.info("board_login", who=visitor.who, role=visitor.role)
        response = RedirectResponse(own_path(form.get("next", "")), 303, HEADERS)
        self._access.set_cookie(response, cookie)
        return response

    async def _logout(self, request: Request) -> Response:
        try:
            self._access.check(request)
        except LoginNeeded:
            pass
        except Refused as refused:
            return self._maker.refused(request, refused)
        response = RedirectResponse(LOGIN, 303, HEADERS)
        self._access.set_cookie(response, "")
        return response

    def _page(self, request: Request, problem: str, status: int) -> Response:
        return self._maker.login_page(own_path(request.query_params.get("next", "")), problem, status)


_LONGEST_SEARCH: Final = 2_000


@define(eq=False, repr=False)
class Views:
    """The handlers. Each look at personal data is logged."""

    _site: Site
    _maker: PageMaker
    _fetch_result: FetchResult
    _find_waiting: FindWaiting
    _topics: Background[dict[str, ExistingTopic]]

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return method, path below /board and handler of each page."""
        return [
            ("GET", "", self._now),
            ("GET", "/lanes", self._lanes),
            ("GET", "/lanes/{workspace}", self._lane),
            ("GET", "/leads", self._leads),
            ("POST", "/leads", self._find),
            ("GET", "/leads/{lead_id:path}", self._lead),
            ("POST", "/leads/{lead_id:path}", self._show),
            ("GET", "/waiting", self._still_waiting),
            ("GET", "/imports", self._imports),
            ("GET", "/dead", self._dead),
            ("GET", "/dead/records", self._cause),
            ("GET", "/replays/{replay}", self._replay),
            ("GET", "/books", self._books),
            ("GET", "/money", self._money),
            ("GET", "/money.csv", self._money_csv),
            ("GET", "/audit", self._audit),
            ("GET", "/system", self._system),
        ]

    async def _now(self, request: Request, moment: Moment) -> Response:
        make = partial(now_page, self._site, moment, span_of(request))
        return await self._maker.page(request, moment, "now", "Now", make)

    async def _lanes(self, request: Request, moment: Moment) -> Response:
        state = one_of(request, "state", STATES)
        make = partial(lanes_page, self._site, moment, state, word(request, "begins"), word(request, "after"))
        return await self._maker.page(request, moment, "lanes", "Lanes", make)

    async def _lane(self, request: Request, moment: Moment) -> Response:
        workspace = str(request.path_params["workspace"])
        make = partial(lane_page, self._site, moment, workspace, span_of(request))
        return await self._maker.page(request, moment, "lane", workspace[:LONGEST_WORD], make, current="lanes")

    async def _leads(self, request: Request, moment: Moment) -> Response:
        words = {name: word(request, name) for name in Filter.__struct_fields__}
        make = partial(leads_page, self._site, moment, Filter(**words), after_of(request))
        return await self._maker.page(request, moment, "leads", "Leads", make)

    async def _find(self, request: Request, moment: Moment) -> Response:
        text = (await read_form(request)).get("text", "")[:_LONGEST_SEARCH]
        return RedirectResponse(await self._maker.threads.run(partial(find, self._site, text)), 303, HEADERS)

    async def _lead(self, request: Request, moment: Moment) -> Response:
        make = partial(lead_page, self._site, moment, lead_id_of(request.path_params))
        return await self._maker.page(request, moment, "lead", "Lead", make, current="leads")

    async def _show(self, request: Request, moment: Moment) -> Response:
        """Show the personal data of a lead. Who does it is logged."""
        lead_id = lead_id_of(request.path_params)
        page, places = await self._maker.threads.run(partial(lead_and_places, self._site, moment, lead_id))
        _log.info("personal_data_shown", who=moment.visitor.who, lead_id=lead_id, results=len(places))
        page = {**page, "results": [await self._fetch_result(place) for place in places], "shown": True}
        return await self._maker.page(request, moment, "lead", "Lead", lambda: page, current="leads", live=False)

    async def _still_waiting(self, request: Request, moment: Moment) -> Response:
        lead_id, person = word(request, "lead_id"), word(request, "person")
        if not lead_id and not person:
            (after,), partition = numbers(request, 1) or (0,), number(request, "partition")
            backlog = partial(backlog_page, self._site, moment, word(request, "topic"), partition, after)
            return await self._maker.page(request, moment, "backlog", "Waiting on Kafka", backlog, current="leads")
        search = await self._find_waiting(lead_id, person, "")
        make = partial(waiting_page, self._site, moment, search)
        return await self._maker.page(request, moment, "waiting", "Waiting on Kafka", make, current="leads", live=False)

    async def _imports(self, request: Request, moment: Moment) -> Response:
        chosen, after = (word(request, "workspace"), word(request, "id")), numbers(request, 2)
        name, make = imports_of(self._site, moment, *chosen, cast("tuple[int, int] | None", after))
        return await self._maker.page(request, moment, name, "Imports", make, current="imports")

    async def _dead(self, request: Request, moment: Moment) -> Response:
        which = cast(Which, one_of(request, "from", get_args(Which)) or "dlq")
        (after,) = numbers(request, 1) or (0,)
        make = partial(dead_page, self._site, moment, which, word(request, "workspace"), after)
        return await self._maker.page(request, moment, "dead", "Dead letters", make)

    async def _cause(self, request: Request, moment: Moment) -> Response:
        which = cast(Which, one_of(request, "from", get_args(Which)) or "dlq")
        cause, last_day = cause_of({name: word(request, name) for name in request.query_params}), span_of(request)
        state = cast(DeadLetterState | None, one_of(request, "state", get_args(DeadLetterState)) or None)
        about = self._site, moment, which, cause, after_of(request)
        make = partial(cause_page, *about, last_day=last_day == "day", state=state)
        return await self._maker.page(request, moment, "cause", "Dead letters", make, current="dead")

    async def _replay(self, request: Request, moment: Moment) -> Response:
        replay = str(request.path_params["replay"])
        if not REPLAY_ID.fullmatch(replay):
            raise Refused(404, "unknown_replay", "There is no such replay: the page Dead letters lists all")
        make = partial(replay_page, self._site, moment, replay, word(request, "asked"))
        return await self._maker.page(request, moment, "replay", f"Replay {replay}", make, current="dead")

    async def _books(self, request: Request, moment: Moment) -> Response:
        make = partial(books_page, self._site, moment, word(request, "after"))
        return await self._maker.page(request, moment, "books", "Books", make)

    async def _money(self, request: Request, moment: Moment) -> Response:
        make = partial(money_page, self._site, moment, word(request, "workspace"), word(request, "day"))
        return await self._maker.page(request, moment, "money", "Money", make)

    async def _money_csv(self, request: Request, moment: Moment) -> Response:
        text = await self._maker.threads.run(partial(money_csv, self._site, word(request, "workspace")))
        headers = {**HEADERS, "content-disposition": 'attachment; filename="money.csv"'}
        return Response(text, headers=headers, media_type="text/csv")

    async def _audit(self, request: Request, moment: Moment) -> Response:
        wanted = CommandFilter(**{name: word(request, name) for name in CommandFilter.__struct_fields__})
        make = partial(audit_page, self._site, wanted, word(request, "id"), word(request, "after"))
        return await self._maker.page(request, moment, "audit", "Audit", make)

    async def _system(self, request: Request, moment: Moment) -> Response:
        make = partial(system_page, self._site, moment, await self._topics.look(KAFKA_WITHIN_S))
        return await self._maker.page(request, moment, "system", "System", make)


SHARED_S: Final = 1.0
"""How long requests share what was read and made for the first of them."""


class Board:
    """Builds the routes. Without an operator token there are none for `actions` and `publishing`."""

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
        self._maker = PageMaker(site, access, self._assets, lag, now_ms)
        self._login = Login(access, self._maker)
        self._views = Views(site, self._maker, fetch_result, find_waiting, topics)
        has_operators = "operator" in access.roles
        self._actions = Actions(self._maker, actions if has_operators else ())
        self._publish = PublishActions(self._maker, publishing) if publishing and has_operators else None

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
            *(self._guarded("operator", *route) for route in self._actions.routes()),
            *(self._guarded("operator", *route) for route in (self._publish.routes() if self._publish else ())),
            *(self._guarded("viewer", *route) for route in self._views.routes()),
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
            kafka = await self._consumers.look(KAFKA_WITHIN_S)
            moment = Moment(0, lag, kafka, STRANGER, is_asking=kafka is None and self._consumers.is_first)
            self._seen = now_s, moment
        return msgspec.structs.replace(moment, now_ms=self._maker.now_ms(), visitor=visitor)

    async def _unknown(self, request: Request, moment: Moment) -> Response:
        raise Refused(404, "no_page", "There is no such page: choose one above")
