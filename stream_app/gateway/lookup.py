"""The look-up API: where a lead is, how the lanes are, what the books and the dead letters say. Read only, JSON.

Personal data is in the answer to `GET /leads/...` and nowhere else: not in a URL, a log or a metric.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_app import __version__
from stream_app.domain.books.columns import COLUMNS
from stream_app.domain.lane.explain import Facts, Group, LaneFacts, explain
from stream_app.domain.messages import LaneView
from stream_app.domain.plural import count
from stream_app.gateway.access import Access, Refused
from stream_app.gateway.lookup_answers import (
    BooksAnswer,
    DeadLettersAnswer,
    FoundLead,
    FoundResult,
    LanesAnswer,
    LeadAnswer,
    LeadsAnswer,
    Refusal,
    WaitingAnswer,
    WaitingLead,
)
from stream_app.gateway.openapi import document
from stream_app.gateway.read_model.follow import ProjectionLag
from stream_app.gateway.read_model.query import FoundPlace, Queries
from stream_app.gateway.waiting_leads import FoundRecord, Search
from stream_app.ops.clock import SystemClock

_PERSON: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_LONGEST_ID: Final = 300


class Results(Protocol):
    """Where results are fetched."""

    async def fill(self, found: FoundPlace) -> FoundResult:
        """The result with its data, or with the problem in words. Never raises."""


class Waiting(Protocol):
    """Where leads are searched for that no worker has taken yet."""

    async def find(self, lead_id: str, person: str, workspace: str) -> Search:
        """Search for a lead id or the hash of a person, in one workspace or (empty) in all. Never raises."""


class Lookup:
    """The API's answers. `backlog`: what the worker has not passed yet, by topic. `dlq`, `parked`: topics."""

    def __init__(
        self,
        queries: Queries,
        standing: Callable[[], ProjectionLag],
        results: Results,
        backlog: Callable[[], Awaitable[dict[str, int] | None]],
        access: Access,
        dlq: str,
        parked: str,
        waiting: Waiting,
    ) -> None:
        self._queries = queries
        self._standing = standing
        self._results = results
        self._backlog = backlog
        self._access = access
        self._dlq = dlq
        self._parked = parked
        self._waiting = waiting
        self._document = msgspec.json.encode(document(__version__))

    def routes(self) -> list[Route]:
        """All of it, to be served at the root."""
        return [
            Route("/leads/{lead_id:path}", _Endpoint(self, self._lead)),
            Route("/leads", _Endpoint(self, self._leads)),
            Route("/waiting", _Endpoint(self, self._still_waiting)),
            Route("/lanes", _Endpoint(self, self._lanes)),
            Route("/books", _Endpoint(self, self._books)),
            Route("/dlq", _Endpoint(self, self._letters)),
            Route("/openapi.json", _Endpoint(self, self._openapi)),
        ]

    async def respond(
        self, request: Request, answer: Callable[[Request, ProjectionLag], Awaitable[object]]
    ) -> Response:
        """What `answer` gives, or why not."""
        # Before the question: what the model has since then is more than is said.
        standing = self._standing()
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        try:
            self._access.check(request)
            found, status = await answer(request, standing), 200
        except Refused as refused:
            status = refused.status
            hidden = ProjectionLag() if status in (401, 403) else standing
            found = Refusal(**msgspec.structs.asdict(hidden), error=refused.error, text=str(refused))
            headers |= {401: {"www-authenticate": "Bearer"}, 405: {"allow": "GET, HEAD"}}.get(status, {})
        except sqlite3.Error as error:
            status, text = 503, f"The read model cannot be read: {error}. {standing.trouble}"
            headers["retry-after"] = "5"
            found = Refusal(**msgspec.structs.asdict(standing), error="read_model", text=text.strip())
        raw = found if isinstance(found, bytes) else msgspec.json.encode(found)
        return Response(raw, status, headers, "application/json")

    async def _lead(self, request: Request, standing: ProjectionLag) -> LeadAnswer:
        lead_id = _id(str(request.path_params["lead_id"]))
        lead = await self._found(lead_id)
        if lead is None:
            behind = f", but {count(standing.lag, 'record is', 'records are')} still to be read" if standing.lag else ""
            raise Refused(404, "unknown_lead", f"Nothing is known of a lead with this id{behind}")
        return LeadAnswer(**msgspec.structs.asdict(standing), lead=lead)

    async def _leads(self, request: Request, standing: ProjectionLag) -> LeadsAnswer:
        person = _person(request.query_params.get("person", ""))
        ids = await asyncio.to_thread(self._queries.leads_of, person)
        found = [await self._found(lead_id) for lead_id in ids]
        return LeadsAnswer(**msgspec.structs.asdict(standing), leads=[lead for lead in found if lead is not None])

    async def _found(self, lead_id: str) -> FoundLead | None:
        lead = await asyncio.to_thread(self._queries.lead, lead_id)
        if lead is None:
            return None
        places = await asyncio.to_thread(self._queries.results, lead_id)
        return msgspec.structs.replace(lead, results=[await self._results.fill(place) for place in places])

    async def _still_waiting(self, request: Request, standing: ProjectionLag) -> WaitingAnswer:
        asked = request.query_params
        lead_id = _id(asked.get("lead_id", ""))
        person = "" if lead_id else _person(asked.get("person", ""))
        search = await self._waiting.find(lead_id, person, asked.get("workspace", ""))
        lanes, _ = await asyncio.to_thread(self._queries.lanes)
        views = {view.workspace: view for view in lanes}
        return WaitingAnswer(
            **msgspec.structs.asdict(standing),
            leads=[waiting_lead(search, each, views.get(each.workspace)) for each in search.found],
            searched=search.searched,
            left=search.left,
            problem=search.problem,
        )

    async def _lanes(self, _: Request, standing: ProjectionLag) -> LanesAnswer:
        lanes, unreadable = await asyncio.to_thread(self._queries.lanes)
        return LanesAnswer(**msgspec.structs.asdict(standing), lanes=lanes, unreadable=unreadable)

    async def _books(self, _: Request, standing: ProjectionLag) -> BooksAnswer:
        stands = await asyncio.to_thread(self._queries.stands)
        columns: Counter[str] = Counter(dict.fromkeys(COLUMNS[:-1], 0))  # the last one is `waiting`
        not_leads: Counter[str] = Counter()
        for stand in stands:
            if stand.column:
                columns[stand.column] += stand.stories
            else:
                not_leads[stand.status] += stand.stories
        return BooksAnswer(
            **msgspec.structs.asdict(standing),
            columns=dict(columns),
            stands=stands,
            not_leads=dict(not_leads),
            waiting=await self._backlog(),
        )

    async def _letters(self, _: Request, standing: ProjectionLag) -> DeadLettersAnswer:
        dlq = await asyncio.to_thread(self._queries.letters, self._dlq)
        parked = await asyncio.to_thread(self._queries.letters, self._parked)
        return DeadLettersAnswer(**msgspec.structs.asdict(standing), dlq=dlq, parked=parked)

    async def _openapi(self, _: Request, __: ProjectionLag) -> bytes:
        return self._document


