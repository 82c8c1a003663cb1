"""The system's clock and random numbers."""

from __future__ import annotations

import random
import time

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # includes suspend where supported


class SystemClock:
    """Implements `partition.ports.Clock`."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(_BOOT) // 1_000_000

    def rand(self) -> float:
        return random.random()
