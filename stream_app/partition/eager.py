"""A coroutine that was begun by hand, with `send(None)`, in the hope that it would not have to wait."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any


async def rest_of(begun: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """What is left of a coroutine that was begun by hand and now waits."""
    return await _go_on(begun, waits_for)


@types.coroutine
def _go_on(begun: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    try:
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001  # it is the coroutine's, whatever it is
                waits_for = begun.throw(error)
            else:
                waits_for = begun.send(value)
    except StopIteration as done:
        return done.value
