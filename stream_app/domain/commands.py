"""A command from the bytes of its record to what it did."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from stream_app.domain.lane.view import LaneView
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.records import ConsumedRecord, Record, Rows
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import decode

CommandKind = Literal[
    "pause",
    "resume",
    "trip",
    "close",
    "shadow",
    "auto",
    "reset",
    "budget",
    "correct",
    "resolve",
    "rate",
    "quota",
    "reload",
    "cancel_lead",
    "cancel_import",
    "suppress",
    "unsuppress",
    "erase",
]


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator's command to a lane, on `leads.commands`, keyed by workspace, in the workspace's home partition.

    Attributes:
        id: Chosen by the sender. A command that arrives twice, by redelivery or by mistake, is applied once.
        at_ms: When it was submitted, epoch ms. It expires after 24 hours.
        who: The operator, for the audit on `leads.audit`. The answer is written there too.
        why: The reason, for the audit.
        args: By kind. budget: `caps` (by name: a number, null for no limit, "configured"), `shadow`. correct:
            `credits`, `actions`, `period`. resolve: `lead_id`, `destination`, and `credits`, `actions` of a lead that
            is at Clay, or `give_up`. rate: `rate_per_s`, `burst`. quota: `webhook_id`, `use`, `count`. cancel_lead:
            `lead_id`. cancel_import: `import_id`. suppress, unsuppress: `people` (hashes; no workspace, to every
            partition). erase: `lead_id`, `destinations`, `people` (hashes). The others have none.
    """

    id: str
    kind: CommandKind
    workspace: str
    at_ms: int
    who: str
    why: str = ""
    args: dict[str, Any] = {}


class CommandAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of a command, on `leads.audit`, keyed like it: one each, in the transaction that applied it.

    Attributes:
        id: The id of the command, or its place on Kafka if it could not be read.
        applied: False: nothing was changed.
        at_ms: When it was applied or refused, epoch ms.
        asked_at_ms: When it was submitted, epoch ms.
        reason: Why nothing was changed, a stable code.
        text: The outcome in words.
        under_way: Requests to Clay from that partition that started before and still finish.
        people: How many people the suppression list gained or lost in that partition.
    """

    id: str
    applied: bool
    at_ms: int
    partition: int
    kind: str = ""
    workspace: str = ""
    who: str = ""
    why: str = ""
    asked_at_ms: int = 0
    reason: str = ""
    text: str = ""
    under_way: int = 0
    lane: LaneView | None = None
    people: int = 0


TO_ALL: Final = frozenset({"suppress", "unsuppress", "reload"})
"""Kinds that go to every partition. The others go to the home partition of their workspace."""

REPLAY_RELOAD: Final = "replay reload"
"""The kind of the replay processes' answers to `reload`: one for each partition, as the workers' are."""

_MAX_AGE_MS: Final = 24 * 3_600_000
_MAX_ID: Final = 128
MAX_TEXT: Final = 400
_command: Final = msgspec.json.Decoder(Command)


class CommandResult(msgspec.Struct, frozen=True):
    """What a command did (`text`, one line) and what it writes. If it is not `applied`, `reason` says why."""

    text: str
    applied: bool = True
    reason: str = ""
    rows: Rows = []
    records: list[Record] = []
    events: list[StatusEvent] = []
    people: int = 0


class Answered(msgspec.Struct, frozen=True):
    """The value of the row that records that a command was answered. `at_ms`: when, epoch ms."""

    at_ms: int
    applied: bool


class _Signed(msgspec.Struct, frozen=True):
    """The fields of an invalid command that its answer needs."""

    id: str
    workspace: str = ""


_signed: Final = msgspec.json.Decoder(_Signed)


def command_row(command_id: str) -> bytes:
    """Return the row key of an answered command."""
    return f"k/{command_id}".encode("utf-8", "surrogatepass")


def encode_answered(applied: bool, now_ms: int) -> bytes:
    """Return the value of the row of a command that is answered now."""
    return msgspec.json.encode(Answered(now_ms, applied))


def read_command(consumed: ConsumedRecord) -> Command | CommandAnswer:
    """Return the command with shortened texts, or the refusal of an invalid one."""
    try:
        command = decode(_command, consumed.value)
    except ValueError as error:  # what msgspec raises is one, too
        return _unreadable(consumed, str(error))
    if not 0 < len(command.id) <= _MAX_ID:
        return _unreadable(consumed, f"its id must have 1 to {_MAX_ID} characters")
    # The reason appears in events, views and the log.
    who, why, workspace = command.who[:_MAX_ID], scrub(command.why, MAX_TEXT), command.workspace[:_MAX_ID]
    return msgspec.structs.replace(command, who=who, why=why, workspace=workspace)


def outcome_text(text: str, under_way: int) -> str:
    """Describe the outcome of a command. `under_way`: requests to Clay that started before it."""
    return f"{text}; {count(under_way, 'request')} in progress will finish" if under_way else text


def is_stale(command: Command, consumed: ConsumedRecord, now_ms: int) -> bool:
    """Return True if it was submitted more than a day ago, by its own time or by the broker's."""
    return now_ms - min(command.at_ms, consumed.timestamp_ms or command.at_ms) > _MAX_AGE_MS


def command_id(value: bytes | None) -> str:
    """Return the id of the command's answer; '' if the command has none. Then its place identifies it."""
    return _read_signed(value).id


def _read_signed(value: bytes | None) -> _Signed:
    try:
        signed = decode(_signed, value)
    except ValueError:
        return _Signed("")
    return signed if len(signed.id) <= _MAX_ID else _Signed("", signed.workspace)


def _unreadable(consumed: ConsumedRecord, why: str) -> CommandAnswer:
    signed = _read_signed(consumed.value)
    return CommandAnswer(
        id=signed.id or consumed.record_id,
        applied=False,
        at_ms=0,
        partition=consumed.partition,
        workspace=signed.workspace[:_MAX_ID],
        reason="unreadable",
        text=f"this is no command that this version knows: {why}",
    )
