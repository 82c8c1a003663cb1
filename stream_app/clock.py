"""The clock of a process, and its chance. Tests replace it."""

from __future__ import annotations

import random
import time

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # includes suspend where supported


class Clock:
    """Time and randomness, of the operating system."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        """Milliseconds of a clock that never steps.

        It runs on while the machine or the process is suspended.
        """
        return time.clock_gettime_ns(_BOOT) // 1_000_000

    def rand(self) -> float:
        """A random number from 0 to 1."""
        return random.random()
