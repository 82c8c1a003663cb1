"""What a task that has ended died of, the death that looks like none included."""

from __future__ import annotations

import asyncio
from typing import Any


def died_of(task: asyncio.Task[Any]) -> BaseException | None:
    """None when it came to its end, or was cancelled by somebody.

    A library can let out the CancelledError of a task of its own (aiokafka did): the task that it comes out of is
    called cancelled, too, and whoever asks only that takes its death for a wish.
    """
    if not task.cancelled():
        return task.exception()
    return None if task.cancelling() else RuntimeError(f"the task {task.get_name()} was cancelled, and nobody did it")
