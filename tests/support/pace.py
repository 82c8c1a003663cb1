"""Times in tests, on a machine that does other things as well.

A limit that only ends a test that hangs costs nothing while all works: it is `BUSY` times as long
as it needs to be where nothing else runs. A promise about time holds for a machine that has the
time: it is scaled by `slowness()`.
"""

import os
import time
from typing import Final

BUSY: Final = 5
"""How many times as slow a busy machine may be."""

_SAMPLE_S: Final = 0.05


def slowness() -> float:
    """Return how many times as slow a process runs as on a core of its own, at least 1.

    The larger of what this process sees now, and what all had to share in the last minute.
    """
    began_s = time.perf_counter()
    until_s = time.process_time() + _SAMPLE_S
    while time.process_time() < until_s:
        pass
    now = (time.perf_counter() - began_s) / _SAMPLE_S
    return max(1.0, now, os.getloadavg()[0] / (os.cpu_count() or 1))
