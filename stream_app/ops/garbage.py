"""The garbage collector of long-running processes."""

from __future__ import annotations

import gc


def tame_garbage_collector() -> None:
    """Collect rarely: Python's default thresholds cost a fifth of a lead's CPU and find little (benchmarks/line.py)."""
    gc.collect()
    gc.freeze()  # the objects of the start live as long as the process
    gc.set_threshold(50_000, 20, 50)
