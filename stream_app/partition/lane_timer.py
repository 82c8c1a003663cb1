"""When to look at each lane of a partition again, with one timer of the event loop for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from stream_app.partition.ports import Clock
from stream_app.partition.timetable import Timetable

_LONGEST_TIMER_S: Final = 60.0  # the wall clock may step while the loop's clock does not


class LaneTimer:
    """Calls `look_at` for each lane whose time has come, which sets the lane's next time.

    It calls `look_at_all` instead if the wall clock stepped back.
    """

    def __init__(self, clock: Clock, look_at: Callable[[str], None], look_at_all: Callable[[], None]) -> None:
        self._clock = clock
        self._look_at = look_at
        self._look_at_all = look_at_all
        self._looks: Timetable[str] = Timetable()
        self._handle: asyncio.TimerHandle | None = None
        self._at_ms: int | None = None
        self._fired_at_ms = 0

    def set(self, name: str, at_ms: int | None, now_ms: int) -> None:
        """Set when to look at a lane again (epoch ms); None: not before it changes."""
        self._looks.set(name, at_ms)
        self._start(now_ms)

    def clear(self) -> None:
        """Forget all lanes."""
        self._looks = Timetable()
        self._start(0)

    def _fire(self) -> None:
        self._handle = self._at_ms = None
        now_ms, before_ms = self._clock.now_ms(), self._fired_at_ms
        self._fired_at_ms = now_ms
        if now_ms < before_ms:
            self._look_at_all()
            return
        for name in self._looks.pop_until(now_ms):
            self._look_at(name)
        self._start(now_ms)

    def _start(self, now_ms: int) -> None:
        at_ms = self._looks.lowest
        if at_ms == self._at_ms:
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._at_ms = at_ms
        if at_ms is not None:
            delay_s = min(_LONGEST_TIMER_S, max(0.001, (at_ms - now_ms) / 1000))
            self._handle = asyncio.get_running_loop().call_later(delay_s, self._fire)
