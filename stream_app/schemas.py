"""The wire formats, generated from the message types: JSON Schemas and an AsyncAPI document."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, Final

import msgspec

from stream_app.domain.dead_letter.headers import MEANING
from stream_app.domain.dead_letter.orders import ReplayCommand, ReplayProgress
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.lane_messages import Command, CommandAnswer, LaneView
from stream_app.domain.messages import Callback, Lead, Result, StatusEvent
from stream_app.domain.topics import TopicNames
from stream_app.version import __version__

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # not text in YAML 1.1
_TOPICS: Final = TopicNames()

_COMMITTED: Final = (
    "Read with isolation.level=read_committed: then each record appears once, and none of an aborted transaction."
)

_HEADERS: Final = "Headers are ignored, except traceparent (W3C)."
_WORKSPACE: Final = "The Clay workspace."
_LEAD_ID: Final = "The lead's id (lead_id)."

# Channel -> address, payload (a schema's name, None for raw bytes), what the key is, what it is for.
_CHANNELS: Final[dict[str, tuple[str, str | None, str, str]]] = {
    "leads": (_TOPICS.leads, "lead.v1", _WORKSPACE, f"Leads to enrich, with priority over other leads. {_HEADERS}"),
    "leadsBulk": (
        _TOPICS.bulk,
        "lead.v1",
        _WORKSPACE,
        f"Leads with low priority: a reserved share of the rate. {_HEADERS}",
    ),
    "status": (_TOPICS.status, "status-event.v1", _LEAD_ID, f"Every event of every lead. {_COMMITTED}"),
    "enriched": (
        _TOPICS.enriched,
        "result.v1",
        "workspace/destination/lead_id",
        f"Results; compacted, the last value of a key counts. {_COMMITTED}",
    ),
    "deadLetters": (
        _TOPICS.dlq,
        None,
        _WORKSPACE,
        f"Leads that failed: the raw bytes of the record, and all metadata in headers. {_COMMITTED}",
    ),
    "parked": (
        _TOPICS.parked,
        None,
        _WORKSPACE,
        f"Leads that wait for a human, in the format of dead letters. {_COMMITTED}",
    ),
    "lanes": (_TOPICS.lanes, "lane.v1", _WORKSPACE, f"Each lane's state, on change; compacted. {_COMMITTED}"),
    "callbacks": (_TOPICS.callbacks, "callback.v1", _WORKSPACE, "Callbacks of Clay."),
    "commands": (
        _TOPICS.commands,
        "command.v1",
        _WORKSPACE,
        "An operator's command for a lane, in the workspace's home partition. The answer comes on leads.audit.",
    ),
    "audit": (
        _TOPICS.audit,
        "command-answer.v1",
        _WORKSPACE,
        f"The result of each command: who submitted it, why, what it did, and the lane after it. {_COMMITTED}",
    ),
    "replayCommands": (
        _TOPICS.replay_state,
        "replay-command.v1",
        "command/<id>",
        "An operator's command to start, stop or resume a replay, in partition 0. The answer comes on leads.audit.",
    ),
    "replays": (
        _TOPICS.replay_state,
        "replay-progress.v1",
        "replay/<id>",
        f"Each replay's progress, in partition 0; compacted. Other keys are internal. {_COMMITTED}",
    ),
}

_USERS_WRITE: Final = ("leads", "leadsBulk", "commands", "replayCommands")
MESSAGES: Final[dict[str, type[msgspec.Struct]]] = {
    "lead.v1": Lead,
    "status-event.v1": StatusEvent,
    "result.v1": Result,
    "lane.v1": LaneView,
    "callback.v1": Callback,
    "command.v1": Command,
    "command-answer.v1": CommandAnswer,
    "replay-command.v1": ReplayCommand,
    "replay-progress.v1": ReplayProgress,
}
"""Name with version -> type. An incompatible change gets a new version beside the old one."""


def to_yaml(value: Any, indent: int = 0) -> str:
    """Return block style for dicts and lists. Scalars are JSON, which YAML 1.2 includes."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_key(key)}:{_after(inner, indent)}" for key, inner in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_after(inner, indent)}" for inner in value)
    return f"{pad}{_scalar(value)}\n"


def _after(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + to_yaml(value, indent + 1)
    return f" {_scalar(value)}\n"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _WORDS else _scalar(key)


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def asyncapi() -> dict[str, Any]:
    """Return the document as plain values. Operations are seen from stream-app: it receives what users write."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "stream-app",
            "version": __version__,
            "description": (
                "Leads go in on Kafka, each reaches Clay once, and every step comes out on Kafka. Names have the "
                "configured namespace as prefix. New versions only add fields: ignore unknown ones. "
                "Times are milliseconds since the epoch, UTC."
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
            "payload": {"description": "The bytes of the record that failed."},
            "bindings": kafka,
        }
    return {"name": name, "payload": {"$ref": f"./{payload}.json"}, "bindings": kafka}


def _dead_letter_headers() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Each header is text in UTF-8; a header without a value is left out.",
        "properties": {name: {"type": "string", "description": MEANING[name]} for name in HEADERS.values()},
    }


def documents() -> dict[str, str]:
    """Return the text of every file in schemas/, by file name."""
    schemas = {f"{name}.json": _json(schema(name)) for name in MESSAGES}
    return {
        **schemas,
        "asyncapi.yaml": "# Generated by `stream-app schemas`.\n" + to_yaml(asyncapi()),
        "dead-letter.md": _dead_letter(),
    }


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one message."""
    document = msgspec.json.schema(MESSAGES[name])
    for definition in document["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{name}.json", **document}


def _dead_letter() -> str:
    """The headers of a dead letter as a table."""
    ours = "".join(f"| `{name}` | {MEANING[name]} |\n" for name in HEADERS.values())
    return (
        "# A dead letter\n\n"
        "Generated by `stream-app schemas`. On `leads.dlq` and `leads.parked`: the value is the raw bytes of the "
        "record that failed, the key is the\nname of its workspace or a hash (`key-...`), and everything about it "
        "is in headers, each as text in UTF-8; a header without a value\nis left out. None holds a token, a "
        "URL or personal data, unless a producer's lead id does (docs/privacy.md).\n\n"
        f"| Header | Says |\n|---|---|\n{ours}"
    )


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
