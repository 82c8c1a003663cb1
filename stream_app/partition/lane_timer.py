"""When to check a lane again even if nothing happens to it."""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from stream_app.clock import Clock

K = TypeVar("K", int, str)

_MAX_TIMER_S: Final = 60.0  # The wall clock may step while the loop's clock does not.


class Timetable(Generic[K]):
    """Keys by their number (a time or a length), lowest first.

    A change takes a binary search, and moves the entries after it.
    """

    def __init__(self) -> None:
        self._order: list[tuple[int, K]] = []
        self._numbers: dict[K, int] = {}

    def set(self, key: K, number: int | None) -> None:
        """Give a key its number; None removes the key."""
        before = self._numbers.get(key)
        if before == number:
            return
        if before is not None:
            del self._order[bisect_left(self._order, (before, key))]
            del self._numbers[key]
        if number is not None:
            insort(self._order, (number, key))
            self._numbers[key] = number

    @property
    def lowest(self) -> int | None:
        """The lowest number; None if there are no keys."""
        return self._order[0][0] if self._order else None

    @property
    def highest_key(self) -> K:
        """The key with the highest number. There must be a key."""
        return self._order[-1][1]

    def pop_until(self, number: int) -> list[K]:
        """Remove and return the keys up to this number, lowest first."""
        end = bisect_left(self._order, (number + 1,))
        keys = [key for _, key in self._order[:end]]
        for key in keys:
            del self._numbers[key]
        del self._order[:end]
        return keys


class LaneTimer:
    """Calls `check` with each lane whose time has come; that function sets the lane's next time.

    All lanes of the partition share one timer of the event loop. If the wall clock has stepped
    back, it calls `check_all` instead.
    """

    def __init__(
        self,
        clock: Clock,
        check: Callable[[str], None],
        check_all: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._check = check
        self._check_all = check_all
        self._checks: Timetable[str] = Timetable()
        self._handle: asyncio.TimerHandle | None = None
        self._at_ms: int | None = None
        self._fired_at_ms = 0

    def set(self, name: str, at_ms: int | None, now_ms: int) -> None:
        """Set when to check a lane again (epoch ms); None: not until it changes."""
        self._checks.set(name, at_ms)
        self._start(now_ms)

    def clear(self) -> None:
        self._checks = Timetable()
        self._start(0)

    def _fire(self) -> None:
        self._handle = None
        self._at_ms = None
        now_ms = self._clock.now_ms()
        before_ms = self._fired_at_ms
        self._fired_at_ms = now_ms
        if now_ms < before_ms:
            self._check_all()
            return
        for name in self._checks.pop_until(now_ms):
            self._check(name)
        self._start(now_ms)

    def _start(self, now_ms: int) -> None:
        at_ms = self._checks.lowest
        if at_ms == self._at_ms:
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._at_ms = at_ms
        if at_ms is not None:
            delay_s = min(_MAX_TIMER_S, max(0.001, (at_ms - now_ms) / 1000))
            self._handle = asyncio.get_running_loop().call_later(delay_s, self._fire)
