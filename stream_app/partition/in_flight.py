"""One record on its way down the line, as the partition keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from stream_app.domain.delivery.recorder import Posted
from stream_app.domain.record import ConsumedRecord

Source = Literal["hot", "retry", "bulk", "command", "callback"]
RIGHT_OF_WAY: Final[dict[Source, int]] = {"hot": 0, "retry": 1, "bulk": 2}


class GiveUp(Exception):
    """The lead waits for nothing that would end soon, and the flow is suspended: it comes again."""


class Recalled(Exception):
    """A callback waits for this lead, which was not sent (again) yet: it is walked once more behind the callback."""


class InFlight:
    """A taken record with its turn. `passed` is set once the next record of its topic may be taken.

    waits  it is before the gate, or behind another copy of its lead. turns: how often it was let through.
    ticket  its place among the walks that ask for the same locks; 0 until it asks for any.
    recalled  a callback waits for it.
    posted  what is known of its last POST: the walk outlives a take-over, and then tells it once more.
    """

    __slots__ = (
        *("finished", "passed", "posted", "recalled", "source"),
        *("suspended", "consumed", "task", "ticket", "turns", "waits"),
    )

    def __init__(self, consumed: ConsumedRecord, source: Source, suspended: asyncio.Event) -> None:
        self.consumed = consumed
        self.source: Source = source
        self.suspended = suspended
        self.passed = asyncio.Event()
        self.finished = False
        self.waits = False
        self.turns = 0
        self.ticket = 0
        self.recalled = False
        self.posted: Posted | None = None
        self.task: asyncio.Task[None] | None = None

    def waiting(self) -> _Waiting:
        """It waits for its turn inside the `with` block."""
        return _Waiting(self)

    def release_next(self) -> None:
        self.passed.set()


class _Waiting:
    """Made for each lead: a generator would cost twice as much."""

    __slots__ = ("_walk",)

    def __init__(self, in_flight: InFlight) -> None:
        self._walk = in_flight

    def __enter__(self) -> None:
        self._walk.waits = True

    def __exit__(self, *_: object) -> None:
        self._walk.waits = False
        self._walk.turns += 1


_ASIDE: Final = 10  # walks that wait behind a copy, for each place


class Limiter:
    """For so many walks at once; who takes the last place has the next one wait.

    A walk that waits behind a copy of its lead steps aside meanwhile: only very many of those have the next one wait.
    """

    def __init__(self, places: int) -> None:
        self._left = places
        self._left_aside = places * _ASIDE
        self._some = asyncio.Event()
        self._some.set()

    def enter(self) -> None:
        self._count(-1, 0)

    def leave(self) -> None:
        self._count(1, 0)

    async def wait(self) -> None:
        """Until there is a place."""
        await self._some.wait()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A walk that has entered steps aside inside the `with` block."""
        self._count(1, -1)
        try:
            yield
        finally:
            self._count(-1, 1)

    def _count(self, places: int, aside: int) -> None:
        self._left += places
        self._left_aside += aside
        if self._left > 0 and self._left_aside > 0:
            self._some.set()
        else:
            self._some.clear()
