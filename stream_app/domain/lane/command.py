"""A command from the bytes of its record, and what is said back: pure, whatever the bytes are."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.delivery.outcome import scrub
from stream_app.domain.messages import Command, CommandAnswer
from stream_app.domain.record import ConsumedRecord

TO_ALL: Final = frozenset({"reload", "suppress", "unsuppress"})
"""Kinds that go to every partition; the others go to the home of their workspace."""

_MAX_AGE_MS: Final = 24 * 3_600_000
_MAX_ID: Final = 128
MAX_TEXT: Final = 400
_command: Final = msgspec.json.Decoder(Command)


class Answered(msgspec.Struct, frozen=True):
    """The row (value) that says that a command was answered."""

    at_ms: int
    applied: bool


class _Signed(msgspec.Struct, frozen=True):
    """What is read of a command that is wrong: enough to answer it."""

    id: str
    workspace: str = ""


_signed: Final = msgspec.json.Decoder(_Signed)


def command_row(command_id: str) -> bytes:
    """Row key of a command that was answered."""
    return f"k/{command_id}".encode("utf-8", "surrogatepass")


def read_command(consumed: ConsumedRecord) -> Command | CommandAnswer:
    """The command with its texts cut to a decent length, or the refusal of something that is none."""
    try:
        command = _command.decode(consumed.value or b"")
    except (ValueError, RecursionError) as error:  # what msgspec raises is a ValueError
        return _unreadable(consumed, str(error))
    if not 0 < len(command.id) <= _MAX_ID:
        return _unreadable(consumed, f"its id must have 1 to {_MAX_ID} characters")
    # Why it is asked is told wherever the lane is, in the log, too.
    who, why, workspace = command.who[:_MAX_ID], scrub(command.why, MAX_TEXT), command.workspace[:_MAX_ID]
    return msgspec.structs.replace(command, who=who, why=why, workspace=workspace)


def is_stale(command: Command, consumed: ConsumedRecord, now_ms: int) -> bool:
    """Whether it was asked more than a day ago, by its own word or by the broker's clock."""
    return now_ms - min(command.at_ms, consumed.timestamp_ms or command.at_ms) > _MAX_AGE_MS


def command_id(value: bytes | None) -> str:
    """The id that the answer to it has; '' where it has none, and is answered by its place."""
    return _read_signed(value).id


def _read_signed(value: bytes | None) -> _Signed:
    try:
        signed = _signed.decode(value or b"")
    except (ValueError, RecursionError):
        return _Signed("")
    return signed if len(signed.id) <= _MAX_ID else _Signed("", signed.workspace)


def _unreadable(consumed: ConsumedRecord, why: str) -> CommandAnswer:
    signed = _read_signed(consumed.value)
    return CommandAnswer(
        id=signed.id or consumed.place,
        applied=False,
        at_ms=0,
        partition=consumed.partition,
        workspace=signed.workspace[:_MAX_ID],
        reason="unreadable",
        text=f"this is no command that this version knows: {why}",
    )
