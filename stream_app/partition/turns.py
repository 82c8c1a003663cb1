"""Only one walk at a time for a lead, and for a person: a second copy waits here for the first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from stream_app.partition.walk import GiveUp, Walk

Recall = Callable[[Walk, asyncio.Future[None]], None]
"""Has a walk that stands at the gate, or comes there, walked again behind the news that are on the way."""


class Turns:
    """Key -> the walk that is at work on it. `recall`: for a lead that a callback has news of."""

    def __init__(self, recall: Recall) -> None:
        self._busy: dict[bytes, Turn] = {}
        self._recall = recall

    def of(self, walk: Walk, keys: tuple[bytes, ...]) -> Turn:
        """To be entered by `async with`: then nobody else is at work on any of `keys`. Raises GiveUp there."""
        return Turn(self._busy, walk, keys, self._recall)


class Turn:
    """One walk's turn at its keys."""

    __slots__ = ("_busy", "_keys", "_over", "_recall", "_walk")

    def __init__(self, busy: dict[bytes, Turn], walk: Walk, keys: tuple[bytes, ...], recall: Recall) -> None:
        self._busy = busy
        self._walk = walk
        self._keys = keys
        self._recall = recall
        self._over: asyncio.Future[None] | None = None  # made when somebody waits, which is rare

    async def __aenter__(self) -> None:
        busy = self._busy
        while (first := next((busy[key] for key in self._keys if key in busy), None)) is not None:
            self._walk.let_next()
            if self._walk.source == "callback":
                self._recall(first._walk, self._end())
            try:
                with self._walk.waiting():
                    await end_or_give_up(first._end(), self._walk)
            except BaseException:
                self._is_over()
                raise
        busy.update(dict.fromkeys(self._keys, self))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in self._keys:
            del self._busy[key]
        self._is_over()

    def _end(self) -> asyncio.Future[None]:
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        return self._over

    def _is_over(self) -> None:
        if self._over is not None:
            self._over.set_result(None)


async def end_or_give_up(end: asyncio.Future[None], other: Walk) -> None:
    """Wait until somebody's turn is over, but not through a suspension of the flow."""
    suspended = asyncio.ensure_future(other.suspended.wait())
    try:
        await asyncio.wait((end, suspended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        suspended.cancel()
    if not end.done():
        raise GiveUp
