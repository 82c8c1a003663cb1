"""The cost of a publication and its reading of the columns, in words: shown before anything is written."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from stream_app.config import Settings
from stream_app.domain.lane.budget import MeterName
from stream_app.domain.lane_messages import LaneView
from stream_app.domain.quote import Part, Quote, part, quote
from stream_app.domain.text import count
from stream_app.publishing import Summary
from stream_app.publishing.headers import LEAD_LEVEL, USUAL_FIELDS

_METERS: Final[dict[MeterName, str]] = {
    "credits_day": "credits of today",
    "credits_month": "credits of this month",
    "actions_day": "actions of today",
    "actions_month": "actions of this month",
}


def quotes_of(settings: Settings, summary: Summary, views: Mapping[str, LaneView], now_ms: int) -> list[Quote]:
    """Quote the leads of each workspace."""
    parts: dict[str, list[Part]] = {}
    for (workspace, alias), leads in sorted(summary.going.items()):
        there = settings.destinations[alias]
        own = part(alias, leads, there.estimate, there.ceiling, views.get(workspace))
        parts.setdefault(workspace, []).append(own)
    return [quote(settings.workspaces[name], views.get(name), mine, now_ms) for name, mine in parts.items()]


def quote_lines(quotes: Sequence[Quote]) -> Iterator[str]:
    """Yield one line for each destination, then those for its workspace."""
    for each in quotes:
        for some in each.parts:
            yield (
                f"{each.workspace}/{some.destination}: {count(some.leads, 'lead')} at about {some.credits_each:g} "
                f"credits each: about {count(some.credits, 'credit')} and {count(some.actions, 'action')}, at most "
                f"{some.credits_at_most:,} and {some.actions_at_most:,}"
            )
        left = ", ".join(f"{rest:,} {_METERS[name]}" for name, rest in each.left.items())
        budget = "no budget limits it" if not left else f"{left} are left" if each.known else f"the budget is {left}"
        yield f"{each.workspace}: {budget}; {_time(each.seconds)} at the lane's rate"
        for name in each.short:
            yield f"{each.workspace}: the {_METERS[name]} do not suffice: the rest of the leads waits in Kafka"
        if each.holds:
            yield f"{each.workspace}: its lane is held now: {each.holds}"


def column_lines(
    settings: Settings, titles: Sequence[str], names: Sequence[str], summary: Summary, correct: str
) -> Iterator[str]:
    """Yield how the columns were named, which fields have no usual name, and which are not sent to Clay.

    `correct` says how to name a column otherwise, such as `use --map`.
    """
    renamed = [f"{title} -> {name}" for title, name in zip(titles, names, strict=True) if name not in ("", title)]
    if renamed:
        yield f"columns: {', '.join(renamed)}"
    if left_out := [number for number, name in enumerate(names, 1) if not name]:
        yield f"left out, since the header has no title there: column {', '.join(map(str, left_out))}"
    known = set(USUAL_FIELDS.values())
    for name in [each for each in summary.fields if each not in known | LEAD_LEVEL]:
        near = difflib.get_close_matches(name.lower(), USUAL_FIELDS, n=1, cutoff=0.8)
        hint = f"; is it {USUAL_FIELDS[near[0]]}? Then name it so{f', or {correct}' if names else ''}" if near else ""
        yield f"{name}: no usual name, so it stays a field of its own{hint}"
    for alias in sorted({alias for _, alias in summary.going}):
        columns = settings.destinations[alias].columns
        unsent = [name for name in summary.fields if name not in columns] if columns else []
        if unsent:
            yield f"not sent to Clay, since destinations.{alias}.columns does not name it: {', '.join(unsent)}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5_400 else f"about {seconds / 3_600:.1f} h"
