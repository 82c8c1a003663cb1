"""Order a change of a replay, and follow it until the replay process has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Final

from stream_app.cli.base import say
from stream_app.cli.progress import reading
from stream_app.cli.sending import REPEAT
from stream_app.config import Settings
from stream_app.domain.dead_letter.orders import ReplayCommand, ReplayProgress
from stream_app.domain.errors import StreamAppError
from stream_app.replay.order import change_command, submit_and_follow

_ANSWER_WITHIN_S: Final = 15.0


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
