"""CPU that a function takes as its input grows, measured so that a busy machine does not matter."""

import gc
import math
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DOUBLINGS = 3
_MAX_RUNS = 15
_MAX_CPU_S = 15.0  # of CPU: what is slow for a reason is measured three times, too
_FLOOR_S = 0.01
"""Shorter times are noise. What stays below it up to an eighth of the largest input takes 120 ms at
the largest.
"""


def exponent(
    work: Callable[[T], object],
    shape: Callable[[int], T],
    largest: int,
    enough: float,
) -> tuple[float, float]:
    """Return the exponent of the CPU in the size, over three doublings up to `largest`, and the
    longest CPU in seconds.

    It is 1 for linear work, and 2 for quadratic work. The least CPU of several runs counts. The
    runs end as soon as the exponent is at most `enough`, because noise can only add CPU to the
    longer of the two times that are compared.
    """
    small = shape(largest >> DOUBLINGS)
    large = shape(largest)
    small_s = math.inf
    large_s = math.inf
    grows = math.inf
    spent_s = 0.0
    for _ in range(_MAX_RUNS):
        took_s = _cpu_s(work, large)
        small_s = min(small_s, _cpu_s(work, small))
        large_s = min(large_s, took_s)
        spent_s = spent_s + took_s
        grows = math.log2(max(large_s, _FLOOR_S) / max(small_s, _FLOOR_S)) / DOUBLINGS
        if grows <= enough or spent_s > _MAX_CPU_S:
            break
    return grows, large_s


def _cpu_s(work: Callable[[T], object], value: T) -> float:
    gc.disable()
    try:
        began = time.process_time()
        work(value)
        return time.process_time() - began
    finally:
        gc.enable()
