"""The look-up API: leads, lanes, books and dead letters as JSON. It only reads.

Only the answer to `GET /leads/...` holds personal data, and each is logged; no URL, log or metric
does.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_app import __version__
from stream_app.board.access import Access, AccessRefused
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.on_kafka import FoundRecord, Search
from stream_app.board.read_model.query import FoundResultAt, Queries
from stream_app.client.results import answers
from stream_app.clock import Clock
from stream_app.domain.books.records import BookTotals
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.views.explain import ConsumerGroup, Facts, LaneFacts, explain
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.backlog import Waiting, sum_of, waiting_in
from stream_app.kafka.groups import Consumption
from stream_app.ops import logs as log

_REFUSALS: Final = {
    400: "The request is not valid.",
    401: "The bearer token is missing or wrong.",
    404: "Not found.",
    405: "The API is read only.",
    503: "The read model cannot be read now, or does not hold yet what is on Kafka.",
}
_ALWAYS: Final = (401, 405, 503)
_HEADERS: Final = {
    401: {"www-authenticate": "Bearer"},
    405: {"allow": "GET, HEAD"},
    503: {"retry-after": "5"},
}


def _query(name: str, says: str, **more: object) -> dict[str, Any]:
    schema = {"type": "string", **more}
    return {"name": name, "in": "query", "required": False, "description": says, "schema": schema}


_WAITING_ID: Final = _query(
    "lead_id",
    "The lead's id, as on `leads.status`: the producer's id, or the id derived from the person.",
    maxLength=300,
)
_ID: Final = ({**_WAITING_ID, "in": "path", "required": True},)
_PERSON_HASH: Final = _query(
    "person",
    "The person's hash, as `stream_app.domain.lead.identity.identify` "
    "computes it, never the e-mail.",
    pattern="^[A-Za-z0-9_-]{22}$",
)
_PERSON: Final = ({**_PERSON_HASH, "required": True},)
_WORKSPACE: Final = _query("workspace", "Only leads of this workspace.")
_IMPORTS: Final = (_WORKSPACE, _query("import_id", "Only imports with this id."))


class _Operation(msgspec.Struct, frozen=True):
    path: str
    name: str
    summary: str
    answer: type
    parameters: tuple[dict[str, Any], ...] = ()
    refusals: tuple[int, ...] = ()


_OPERATIONS: Final = (
    _Operation(
        "/leads/{lead_id}",
        "getLead",
        "Where a lead is: its timeline and results",
        answers.LeadAnswer,
        _ID,
        (400, 404),
    ),
    _Operation(
        "/leads",
        "findLeads",
        "The leads of a person",
        answers.LeadsAnswer,
        _PERSON,
        (400,),
    ),
    _Operation(
        "/waiting",
        "findWaiting",
        "A lead that no worker has processed yet, by lead_id or person: "
        "where it waits, and what blocks it",
        answers.WaitingAnswer,
        (_WAITING_ID, _PERSON_HASH, _WORKSPACE),
        (400,),
    ),
    _Operation("/lanes", "getLanes", "The state of every lane", answers.LanesAnswer),
    _Operation(
        "/imports",
        "getImports",
        "The newest imports, and where their leads are",
        answers.ImportsAnswer,
        _IMPORTS,
    ),
    _Operation(
        "/yield",
        "getYield",
        "What Clay finds: the last hour and day beside the seven days before",
        answers.YieldAnswer,
        (_query("workspace", "Only destinations of this workspace."),),
    ),
    _Operation(
        "/bill",
        "getBill",
        "Clay's balance against the books, by workspace and day",
        answers.BillAnswer,
    ),
    _Operation("/books", "getBooks", "Leads by status", answers.BooksAnswer),
    _Operation("/dlq", "getDeadLetters", "Dead letters by cause", answers.DeadLettersAnswer),
)


def document(version: str) -> dict[str, Any]:
    """Return the document as plain values."""
    types = [*(operation.answer for operation in _OPERATIONS), answers.Refusal]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stream-app: where is my lead?",
            "version": version,
            "description": (
                "It only reads. Each answer says how far it is behind Kafka. "
                "Times are epoch milliseconds."
            ),
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": {operation.path: {"get": _operation(operation)} for operation in _OPERATIONS},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: _Operation) -> dict[str, Any]:
    codes = sorted(operation.refusals + _ALWAYS)
    refused = {str(code): _response(_REFUSALS[code], answers.Refusal) for code in codes}
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": list(operation.parameters),
        "responses": {"200": _response(operation.summary + ".", operation.answer), **refused},
    }


def _response(says: str, answer: type) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{answer.__name__}"}
    return {"description": says, "content": {"application/json": {"schema": schema}}}


_HASH: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_MAX_LEAD_ID_CHARACTERS: Final = 300
_log: Final = log.get("board")
_DOCUMENT: Final = msgspec.json.encode(document(__version__))
WHO: Final = "look-up API"
"""Who sees personal data, in the log: a token names no person."""
MAX_IMPORTS_IN_ANSWER: Final = 100
"""In one answer."""
FetchResult = Callable[[FoundResultAt], Awaitable[answers.FoundResult]]
"""Returns a result with its data, or with a problem text. Never raises."""
FindWaiting = Callable[[str, str, str], Awaitable[Search]]
"""Searches for leads that no worker has processed yet, by lead id or person's hash, in one
workspace or ("") in all.
"""


@dataclass(eq=False)
class Lookup:
    """The API's handlers.

    `kafka` returns what Kafka says beside the topics, whose names are `names`.
    """

    queries: Queries
    lag: Callable[[], ProjectionLag]
    fetch_result: FetchResult
    kafka: Callable[[], Awaitable[Consumption | None]]
    names: TopicNames
    access: Access
    find_waiting: FindWaiting
    now_ms: Callable[[], int] = Clock().now_ms

    def routes(self) -> list[Route]:
        return [
            Route("/leads/{lead_id:path}", _Endpoint(self, self._lead)),
            Route("/leads", _Endpoint(self, self._leads)),
            Route("/waiting", _Endpoint(self, self._still_waiting)),
            Route("/lanes", _Endpoint(self, self._lanes)),
            Route("/imports", _Endpoint(self, self._imports)),
            Route("/yield", _Endpoint(self, self._yield)),
            Route("/bill", _Endpoint(self, self._bill)),
            Route("/books", _Endpoint(self, self._books)),
            Route("/dlq", _Endpoint(self, self._dead_letters)),
            Route("/openapi.json", _Endpoint(self, self._openapi)),
        ]

    async def respond(
        self,
        request: Request,
        answer: Callable[[Request, ProjectionLag], Awaitable[object]],
    ) -> Response:
        """Run a handler and build its response, or the refusal."""
        # Read the lag before the query: the model may be newer than the answer says, never older.
        lag = self.lag()
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        try:
            self.access.check(request)
            body = await answer(request, lag)
            status = 200
        except AccessRefused as refused:
            status = refused.status
            hidden = ProjectionLag() if status == 401 else lag
            body = answers.Refusal(
                **msgspec.structs.asdict(hidden),
                error=refused.error,
                text=str(refused),
            )
            headers |= _HEADERS.get(status, {})
        except sqlite3.Error as error:
            status = 503
            text = f"The read model cannot be read: {error}. {lag.trouble}"
            headers |= _HEADERS[status]
            body = answers.Refusal(
                **msgspec.structs.asdict(lag),
                error="read_model",
                text=text.strip(),
            )
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return Response(raw, status, headers, "application/json")

    async def _lead(self, request: Request, lag: ProjectionLag) -> answers.LeadAnswer:
        lead = await self._lead_with_results(_id(str(request.path_params["lead_id"])))
        if lead is None:
            self._check_read(lag)
            behind = (
                f", but {count(lag.lag, 'record is', 'records are')} still to be read"
                if lag.lag
                else ""
            )
            raise AccessRefused(404, answers.UNKNOWN_LEAD, f"No lead with this id is known{behind}")
        return answers.LeadAnswer(**msgspec.structs.asdict(lag), lead=lead)

    async def _leads(self, request: Request, lag: ProjectionLag) -> answers.LeadsAnswer:
        ids = await asyncio.to_thread(
            self.queries.leads_of,
            _person(request.query_params.get("person", "")),
        )
        leads = [
            lead for lead_id in ids if (lead := await self._lead_with_results(lead_id)) is not None
        ]
        if not leads or lag.as_of_ms is None:  # who a lead belongs to is known last
            self._check_read(lag)
        return answers.LeadsAnswer(**msgspec.structs.asdict(lag), leads=leads)

    def _check_read(self, lag: ProjectionLag) -> None:
        """Refuse to say that something is unknown before Kafka has been read."""
        if not lag.is_read(self.now_ms()):
            left = (
                f", {count(lag.lag, 'record is', 'records are')} still to be read"
                if lag.lag
                else ""
            )
            raise AccessRefused(
                503,
                answers.NOT_READ_YET,
                f"The board has not read Kafka yet{left}: ask again soon",
            )

    async def _lead_with_results(self, lead_id: str) -> answers.FoundLead | None:
        lead = await asyncio.to_thread(self.queries.lead, lead_id, self.now_ms())
        if lead is None:
            return None
        places = await asyncio.to_thread(self.queries.results, lead_id)
        _log.info("personal_data_shown", who=WHO, lead_id=lead_id, results=len(places))
        return msgspec.structs.replace(
            lead,
            results=[await self.fetch_result(place) for place in places],
        )

    async def _still_waiting(self, request: Request, lag: ProjectionLag) -> answers.WaitingAnswer:
        query = request.query_params
        lead_id, person = _someone(query.get("lead_id", ""), query.get("person", ""))
        search = await self.find_waiting(lead_id, person, query.get("workspace", ""))
        kafka = await self.kafka()
        waiting = waiting_in({} if kafka is None else kafka.waiting, self.names.namespace)
        lanes, _ = await asyncio.to_thread(self.queries.lanes, self.now_ms())
        views = {view.workspace: view for view in lanes}
        now_ms = Clock().now_ms()
        leads = [
            waiting_lead(
                search,
                record,
                views.get(record.workspace),
                waiting.get(record.partition, {}),
                now_ms,
            )
            for record in search.matches
        ]
        age = msgspec.structs.asdict(lag)
        searched = search.searched
        left = search.left
        return answers.WaitingAnswer(
            **age,
            leads=leads,
            searched=searched,
            left=left,
            problem=search.problem,
        )

    async def _lanes(self, _: Request, lag: ProjectionLag) -> answers.LanesAnswer:
        lanes, unreadable = await asyncio.to_thread(self.queries.lanes, self.now_ms())
        return answers.LanesAnswer(
            **msgspec.structs.asdict(lag),
            lanes=lanes,
            unreadable=len(unreadable),
        )

    async def _imports(self, request: Request, lag: ProjectionLag) -> answers.ImportsAnswer:
        query = request.query_params
        workspace = query.get("workspace", "")
        import_id = query.get("import_id", "")
        imports, last = await asyncio.to_thread(
            self.queries.imports,
            workspace,
            import_id,
            None,
            MAX_IMPORTS_IN_ANSWER,
        )
        return answers.ImportsAnswer(
            **msgspec.structs.asdict(lag),
            imports=imports,
            more=last is not None,
        )

    async def _yield(self, request: Request, lag: ProjectionLag) -> answers.YieldAnswer:
        workspace = request.query_params.get("workspace") or None
        yields = await asyncio.to_thread(self.queries.yields, self.now_ms(), workspace)
        return answers.YieldAnswer(**msgspec.structs.asdict(lag), yields=yields)

    async def _bill(self, _: Request, lag: ProjectionLag) -> answers.BillAnswer:
        bills = await asyncio.to_thread(self.queries.bills)
        return answers.BillAnswer(**msgspec.structs.asdict(lag), bills=bills)

    async def _books(self, _: Request, lag: ProjectionLag) -> answers.BooksAnswer:
        counts = await asyncio.to_thread(self.queries.status_counts)
        totals = BookTotals()
        for row in counts:
            totals.add(row.status, row.leads, final=row.column == "accepted_final")
        columns = {
            name: column.leads for name, column in totals.columns.items() if name != "waiting"
        }
        kafka = await self.kafka()
        left = (
            {}
            if kafka is None
            else {topic: sum_of(kafka.waiting, {topic}) for topic in sorted(self.names.inputs)}
        )
        return answers.BooksAnswer(
            **msgspec.structs.asdict(lag),
            columns=columns,
            status_counts=counts,
            not_leads=dict(totals.not_leads),
            waiting=None
            if kafka is None
            else {topic: waiting.records for topic, waiting in left.items()},
            waiting_at_most=any(waiting.at_most for waiting in left.values()),
        )

    async def _dead_letters(self, _: Request, lag: ProjectionLag) -> answers.DeadLettersAnswer:
        dlq = await asyncio.to_thread(self.queries.dead_letters, self.names.dlq)
        parked = await asyncio.to_thread(self.queries.dead_letters, self.names.parked)
        return answers.DeadLettersAnswer(**msgspec.structs.asdict(lag), dlq=dlq, parked=parked)

    async def _openapi(self, _: Request, __: ProjectionLag) -> bytes:
        return _DOCUMENT


def _id(lead_id: str) -> str:
    if "@" in lead_id or len(lead_id) > _MAX_LEAD_ID_CHARACTERS:
        text = (
            "This is not a lead id. For an e-mail use `stream-app status`, which sends only a hash"
        )
        raise AccessRefused(400, "no_id", text)
    return lead_id


def _person(person: str) -> str:
    if not _HASH.fullmatch(person):
        text = (
            "Add ?person= with the person's hash (22 characters): "
            "`stream-app status` computes it from an e-mail"
        )
        raise AccessRefused(400, "no_person", text)
    return person


def _someone(lead_id: str, person: str) -> tuple[str, str]:
    """Return a lead id, or else the hash of a person.

    Raises AccessRefused if there is neither, or if it cannot be one.
    """
    if not lead_id and not person:
        text = (
            "Name a lead: add ?lead_id=, or ?person= with the person's hash (22 characters), "
            "which `stream-app status` computes from an e-mail. GET /books counts all that waits"
        )
        raise AccessRefused(400, "no_lead", text)
    return (_id(lead_id), "") if lead_id else ("", _person(person))


def waiting_lead(
    search: Search,
    record: FoundRecord,
    view: LaneView | None,
    in_partition: Mapping[str, Waiting],
    now_ms: int,
) -> answers.WaitingLead:
    """A waiting record and what blocks it.

    `in_partition`: what waits in its partition, by topic.
    """
    waiting = {topic: left.records for topic, left in in_partition.items()}
    at_most = any(left.at_most for left in in_partition.values())
    blocked = "" if record.blocked is None else str(record.blocked)
    partition = view.partition if view else record.partition
    lane = LaneFacts(
        record.workspace,
        partition,
        view,
        waiting,
        unreadable=blocked,
        at_most=at_most,
    )
    findings = explain(Facts(now_ms, search.worker, ConsumerGroup("", 1), [lane]))
    origin = f"{record.topic}/{record.partition}/{record.offset}"
    return answers.WaitingLead(
        record.lead_id,
        record.workspace,
        origin,
        record.since_ms,
        record.ahead,
        findings,
    )


class _Endpoint:
    """An ASGI app of one path.

    Unlike a function, it also answers methods that it does not support.
    """

    def __init__(
        self,
        lookup: Lookup,
        answer: Callable[[Request, ProjectionLag], Awaitable[object]],
    ) -> None:
        self._lookup = lookup
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._lookup.respond(Request(scope, receive), self._answer)
        await response(scope, receive, send)
