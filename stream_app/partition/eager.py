"""Runs the rest of a coroutine that was started by hand with `send(None)` and has suspended."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any


async def rest_of(started: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """Run a started coroutine to its end.

    Args:
        started: The coroutine.
        waits_for: What its last `send` returned.
    """
    return await _go_on(started, waits_for)


@types.coroutine
def _go_on(started: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    try:
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001  # the coroutine handles it, whatever it is
                waits_for = started.throw(error)
            else:
                waits_for = started.send(value)
    except StopIteration as done:
        return done.value
