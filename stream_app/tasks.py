"""Helpers for asyncio tasks: find the error that ended a task, and cancel tasks reliably."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_AGAIN_S: Final = 1.0


def died_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return the error that ended a task. None if it completed or was cancelled on request.

    A library can let the CancelledError of its own task escape (aiokafka did). asyncio then reports the outer task as
    cancelled, and a caller that checks only that mistakes a failure for a requested cancellation.
    """
    if not task.cancelled():
        return task.exception()
    return None if task.cancelling() else RuntimeError(f"the task {task.get_name()} was cancelled without a request")


async def cancel(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel tasks and return when all have ended. Cancels again if foreign code swallowed the cancellation."""
    known = [task for task in tasks if task is not None]
    while left := [task for task in known if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_S)
    for task in known:
        died_of(task)  # retrieve the exception, or asyncio logs that it was never retrieved
