"""The clock of a process, and its chance. Tests replace it."""

from __future__ import annotations

import random
import time

import msgspec

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # includes suspend where supported


class Now(msgspec.Struct, frozen=True, gc=False):
    """One moment, by both clocks of the process.

    Attributes:
        epoch_ms: Milliseconds since the epoch, by the wall clock, which may step.
        boot_ms: Milliseconds of a clock that never steps. How long something takes is measured by
            this one.
    """

    epoch_ms: int
    boot_ms: int


class Clock:
    """Time and randomness, of the operating system."""

    def now(self) -> Now:
        """This moment, by both clocks."""
        return Now(self.now_ms(), self.boot_ms())

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
