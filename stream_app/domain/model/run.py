"""What Clay's Public API says about a run of a routine: a closed union.

A run shows nothing of its items before all of them have finished, and it can be read for about a
day after that (docs/reference/clay.md). The partition reacts to the type and never to a status.
Every `text` is for people and is scrubbed: one line, safe for logs and headers.
"""

import re
from typing import Any, Final, Literal

import msgspec

_RUN_ID: Final = re.compile(r"[!-~]{1,128}")


def is_run_id(text: str) -> bool:
    """Return whether a text can be the id of a run.

    Clay documents no form. It must be visible ASCII without a space, because rows, logs and a path
    of a URL have it, and short enough to be kept in a row.
    """
    # A URL with such a step of its path is another URL.
    return _RUN_ID.fullmatch(text) is not None and text not in (".", "..")


ItemStatus = Literal["complete", "failed", "unknown"]
"""`unknown`: a status that this version does not know. Clay calls the set of states open."""


class RunItem(msgspec.Struct, frozen=True, gc=False):
    """One item of a finished run.

    Attributes:
        id: The item's id, which is ours and which Clay echoes.
        status: How it ended.
        outputs: The routine's outputs by name, any JSON. Empty where nothing is mapped or found.
        text: Why it failed, or the status that is unknown. Scrubbed.
    """

    id: str
    status: ItemStatus
    outputs: dict[str, Any] = {}
    text: str = ""


class RunUnfinished(msgspec.Struct, frozen=True, gc=False):
    """202: the run goes on."""


class RunFinished(msgspec.Struct, frozen=True, gc=False):
    """200: all items of the run have finished."""

    items: tuple[RunItem, ...]


class RunTooLarge(msgspec.Struct, frozen=True, gc=False):
    """The results have more bytes than are read of an answer, or are nested too deep."""

    text: str


class RunGone(msgspec.Struct, frozen=True, gc=False):
    """404, 400, 422: Clay does not know the run, not yet or no longer."""

    http_status: int
    text: str


class RunDenied(msgspec.Struct, frozen=True, gc=False):
    """401, 402, 403 and other 4xx: the key or the plan of the workspace does not allow it."""

    http_status: int
    text: str


class RunLimited(msgspec.Struct, frozen=True, gc=False):
    """429: the whole workspace waits. `retry_after` is the raw header; None must never mean now."""

    retry_after: str | None


class RunUnread(msgspec.Struct, frozen=True, gc=False):
    """Nothing was learnt: no answer, a server error, or a body that is cut or is no such answer.

    `reason` is a stable code, such as `http_503`, `reset` or `broken_answer`.
    """

    reason: str
    text: str


RunAnswer = RunUnfinished | RunFinished | RunTooLarge | RunGone | RunDenied | RunLimited | RunUnread
