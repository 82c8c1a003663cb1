"""The dead letters of one cause, newest first."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.board.pages.dead import Which, day_begin_s, plan_query, price_command
from stream_app.board.paths import CAUSE_WORDS
from stream_app.board.read_model.dead_letter_query import DeadLetterRow
from stream_app.board.read_model.query import Place
from stream_app.board.site import Moment, Site
from stream_app.client.answers import Cause

ROWS: Final = 50


class CausePage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        cause: The cause; without dead letters if none is kept.
        dead_letters: How many the list has.
        last_day: Only those of the last day.
        after: Where the next page begins.
        command: As of a `CauseRow`, as `plan`.
    """

    which: Which
    cause: Cause
    dead_letters: int
    rows: list[DeadLetterRow]
    last_day: bool
    after: Place | None
    command: str
    plan: str


def cause_page(
    site: Site, moment: Moment, which: Which, cause: Cause, after: Place | None, *, last_day: bool
) -> CausePage:
    """Return the page, with all dead letters that are kept or only with those of the last day."""
    queries, names = site.queries, site.settings.names
    topic = names.dlq if which == "dlq" else names.parked
    cause = queries.cause(topic, cause) or cause
    since_s = day_begin_s(moment.now_ms) if last_day else 0
    many = cause.dead_letters
    if last_day:
        (hours,) = queries.dead_letter_hours(topic, [cause], since_s)
        many = sum(dead_letters for _, dead_letters in hours)
    rows = queries.dead_letters_of(topic, cause, since_s * 1000, after, ROWS + 1)
    more = rows[ROWS - 1].place if len(rows) > ROWS else None
    command, plan = price_command(cause, which), plan_query(site, cause, which)
    return CausePage(which, cause, many, rows[:ROWS], last_day, more, command, plan)


def cause_of(words: dict[str, str]) -> Cause:
    """Return the cause that an address names."""
    kind, workspace, destination, reason, http_status = (words.get(name, "") for name in CAUSE_WORDS)
    return Cause(kind, workspace, destination, reason, http_status, 0)
