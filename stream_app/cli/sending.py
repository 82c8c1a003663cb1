"""Send dead letters back: their price is shown first, and refused if a budget does not cover it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Final

from cyclopts import Parameter, validators

from stream_app.cli.base import say, show, show_json
from stream_app.cli.progress import reading
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Source
from stream_app.domain.dead_letter.headers import WorkspaceKeys
from stream_app.domain.dead_letter.orders import ReplayCommand, ReplayProgress
from stream_app.domain.dead_letter.pricing import Price, PricedPlan, price_text, too_dear, too_dear_text
from stream_app.domain.errors import Fenced, StreamAppError
from stream_app.replay.edit import Edit
from stream_app.replay.order import change_command, submit_and_follow
from stream_app.replay.plan import Chosen, reader_of, topic_of
from stream_app.replay.select import Operator, Sent, dead_letters_at

PerSecond = Annotated[float | None, Parameter(metavar="PER_S", validator=validators.Number(gte=0.001, lte=100_000))]

REPEAT: Final = "run the same command to continue; nothing is sent twice"
_ANSWER_WITHIN_S: Final = 15.0


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
    settings: Settings, source: Source, operator: Operator, chosen: Chosen, paces: Mapping[str, float], edit: Edit
) -> Sent:
    """Send the chosen dead letters of a topic, and show progress.

    Raises:
        StreamAppError: A replay has started meanwhile.
    """
    last = Sent()

    def note(sent: Sent) -> dict[bytes, bytes]:
        nonlocal last
        last = sent
        return {}

    with reading("sending back") as progress:
        async with reader_of(settings, progress) as reader:
            keys = WorkspaceKeys(settings.workspaces)
            dead_letters = dead_letters_at(reader, topic_of(settings, source), chosen, keys)
            try:
                return await operator.send(dead_letters, paces, edit, note)
            except asyncio.CancelledError:
                say(f"interrupted after {last.dead_letters}: {REPEAT}")
                raise
            except Fenced:
                raise StreamAppError(
                    f"another operator has started to send dead letters back, so this run ended after "
                    f"{last.dead_letters}. Wait for theirs, then repeat this run if needed: nothing is sent twice"
                ) from None


async def order_and_follow(settings: Settings, command: ReplayCommand) -> ReplayProgress | None:
    """Order a replay, show its progress, and return its end; None: no replay process answers.

    Ctrl-C stops the replay.

    Raises:
        StreamAppError: It was refused, or stopped.
    """
    last: ReplayProgress | None = None
    deadline_s = time.monotonic() + _ANSWER_WITHIN_S
    try:
        with reading("sending back", "dead letters") as progress:
            async with aclosing(submit_and_follow(settings, command)) as following:
                async for last in _answers(following, deadline_s):
                    progress(last.sent + last.refused, last.total)
                    if last.state in ("stopped", "refused"):
                        raise StreamAppError(f"replay {last.id}: {last.text}")
                    if last.state == "done":
                        return last
    except asyncio.CancelledError:
        await _stop(settings, command)
        say(f"interrupted after {last.sent if last else 0}: {REPEAT}")
        raise
    return None


async def order_change(settings: Settings, command: ReplayCommand) -> ReplayProgress | None:
    """Stop or resume a replay, and return its state after that; None: no replay process answers."""
    async with aclosing(submit_and_follow(settings, command)) as following:
        async for each in _answers(following, time.monotonic() + _ANSWER_WITHIN_S):
            if command.id in each.commands:
                return each
    return None


async def _answers(following: AsyncIterator[ReplayProgress | None], deadline_s: float) -> AsyncIterator[ReplayProgress]:
    """Yield the progress. It ends if none has come before the deadline."""
    answered = False
    async for each in following:
        if each is not None:
            answered = True
            yield each
        elif not answered and time.monotonic() > deadline_s:
            return


async def _stop(settings: Settings, command: ReplayCommand) -> None:
    """Stop an ordered replay, and wait for the answer for a few seconds."""
    stop = change_command("stop", command.replay, command.who, "interrupted")
    with suppress(TimeoutError, StreamAppError):
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await order_change(settings, stop)
