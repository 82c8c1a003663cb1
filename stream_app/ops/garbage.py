"""The garbage collector of the program."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Set high thresholds: Python's own cost a fifth of a lead's CPU and a tenth of a start's, and find little.

    `benchmarks/line.py` and `benchmarks/start.py` measure both.
    """
    gc.set_threshold(50_000, 20, 50)
