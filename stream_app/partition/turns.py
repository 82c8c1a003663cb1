"""Only one walk at a time for a lead, and for a person: a second copy waits here for the first."""

from __future__ import annotations

import asyncio
from types import TracebackType

from stream_app.partition.walk import GiveUp, Walk


class Turns:
    """Key -> the walk that is at work on it."""

    def __init__(self) -> None:
        self._busy: dict[bytes, Turn] = {}

    def of(self, walk: Walk, keys: tuple[bytes, ...]) -> Turn:
        """To be entered by `async with`: then nobody else is at work on any of `keys`. Raises GiveUp there."""
        return Turn(self._busy, walk, keys)


class Turn:
    """One walk's turn at its keys."""

    __slots__ = ("_busy", "_keys", "_over", "_walk")

    def __init__(self, busy: dict[bytes, Turn], walk: Walk, keys: tuple[bytes, ...]) -> None:
        self._busy = busy
        self._walk = walk
        self._keys = keys
        self._over: asyncio.Future[None] | None = None  # made when somebody waits, which is rare

    async def __aenter__(self) -> None:
        busy = self._busy
        while (first := next((busy[key] for key in self._keys if key in busy), None)) is not None:
            self._walk.let_next()
            with self._walk.waiting():
                await first._end_or_give_up(self._walk)
        busy.update(dict.fromkeys(self._keys, self))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in self._keys:
            del self._busy[key]
        if self._over is not None:
            self._over.set_result(None)

    async def _end_or_give_up(self, other: Walk) -> None:
        """Wait until this turn is over, but not through a suspension of the flow."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        suspended = asyncio.ensure_future(other.suspended.wait())
        try:
            await asyncio.wait((self._over, suspended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            suspended.cancel()
        if not self._over.done():
            raise GiveUp
