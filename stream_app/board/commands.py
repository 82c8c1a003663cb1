"""The answers to commands that were given on the board, from the audit. A page follows those that its address names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request

from stream_app.board.read_model.board_query import Order
from stream_app.board.site import Site, Tone
from stream_app.client.commands import QUEUED_TEXT
from stream_app.domain.lane.command import TO_ALL, outcome_text

_ID: Final = re.compile(r"c-[0-9a-f]{32}")
_MOST: Final = 20

State = Literal["queued", "applied", "refused"]


class Followed(msgspec.Struct, frozen=True):
    """A command and what became of it.

    Attributes:
        kind: '' until it is answered.
        where: The workspace, or `all`.
        partly: How many partitions answered, if others have not.
    """

    id: str
    state: State
    tone: Tone
    kind: str
    where: str
    text: str
    partly: str = ""


def followed_at(path: str, ids: Iterable[str]) -> str:
    """Return the address of a page that follows these commands."""
    return f"{path}{'&' if '?' in path else '?'}{urlencode([('command', each) for each in ids])}"


def command_ids(request: Request) -> list[str]:
    """Return the ids of the commands that the address names."""
    named = dict.fromkeys(request.query_params.getlist("command"))
    return [each for each in named if _ID.fullmatch(each)][:_MOST]


def follow(site: Site, ids: Iterable[str]) -> list[Followed]:
    """Return what is known of these commands."""
    return [_followed(site, each, site.queries.answers(each)) for each in ids]


def _followed(site: Site, command: str, answers: list[Order]) -> Followed:
    first = [each for each in answers if each.reason != "repeated"] or answers
    if not first:
        return Followed(command, "queued", "idle", "", "", QUEUED_TEXT)
    worst = min(first, key=lambda each: each.applied)
    text = outcome_text(worst.text or worst.reason, worst.under_way)
    found = Followed(
        command,
        "applied" if worst.applied else "refused",
        "ok" if worst.applied else "bad",
        worst.kind,
        worst.workspace or "all",
        text,
    )
    here, every = len({each.place[1] for each in first}), site.settings.kafka.partitions
    if worst.kind in TO_ALL and here < every:
        return msgspec.structs.replace(found, partly=f"by {here} of {every} partitions")
    return found
