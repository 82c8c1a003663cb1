"""One record on its way down the line, as the partition keeps it."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

from stream_app.core.record import Taken
from stream_app.core.story import Posted

Source = Literal["hot", "retry", "bulk", "command", "callback"]
RIGHT_OF_WAY: Final[dict[Source, int]] = {"hot": 0, "retry": 1, "bulk": 2}


class GiveUp(Exception):
    """The lead waits for nothing that would end soon, and the flow is suspended: it comes again."""


class Recalled(Exception):
    """A callback has news of this lead, which was not sent (again) yet: it is walked once more behind that."""


class Walk:
    """A taken record with its turn. `passed` is set once the next record of its topic may be taken.

    waits  it is before the gate, or behind another copy of its lead. turns: how often it was let through.
    news   of its lead: done once the callback that brings them is through.
    posted  what is known of its last POST: the walk outlives a take-over, and then tells it once more.
    """

    __slots__ = ("finished", "news", "passed", "posted", "source", "suspended", "taken", "task", "turns", "waits")

    def __init__(self, taken: Taken, source: Source, suspended: asyncio.Event) -> None:
        self.taken = taken
        self.source: Source = source
        self.suspended = suspended
        self.passed = asyncio.Event()
        self.finished = False
        self.waits = False
        self.turns = 0
        self.news: asyncio.Future[None] | None = None
        self.posted: Posted | None = None
        self.task: asyncio.Task[None] | None = None

    def waiting(self) -> _Waiting:
        """It waits for its turn inside the `with` block."""
        return _Waiting(self)

    def let_next(self) -> None:
        self.passed.set()


class _Waiting:
    """Made for each lead: a generator would cost twice as much."""

    __slots__ = ("_walk",)

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def __enter__(self) -> None:
        self._walk.waits = True

    def __exit__(self, *_: object) -> None:
        self._walk.waits = False
        self._walk.turns += 1


class Room:
    """For so many walks at once; who takes the last place has the next one wait."""

    def __init__(self, places: int) -> None:
        self._left = places
        self._some = asyncio.Event()
        self._some.set()

    def enter(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._some.clear()

    def leave(self) -> None:
        self._left += 1
        if self._left > 0:
            self._some.set()

    async def wait(self) -> None:
        """Until there is a place."""
        await self._some.wait()
