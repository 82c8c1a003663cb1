"""The AsyncAPI 3.0 document: every channel a user may read or write, its key, its headers, and how to read it."""

from __future__ import annotations

from typing import Any, Final

from stream_app import __version__
from stream_app.domain.dead_letter.headers import MEANING, SPRING
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.topics import TopicNames

_TOPICS: Final = TopicNames()

_COMMITTED: Final = (
    "Read with isolation.level=read_committed: then each is there exactly once, and none whose transaction was aborted."
)

_HEADERS: Final = "Headers are ignored, except traceparent (W3C)."
_WORKSPACE: Final = "The Clay workspace."
_LEAD_ID: Final = "The lead's id (lead_id)."

# Channel -> address, payload (a schema's name, None for raw bytes), what the key is, what it is for.
_CHANNELS: Final[dict[str, tuple[str, str | None, str, str]]] = {
    "leads": (_TOPICS.leads, "lead.v1", _WORKSPACE, f"Leads to enrich, first in right of way. {_HEADERS}"),
    "leadsBulk": (_TOPICS.bulk, "lead.v1", _WORKSPACE, f"Leads without hurry: a share of the rate. {_HEADERS}"),
    "status": (_TOPICS.status, "status-event.v1", _LEAD_ID, f"Every step of every lead. {_COMMITTED}"),
    "enriched": (
        _TOPICS.enriched,
        "result.v1",
        "workspace/destination/lead_id",
        f"Results; compacted, the last of a key counts. {_COMMITTED}",
    ),
    "deadLetters": (
        _TOPICS.dlq,
        None,
        _WORKSPACE,
        f"Leads that failed: the raw bytes as they came, all about them in headers. {_COMMITTED}",
    ),
    "parked": (
        _TOPICS.parked,
        None,
        _WORKSPACE,
        f"Leads that wait for a human: as dead letters. {_COMMITTED}",
    ),
    "lanes": (_TOPICS.lanes, "lane.v1", _WORKSPACE, f"Each lane's state, on change; compacted. {_COMMITTED}"),
    "callbacks": (_TOPICS.callbacks, "callback.v1", _WORKSPACE, "What Clay called back with."),
    "commands": (
        _TOPICS.commands,
        "command.v1",
        _WORKSPACE,
        "What an operator asks of a lane: in the partition where the workspace lives. The answer comes on leads.audit.",
    ),
    "audit": (
        _TOPICS.audit,
        "command-answer.v1",
        _WORKSPACE,
        f"What became of each command: who asked, why, what it did, and the lane after it. {_COMMITTED}",
    ),
}

_USERS_WRITE: Final = ("leads", "leadsBulk", "commands")


def asyncapi() -> dict[str, Any]:
    """The document as plain values. Operations are seen from stream-app: it receives what users write."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "stream-app",
            "version": __version__,
            "description": (
                "Leads go in on Kafka, each reaches Clay once, and every step comes out on Kafka. Names get the "
                "namespace of the configuration in front. Fields are only ever added: ignore those that you do not "
                "know. Times are milliseconds since the epoch, UTC."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {
            name: _channel(name, address, description) for name, (address, _, _, description) in _CHANNELS.items()
        },
        "operations": {
            f"{'receive' if name in _USERS_WRITE else 'send'}{name[0].upper()}{name[1:]}": {
                "action": "receive" if name in _USERS_WRITE else "send",
                "channel": {"$ref": f"#/channels/{name}"},
            }
            for name in _CHANNELS
        },
        "components": {
            "messages": {name: _message(name, payload, key) for name, (_, payload, key, _) in _CHANNELS.items()},
            "schemas": {"deadLetterHeaders": _dead_letter_headers()},
        },
    }


def _channel(name: str, address: str, description: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _message(name: str, payload: str | None, key: str) -> dict[str, Any]:
    kafka = {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}}
    if payload is None:
        return {
            "name": name,
            "contentType": "application/octet-stream",
            "headers": {"$ref": "#/components/schemas/deadLetterHeaders"},
            "payload": {"description": "The bytes of the record that failed, whatever they are."},
            "bindings": kafka,
        }
    return {"name": name, "payload": {"$ref": f"./{payload}.json"}, "bindings": kafka}


def _dead_letter_headers() -> dict[str, Any]:
    return {
        "type": "object",
        "description": (
            "Each header is text in UTF-8, but for some of Spring Kafka's; one that has nothing to say is left out."
        ),
        "properties": {
            header: {"type": "string", "description": meaning}
            for header, meaning in {**{name: MEANING[name] for name in HEADERS.values()}, **SPRING}.items()
        },
    }
