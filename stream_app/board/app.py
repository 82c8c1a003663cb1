"""The board's routes: who may see a page, what it is made from, and what the answer is when something is wrong."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, cast, get_args
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from stream_app.board.access import PATH, BoardAccess, LoginNeeded, set_cookie
from stream_app.board.assets import Assets
from stream_app.board.formats import clock
from stream_app.board.pages.audit import audit_page
from stream_app.board.pages.books import books_page
from stream_app.board.pages.dead import Which, dead_page
from stream_app.board.pages.imports import imports_of
from stream_app.board.pages.lane import lane_page
from stream_app.board.pages.lanes import STATES, lanes_page
from stream_app.board.pages.lead import lead_page, waiting_page
from stream_app.board.pages.leads import Filter, find, lead_path, leads_page
from stream_app.board.pages.now import Span, now_page
from stream_app.board.pages.system import system_page
from stream_app.board.render import HEADERS, Renderer, Threads, html
from stream_app.board.site import STALE_MS, Moment, Site
from stream_app.gateway.access import Refused
from stream_app.gateway.lookup import Results, Waiting
from stream_app.gateway.read_model.board_query import Place
from stream_app.gateway.read_model.follow import ProjectionLag
from stream_app.kafka.groups import Consumption
from stream_app.ops import logs as log

KAFKA_WITHIN_S: Final = 0.3
"""How long a page waits for new records of Kafka; then it shows what was known before."""
SHARED_S: Final = 1.0
"""How long requests share what was read and made for the first of them."""

NAV: Final = (
    ("now", "Now", PATH),
    ("lanes", "Lanes", f"{PATH}/lanes"),
    ("leads", "Leads", f"{PATH}/leads"),
    ("imports", "Imports", f"{PATH}/imports"),
    ("dead", "Dead letters", f"{PATH}/dead"),
    ("books", "Books", f"{PATH}/books"),
    ("audit", "Audit", f"{PATH}/audit"),
    ("system", "System", f"{PATH}/system"),
)
_MOST_FORM_BYTES: Final = 4_096
_FORM_WITHIN_S: Final = 10.0
_LONGEST_WORD: Final = 300


class Consumers(Protocol):
    """Asks Kafka who consumes and how much waits."""

    async def look(self, within_s: float) -> Consumption | None:
        """Return what is known; None if Kafka does not answer."""


class Frame(msgspec.Struct, frozen=True):
    """What every page shows around its content. `age_ms`: None if the model was never complete."""

    title: str
    current: str
    nav: tuple[tuple[str, str, str], ...]
    url: str
    now_ms: int
    age_ms: int | None
    lag: int
    trouble: str
    stale: bool
    kafka_known: bool
    who: str
    has_login: bool
    live: bool
    banner: str


Handler = Callable[[Request, Moment], Awaitable[Response]]


class Board:
    """The handlers.

    Args:
        site: What all pages share.
        access: Who may see the board.
        lag: Returns how far the read model is.
        consumers: Asks Kafka who consumes.
        results: Fetches the data of results.
        waiting: Searches the lead topics.
        now_ms: The clock, epoch ms.
        shared_s: As `SHARED_S`.
    """

    def __init__(
        self,
        site: Site,
        access: BoardAccess,
        lag: Callable[[], ProjectionLag],
        consumers: Consumers,
        results: Results,
        waiting: Waiting,
        now_ms: Callable[[], int],
        shared_s: float = SHARED_S,
    ) -> None:
        self._site = site
        self._access = access
        self._lag = lag
        self._consumers = consumers
        self._results = results
        self._waiting = waiting
        self._now_ms = now_ms
        self._shared_s = shared_s
        self._seen = -math.inf, Moment(0, ProjectionLag(), None, "")
        self._assets = Assets()
        self._renderer = Renderer(self._assets)
        self._threads = Threads()
        self._log = log.get("board")
        # Anyone may try to log in: one line a minute for each reason.
        self._say_refused: defaultdict[str, log.Throttled] = defaultdict(
            lambda: log.Throttled(lambda because: self._log.warning("board_login_refused", because=because))
        )

    def close(self) -> None:
        """End the board's thread."""
        self._threads.close()

    def routes(self) -> list[Route]:
        """The routes, to serve at the root."""
        pages: list[tuple[str, str, Handler]] = [
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
            ("GET", "/books", self._books),
            ("GET", "/audit", self._audit),
            ("GET", "/system", self._system),
        ]
        guarded = [
            Route(PATH + path, partial(self._guarded, handler), methods=[method]) for method, path, handler in pages
        ]
        return [
            Route(f"{PATH}/static/{{path:path}}", self._assets.serve, methods=["GET"]),
            Route(f"{PATH}/login", self._login_form, methods=["GET"]),
            Route(f"{PATH}/login", self._login, methods=["POST"]),
            Route(f"{PATH}/logout", self._logout, methods=["POST"]),
            *guarded,
            Route(f"{PATH}/{{path:path}}", partial(self._guarded, self._unknown), methods=["GET"]),
        ]

    # ------------------------------------------------------------------------------------------------------- access

    async def _guarded(self, handler: Handler, request: Request) -> Response:
        try:
            who = self._access.viewer(request)
        except LoginNeeded:
            return self._to_login(request)
        except Refused as refused:
            return self._refused(request, refused, "")
        moment = await self._moment(who, new=request.method not in ("GET", "HEAD"))
        try:
            return await handler(request, moment)
        except Refused as refused:
            return self._refused(request, refused, who)
        except sqlite3.Error as error:
            text = f"The read model cannot be read: {error}. {moment.lag.trouble}".strip()
            return self._refused(request, Refused(503, "read_model", text), who)

    async def _moment(self, who: str, *, new: bool) -> Moment:
        """Return what the request sees. `new`: nothing that was read before, because the request changes something."""
        now_s = time.monotonic()
        began_s, moment = self._seen
        if new or now_s - began_s >= self._shared_s:
            # Read the lag before the query: the model may be newer than the page says, never older.
            lag = self._lag()
            moment = Moment(0, lag, await self._consumers.look(KAFKA_WITHIN_S), "")
            self._seen = now_s, moment
        return msgspec.structs.replace(moment, now_ms=self._now_ms(), who=who)

    def _to_login(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return self._refused(request, Refused(401, "no_session", "The session has ended: log in and try again"), "")
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site does not send the cookie; the same page opened by ourselves does.
            return Response("", 200, {**HEADERS, "refresh": f"0; url={path}"}, "text/html")
        target = f"{PATH}/login?next={quote(path, safe='')}"
        if "hx-request" in request.headers:
            return Response("", 401, {**HEADERS, "hx-redirect": target})
        return RedirectResponse(target, 303, HEADERS)

    async def _login_form(self, request: Request) -> Response:
        return self._login_page(request, "", 200)

    async def _login(self, request: Request) -> Response:
        try:
            form = await _form(request)
            cookie = await self._access.login(request, form.get("token", ""), form.get("who", ""))
        except Refused as refused:
            self._say_refused[refused.error](refused.error)
            return self._login_page(request, str(refused), refused.status)
        self._log.info("board_login", who=form.get("who", "")[:80])
        response = RedirectResponse(_own_path(form.get("next", "")), 303, HEADERS)
        set_cookie(request, response, cookie)
        return response

    async def _logout(self, request: Request) -> Response:
        try:
            self._access.viewer(request)
        except LoginNeeded:
            pass
        except Refused as refused:
            return self._refused(request, refused, "")
        response = RedirectResponse(f"{PATH}/login", 303, HEADERS)
        set_cookie(request, response, "")
        return response

    def _login_page(self, request: Request, problem: str, status: int) -> Response:
        target = _own_path(request.query_params.get("next", ""))
        context = {"problem": problem, "next": target, "has_login": self._access.has_login}
        return html(self._renderer.page("login.html", context), status)

    def _refused(self, request: Request, refused: Refused, who: str) -> Response:
        lag = ProjectionLag() if refused.status in (401, 403) else self._lag()
        frame = self._frame(request, Moment(self._now_ms(), lag, None, who), "Not possible", "", live=False)
        context = {"frame": frame, "text": str(refused), "error": refused.error, "status": refused.status}
        return html(self._renderer.page("refused.html", context), refused.status)

    # -------------------------------------------------------------------------------------------------------- pages

    async def _now(self, request: Request, moment: Moment) -> Response:
        return await self._page(request, moment, "now", "Now", partial(now_page, self._site, moment, _span(request)))

    async def _lanes(self, request: Request, moment: Moment) -> Response:
        state = _one_of(request, "state", STATES)
        make = partial(lanes_page, self._site, moment, state, _word(request, "begins"), _word(request, "after"))
        return await self._page(request, moment, "lanes", "Lanes", make)

    async def _lane(self, request: Request, moment: Moment) -> Response:
        workspace = str(request.path_params["workspace"])
        make = partial(lane_page, self._site, moment, workspace, _span(request))
        return await self._page(request, moment, "lane", workspace[:_LONGEST_WORD], make, current="lanes")

    async def _leads(self, request: Request, moment: Moment) -> Response:
        words = {name: _word(request, name) for name in Filter.__struct_fields__}
        make = partial(leads_page, self._site, moment, Filter(**words), _place(request))
        return await self._page(request, moment, "leads", "Leads", make)

    async def _find(self, request: Request, moment: Moment) -> Response:
        text = (await _form(request)).get("text", "")[:2_000]
        return RedirectResponse(await self._threads.run(partial(find, self._site, text)), 303, HEADERS)

    async def _lead(self, request: Request, moment: Moment) -> Response:
        lead_id = _lead_id(request)
        page, _ = await self._threads.run(partial(lead_page, self._site, moment, lead_id))
        return await self._page(request, moment, "lead", "Lead", lambda: page, current="leads")

    async def _show(self, request: Request, moment: Moment) -> Response:
        """Show the personal data of a lead. Who does it is logged."""
        lead_id = _lead_id(request)
        page, places = await self._threads.run(partial(lead_page, self._site, moment, lead_id))
        self._log.info("personal_data_shown", who=moment.who, lead_id=lead_id, results=len(places))
        results = [await self._results.fill(place) for place in places]
        page = msgspec.structs.replace(page, results=results, shown=True)
        return await self._page(request, moment, "lead", "Lead", lambda: page, current="leads", live=False)

    async def _still_waiting(self, request: Request, moment: Moment) -> Response:
        lead_id, person = _word(request, "lead_id"), _word(request, "person")
        if not lead_id and not person:
            raise Refused(400, "no_lead", "Search for a lead first: the address names none")
        search = await self._waiting.find(lead_id, person, "")
        make = partial(waiting_page, self._site, moment, search, lead_id, person)
        return await self._page(request, moment, "waiting", "Waiting on Kafka", make, current="leads", live=False)

    async def _imports(self, request: Request, moment: Moment) -> Response:
        chosen, after = (_word(request, "workspace"), _word(request, "id")), _numbers(request, 2)
        name, make = imports_of(self._site, moment, *chosen, cast("tuple[int, int] | None", after))
        return await self._page(request, moment, name, "Imports", make, current="imports")

    async def _dead(self, request: Request, moment: Moment) -> Response:
        which = cast(Which, _one_of(request, "from", get_args(Which)) or "dlq")
        make = partial(dead_page, self._site, moment, which, _word(request, "workspace"))
        return await self._page(request, moment, "dead", "Dead letters", make)

    async def _books(self, request: Request, moment: Moment) -> Response:
        return await self._page(
            request, moment, "books", "Books", partial(books_page, self._site, moment, _word(request, "after"))
        )

    async def _audit(self, request: Request, moment: Moment) -> Response:
        after = cast("tuple[int, int, int] | None", _numbers(request, 3))
        make = partial(audit_page, self._site, moment, _word(request, "workspace"), after)
        return await self._page(request, moment, "audit", "Audit", make)

    async def _system(self, request: Request, moment: Moment) -> Response:
        return await self._page(request, moment, "system", "System", partial(system_page, self._site, moment))

    async def _unknown(self, request: Request, moment: Moment) -> Response:
        raise Refused(404, "no_page", "There is no such page: choose one above")

    # ------------------------------------------------------------------------------------------------------- making

    async def _page(
        self,
        request: Request,
        moment: Moment,
        name: str,
        title: str,
        make: Callable[[], msgspec.Struct | None],
        *,
        current: str = "",
        live: bool = True,
    ) -> Response:
        frame = self._frame(request, moment, title, current or name, live=live)
        once = partial(moment.shared.once, frame.url, make) if live else make
        body = await self._threads.run(partial(self._rendered, frame, name, once))
        if body is None:
            raise Refused(404, "unknown_workspace", "No workspace with this name is configured or known")
        return html(body)

    def _rendered(self, frame: Frame, name: str, make: Callable[[], msgspec.Struct | None]) -> bytes | None:
        page = make()
        if page is None:
            return None
        context: Mapping[str, Any] = {
            "frame": frame,
            "page": page,
            "clock": partial(clock, now_ms=frame.now_ms),
            "lead_path": lead_path,
        }
        return self._renderer.page(f"{name}.html", context)

    def _frame(self, request: Request, moment: Moment, title: str, current: str, *, live: bool) -> Frame:
        lag = moment.lag
        age_ms = None if lag.as_of_ms is None else max(0, moment.now_ms - lag.as_of_ms)
        return Frame(
            title=title,
            current=current,
            nav=NAV,
            url=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            now_ms=moment.now_ms,
            age_ms=age_ms,
            lag=lag.lag,
            trouble=lag.trouble,
            stale=age_ms is None or age_ms > STALE_MS or bool(lag.trouble),
            kafka_known=moment.kafka is not None,
            who=moment.who,
            has_login=self._access.has_login,
            live=live,
            banner=self._site.settings.gateway.banner,
        )


async def _form(request: Request) -> dict[str, str]:
    """Read a small form. Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise Refused(415, "no_form", "Send the form of the page")
    body = bytearray()
    try:
        async with asyncio.timeout(_FORM_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MOST_FORM_BYTES:
                    raise Refused(413, "too_large", "The form is too large: enter less text")
    except TimeoutError:
        raise Refused(408, "too_slow", "The form did not arrive in time: try again") from None
    return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=10))


def _own_path(path: str) -> str:
    """Return a path of the board, and nothing that leads elsewhere."""
    parts = urlsplit(path)
    own = parts.path == PATH or parts.path.startswith(f"{PATH}/")
    clean = not (parts.scheme or parts.netloc or "\\" in path or "//" in parts.path or ".." in parts.path)
    return path if own and clean and path.isascii() and path.isprintable() else PATH


def _word(request: Request, name: str) -> str:
    return request.query_params.get(name, "")[:_LONGEST_WORD]


def _one_of(request: Request, name: str, allowed: tuple[str, ...]) -> str:
    word = _word(request, name)
    return word if word in allowed else ""


def _span(request: Request) -> Span | None:
    return cast(Span, _one_of(request, "span", get_args(Span))) or None


def _numbers(request: Request, many: int) -> tuple[int, ...] | None:
    """Read `after`, which a page of a list ends with."""
    parts = _word(request, "after").split("-")
    if len(parts) != many or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        return None
    return tuple(map(int, parts))


def _place(request: Request) -> Place | None:
    numbers = _numbers(request, 2)
    return Place(*numbers) if numbers else None


def _lead_id(request: Request) -> str:
    lead_id = str(request.path_params["lead_id"])
    if "@" in lead_id or len(lead_id) > _LONGEST_WORD:
        raise Refused(400, "no_id", "This is not a lead id. Enter an e-mail or a URL in the search of the page Leads")
    return lead_id
