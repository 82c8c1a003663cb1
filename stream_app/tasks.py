"""How tasks end: what one died of, the death that looks like none included, and cancelling one for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_AGAIN_S: Final = 1.0


def died_of(task: asyncio.Task[Any]) -> BaseException | None:
    """None when it came to its end, or was cancelled by somebody.

    A library can let out the CancelledError of a task of its own (aiokafka did): the task that it comes out of is
    called cancelled, too, and whoever asks only that takes its death for a wish.
    """
    if not task.cancelled():
        return task.exception()
    return None if task.cancelling() else RuntimeError(f"the task {task.get_name()} was cancelled, and nobody did it")


async def cancel(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Return when all have ended. One whose cancellation foreign code has swallowed is cancelled again."""
    known = [task for task in tasks if task is not None]
    while left := [task for task in known if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_S)
    for task in known:
        died_of(task)  # or asyncio reports that nobody looked
