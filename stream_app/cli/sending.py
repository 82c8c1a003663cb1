"""Send dead letters back: their price is shown first, and refused if a budget does not cover it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated

from cyclopts import Parameter, validators

from stream_app.cli.base import say, show, show_json
from stream_app.cli.progress import reading
from stream_app.config import Settings
from stream_app.domain.dead_letter.headers import WorkspaceKeys
from stream_app.domain.dead_letter.pricing import Price, PricedPlan, too_dear
from stream_app.domain.text import count
from stream_app.replay.plan import Chosen, Source, reader_of, topic_of
from stream_app.replay.select import Edit, Operator, Sent, dead_letters_at

PerSecond = Annotated[float | None, Parameter(metavar="PER_S", validator=validators.Number(gte=0.001, lte=100_000))]


def show_prices(plan: PricedPlan) -> None:
    """Print one line for each destination."""
    for each in plan.prices:
        where = f"{each.destination or 'no destination'} ({each.workspace or 'no workspace'})"
        show(
            f"{where}: {count(each.leads, 'lead')}, about "
            f"{count(each.credits, 'credit')} (at most {each.credits_at_most:,}) of {_left(each.credits_left)}, about "
            f"{count(each.actions, 'action')} (at most {each.actions_at_most:,}) of {_left(each.actions_left)}, about "
            f"{each.seconds:.0f} s"
        )


def affordable(prices: Sequence[Price], *, over_budget: bool, as_json: bool) -> bool:
    """Return True if each workspace's budget covers its price, or if `over_budget` is set; else print why not."""
    dear = [] if over_budget else too_dear(prices)
    for each in dear:
        cost = f"{count(each.credits, 'credit')} and {count(each.actions, 'action')}"
        say(
            f"{each.workspace}: {count(each.leads, 'lead costs', 'leads cost')} about {cost}, there are "
            f"{_left(each.credits_left)} and {_left(each.actions_left)}: send fewer, or use --over-budget to let "
            "the rest wait for the next budget"
        )
    if dear and as_json:
        show_json({"sent": 0, "refused": {}, "too_dear": dear})
    return not dear


async def send_back(
    settings: Settings, source: Source, operator: Operator, chosen: Chosen, paces: Mapping[str, float], edit: Edit
) -> Sent:
    """Send the chosen dead letters of a topic, and show progress."""
    last = Sent()

    def note(sent: Sent) -> None:
        nonlocal last
        last = sent

    with reading("sending back") as progress:
        async with reader_of(settings, progress) as reader:
            keys = WorkspaceKeys(settings.workspaces)
            dead_letters = dead_letters_at(reader, topic_of(settings, source), chosen, keys)
            try:
                return await operator.send(dead_letters, paces, note, edit)
            except asyncio.CancelledError:
                say(f"interrupted after {last.dead_letters}: run the same command to continue; nothing is sent twice")
                raise


def _left(amount: int | None) -> str:
    return "no limit" if amount is None else f"{amount:,} left"
