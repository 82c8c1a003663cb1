"""One record on its way down the line, as the partition keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from stream_app.core.record import Taken

Source = Literal["hot", "retry", "bulk"]
RIGHT_OF_WAY: Final[dict[Source, int]] = {"hot": 0, "retry": 1, "bulk": 2}


class GiveUp(Exception):
    """The lead waits for nothing that would end soon, and the flow is suspended: it comes again."""


class Walk:
    """A taken record with its turn. `passed` is set once the next record of its topic may be taken.

    waits  it is before the gate, or behind another copy of its lead. turns: how often it was let through.
    """

    __slots__ = ("finished", "passed", "source", "suspended", "taken", "task", "turns", "waits")

    def __init__(self, taken: Taken, source: Source, suspended: asyncio.Event) -> None:
        self.taken = taken
        self.source: Source = source
        self.suspended = suspended
        self.passed = asyncio.Event()
        self.finished = False
        self.waits = False
        self.turns = 0
        self.task: asyncio.Task[None] | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """It waits for its turn inside the block."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
            self.turns += 1

    def let_next(self) -> None:
        self.passed.set()
