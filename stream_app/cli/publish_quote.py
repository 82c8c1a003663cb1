"""The cost of `stream-app publish`, and its reading of the columns: shown before anything is written."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from stream_app.cli.base import say, tell
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.lane.budget import MeterName
    from stream_app.domain.messages import LaneView
    from stream_app.domain.quote import Quote
    from stream_app.publishing import Summary

ASK_ABOVE_CREDITS: Final = 1_000
_METERS: Final[dict[MeterName, str]] = {
    "credits_day": "credits of today",
    "credits_month": "credits of this month",
    "actions_day": "actions of today",
    "actions_month": "actions of this month",
}


def quotes_of(settings: Settings, summary: Summary, views: Mapping[str, LaneView]) -> list[Quote]:
    """Quote the leads of each workspace. `views`: the last published views of their lanes."""
    from stream_app.domain.lane.budget import Cost
    from stream_app.domain.policy import Workspace
    from stream_app.domain.quote import Part, part, quote
    from stream_app.ops.clock import SystemClock

    parts: dict[str, list[Part]] = {}
    for (workspace, alias), leads in sorted(summary.going.items()):
        there = settings.destinations[alias]
        usual = Cost(there.estimate_credits, there.estimate_actions)
        most = Cost(there.ceiling_credits, there.ceiling_actions)
        parts.setdefault(workspace, []).append(part(alias, leads, usual, most, views.get(workspace)))
    now_ms, found = SystemClock().now_ms(), []
    for name, mine in parts.items():
        here = settings.workspaces[name]
        policy = Workspace(name, "", rate=here.rate, budget=here.budget)
        found.append(quote(policy, views.get(name), mine, now_ms))
    return found


def show_quotes(quotes: Sequence[Quote]) -> None:
    """Print one line for each destination, then one for its workspace."""
    for each in quotes:
        for part in each.parts:
            tell(
                f"{each.workspace}/{part.destination}: {count(part.leads, 'lead')} at about {part.credits_each:g} "
                f"credits each: about {count(part.credits, 'credit')} and {count(part.actions, 'action')}, at most "
                f"{part.credits_at_most:,} and {part.actions_at_most:,}"
            )
        left = ", ".join(f"{rest:,} {_METERS[name]}" for name, rest in each.left.items())
        budget = "no budget limits it" if not left else f"{left} are left" if each.known else f"the budget is {left}"
        tell(f"{each.workspace}: {budget}; {_time(each.seconds)} at the lane's rate")
        for name in each.short:
            tell(f"{each.workspace}: the {_METERS[name]} do not suffice: the rest of the leads waits in Kafka")
        if each.holds:
            tell(f"{each.workspace}: its lane is held now: {each.holds}")


def ask(quotes: Sequence[Quote], *, yes: bool) -> None:
    """Ask before many credits are spent. Raises SettingsError or StreamAppError unless the answer is yes."""
    from stream_app.cli.dead_letter_options import confirm

    credits_, leads = sum(each.credits for each in quotes), sum(each.leads for each in quotes)
    if credits_ > ASK_ABOVE_CREDITS and not yes:
        cost = f"about {count(credits_, 'credit')} (above {ASK_ABOVE_CREDITS:,} it asks)"
        confirm(f"publish {count(leads, 'lead')} for {cost}")


def show_columns(settings: Settings, titles: Sequence[str], names: Sequence[str], summary: Summary) -> None:
    """Print how the columns were named, which fields have no usual name, and which are not sent to Clay."""
    from stream_app.publishing.headers import LEAD_LEVEL, USUAL_FIELDS

    renamed = [f"{title} -> {name}" for title, name in zip(titles, names, strict=True) if name not in ("", title)]
    if renamed:
        say(f"columns: {', '.join(renamed)}")
    if left_out := [number for number, name in enumerate(names, 1) if not name]:
        say(f"left out, since the header has no title there: column {', '.join(map(str, left_out))}")
    known = set(USUAL_FIELDS.values())
    for name in [each for each in summary.fields if each not in known | LEAD_LEVEL]:
        near = difflib.get_close_matches(name.lower(), USUAL_FIELDS, n=1, cutoff=0.8)
        hint = f"; is it {USUAL_FIELDS[near[0]]}? Then name it so{', or use --map' if names else ''}" if near else ""
        say(f"{name}: no usual name, so it stays a field of its own{hint}")
    for alias in sorted({alias for _, alias in summary.going}):
        columns = settings.destinations[alias].columns
        unsent = [name for name in summary.fields if name not in columns] if columns else []
        if unsent:
            say(f"not sent to Clay, since destinations.{alias}.columns does not name it: {', '.join(unsent)}")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5_400 else f"about {seconds / 3_600:.1f} h"