def _id(lead_id: str) -> str:
    if "@" in lead_id or len(lead_id) > _LONGEST_ID:
        text = "That is no lead's id. Ask for an e-mail with `stream-app status`: it hashes it, no URL has to hold it"
        raise Refused(400, "no_id", text)
    return lead_id


def _person(person: str) -> str:
    if not _PERSON.fullmatch(person):
        text = "Say whose: ?person=<22 characters, the hash by which `stream-app status` asks for an e-mail>"
        raise Refused(400, "no_person", text)
    return person


def waiting_lead(search: Search, found: FoundRecord, view: LaneView | None) -> WaitingLead:
    """A waiting record with what holds it."""
    waiting = {topic: lag for (topic, partition), lag in search.lag.items() if partition == found.partition}
    blocked = "" if found.blocked is None else str(found.blocked)
    partition = view.partition if view else found.partition
    lane = LaneFacts(found.workspace, partition, view, waiting, unreadable=blocked)
    findings = explain(Facts(SystemClock().now_ms(), search.worker, Group("", 1), [lane]))
    origin = f"{found.topic}/{found.partition}/{found.offset}"
    return WaitingLead(found.lead_id, found.workspace, origin, found.since_ms, found.ahead, findings)


class _Endpoint:
    """An ASGI app of one address: unlike a function, it also answers methods that it does not take."""

    def __init__(self, lookup: Lookup, answer: Callable[[Request, ProjectionLag], Awaitable[object]]) -> None:
        self._lookup = lookup
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._lookup.respond(Request(scope, receive), self._answer)
        await response(scope, receive, send)
