"""The pages that only show: what each is made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol, cast, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from stream_app.board.api_access import Refused
from stream_app.board.frame import PageMaker
from stream_app.board.lookup import Results, Waiting
from stream_app.board.pages.audit import audit_page
from stream_app.board.pages.books import books_page
from stream_app.board.pages.cause import cause_of, cause_page
from stream_app.board.pages.dead import Which, dead_page
from stream_app.board.pages.imports import imports_of
from stream_app.board.pages.lane import lane_page
from stream_app.board.pages.lanes import STATES, lanes_page
from stream_app.board.pages.lead import lead_and_places, lead_page
from stream_app.board.pages.leads import Filter, find, leads_page
from stream_app.board.pages.now import now_page
from stream_app.board.pages.replay import REPLAY_ID, replay_page
from stream_app.board.pages.system import system_page
from stream_app.board.pages.waiting import backlog_page, waiting_page
from stream_app.board.render import HEADERS
from stream_app.board.requests import (
    LONGEST_WORD,
    after_of,
    lead_id_of,
    number,
    numbers,
    one_of,
    read_form,
    span_of,
    word,
)
from stream_app.board.site import KAFKA_WITHIN_S, Moment
from stream_app.domain.topics import ExistingTopic
from stream_app.ops import logs as log

_LONGEST_SEARCH: Final = 2_000

Handler = Callable[[Request, Moment], Awaitable[Response]]


class Topics(Protocol):
    """Asks Kafka for the planned topics."""

    async def look(self, within_s: float) -> Mapping[str, ExistingTopic] | None:
        """Return those that exist, by name; None if Kafka does not answer."""


class Views:
    """The handlers. Each look at personal data is logged."""

    def __init__(
        self, maker: PageMaker, results: Results, waiting: Waiting, topics: Topics, logger: log.Logger
    ) -> None:
        self._maker = maker
        self._site = maker.site
        self._results = results
        self._waiting = waiting
        self._topics = topics
        self._log = logger

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
        self._log.info("personal_data_shown", who=moment.visitor.who, lead_id=lead_id, results=len(places))
        results = [await self._results.fill(place) for place in places]
        page = msgspec.structs.replace(page, results=results, shown=True)
        return await self._maker.page(request, moment, "lead", "Lead", lambda: page, current="leads", live=False)

    async def _still_waiting(self, request: Request, moment: Moment) -> Response:
        lead_id, person = word(request, "lead_id"), word(request, "person")
        if not lead_id and not person:
            (after,), partition = numbers(request, 1) or (0,), number(request, "partition")
            backlog = partial(backlog_page, self._site, moment, word(request, "topic"), partition, after)
            return await self._maker.page(request, moment, "backlog", "Waiting on Kafka", backlog, current="leads")
        search = await self._waiting.find(lead_id, person, "")
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
        make = partial(cause_page, self._site, moment, which, cause, after_of(request), last_day=last_day == "day")
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

    async def _audit(self, request: Request, moment: Moment) -> Response:
        after = cast("tuple[int, int, int] | None", numbers(request, 3))
        make = partial(audit_page, self._site, moment, word(request, "workspace"), word(request, "id"), after)
        return await self._maker.page(request, moment, "audit", "Audit", make)

    async def _system(self, request: Request, moment: Moment) -> Response:
        make = partial(system_page, self._site, moment, await self._topics.look(KAFKA_WITHIN_S))
        return await self._maker.page(request, moment, "system", "System", make)
