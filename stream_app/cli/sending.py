"""Show the price of dead letters, refuse it if a budget does not cover it, and (`dlq import`) send them back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from stream_app.cli.base import say, show, show_json
from stream_app.cli.progress import reading
from stream_app.config import Settings
from stream_app.config.kafka_access import topic_reader
from stream_app.domain.dead_letter.causes import Source
from stream_app.domain.dead_letter.headers import WorkspaceKeys
from stream_app.domain.dead_letter.pricing import Price, PricedPlan, price_text, too_dear, too_dear_text
from stream_app.domain.errors import Fenced, StreamAppError
from stream_app.replay.edit import Edit
from stream_app.replay.plan import Chosen, topic_of
from stream_app.replay.send import Redriver, Sent, dead_letters_at

REPEAT: Final = "run the same command to continue; nothing is sent twice"


def show_prices(plan: PricedPlan) -> None:
    """Print one line for each destination."""
    for each in plan.prices:
        show(price_text(each))


def affordable(prices: Sequence[Price], *, over_budget: bool, as_json: bool) -> bool:
    """Return True if each workspace's budget covers its price, or if `over_budget` is set; else print why not."""
    dear = [] if over_budget else too_dear(prices)
    for each in dear:
        say(f"{too_dear_text(each)}: send fewer, or use --over-budget to let the rest wait for the next budget")
    if dear and as_json:
        show_json({"sent": 0, "refused": {}, "too_dear": dear})
    return not dear


async def send_back(
    settings: Settings, source: Source, redriver: Redriver, chosen: Chosen, paces: Mapping[str, float], edit: Edit
) -> Sent:
    """Send the chosen dead letters of a topic, and show progress. Raises StreamAppError if a replay has started."""
    with reading("sending back") as progress:
        async with topic_reader(settings, progress) as reader:
            keys = WorkspaceKeys(settings.workspaces)
            dead_letters = dead_letters_at(reader, topic_of(settings, source), chosen, keys)
            try:
                return await redriver.send(dead_letters, paces, edit)
            except asyncio.CancelledError:
                say(f"interrupted after {redriver.sent}: {REPEAT}")
                raise
            except Fenced:
                raise StreamAppError(
                    "another operator has started to send dead letters back, so this run ended after "
                    f"{redriver.sent}. Wait for theirs, then repeat this run if needed: nothing is sent twice"
                ) from None
