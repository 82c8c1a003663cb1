"""The look-up API as an OpenAPI 3.1 document. Its schemas come from the types of the answers."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stream_app.client.answers import (
    BooksAnswer,
    DeadLettersAnswer,
    ImportsAnswer,
    LanesAnswer,
    LeadAnswer,
    LeadsAnswer,
    Refusal,
    WaitingAnswer,
)

_REFUSALS: Final = {
    400: "The request is not valid.",
    401: "The bearer token is missing or wrong.",
    403: "No token is configured, and the request did not come from the board's own machine.",
    404: "Not found.",
    405: "The API is read only.",
    503: "The read model cannot be read now.",
}
_ALWAYS: Final = (401, 403, 405, 503)

_LEAD_ID: Final = {
    "name": "lead_id",
    "in": "path",
    "required": True,
    "description": "The lead's id, as on `leads.status`: the producer's id, or the id derived from the person.",
    "schema": {"type": "string", "maxLength": 300},
}
_PERSON: Final = {
    "name": "person",
    "in": "query",
    "required": True,
    "description": "The person's hash, as `stream_app.domain.lead.identity.identify` computes it, never the e-mail.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"},
}

_WAITING_ID: Final = {**_LEAD_ID, "in": "query", "required": False}
_WORKSPACE: Final = {
    "name": "workspace",
    "in": "query",
    "required": False,
    "description": "Only leads of this workspace.",
    "schema": {"type": "string"},
}
_IMPORT_ID: Final = {
    "name": "import_id",
    "in": "query",
    "required": False,
    "description": "Only imports with this id.",
    "schema": {"type": "string"},
}


class _Operation(msgspec.Struct, frozen=True):
    path: str
    name: str
    summary: str
    answer: type
    parameters: tuple[dict[str, Any], ...] = ()
    refusals: tuple[int, ...] = ()


_OPERATIONS: Final = (
    _Operation(
        "/leads/{lead_id}", "getLead", "Where a lead is: its timeline and results", LeadAnswer, (_LEAD_ID,), (400, 404)
    ),
    _Operation("/leads", "findLeads", "The leads of a person", LeadsAnswer, (_PERSON,), (400,)),
    _Operation(
        "/waiting",
        "findWaiting",
        "A lead that no worker has processed yet, by lead_id or person: where it waits, and what blocks it",
        WaitingAnswer,
        (_WAITING_ID, {**_PERSON, "required": False}, _WORKSPACE),
        (400,),
    ),
    _Operation("/lanes", "getLanes", "The state of every lane", LanesAnswer),
    _Operation(
        "/imports",
        "getImports",
        "The newest imports, and where their leads are",
        ImportsAnswer,
        (_WORKSPACE, _IMPORT_ID),
    ),
    _Operation("/books", "getBooks", "Leads by status", BooksAnswer),
    _Operation("/dlq", "getDeadLetters", "Dead letters by cause", DeadLettersAnswer),
)


def document(version: str) -> dict[str, Any]:
    """Return the document as plain values."""
    types = [*(each.answer for each in _OPERATIONS), Refusal]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stream-app: where is my lead?",
            "version": version,
            "description": "Read only. Every answer says how far it is behind Kafka. Times are epoch milliseconds.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": {each.path: {"get": _operation(each)} for each in _OPERATIONS},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(each: _Operation) -> dict[str, Any]:
    refused = {str(code): _response(_REFUSALS[code], Refusal) for code in sorted((*each.refusals, *_ALWAYS))}
    return {
        "operationId": each.name,
        "summary": each.summary,
        "parameters": list(each.parameters),
        "responses": {"200": _response(each.summary + ".", each.answer), **refused},
    }


def _response(says: str, answer: type) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{answer.__name__}"}
    return {"description": says, "content": {"application/json": {"schema": schema}}}
