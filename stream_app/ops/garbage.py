"""The garbage collector of the program."""

from __future__ import annotations

import atexit
import gc


def collect_rarely() -> None:
    """Collect with high thresholds, and not when the process ends.

    Python's own thresholds cost a fifth of a lead's CPU and a tenth of a start's, and find little. Its last collection
    takes a worker 0.25 s of CPU, in which no lead is sent. `benchmarks/line.py` and `benchmarks/start.py` measure it.
    """
    gc.set_threshold(200_000, 20, 50)
    atexit.register(gc.freeze)
