"""Fix: Faust's own producer never connects.

Upstream (not reported): Faust connects its producer at the start, ends the app if no broker answers at once, and delays
commits of offsets while the producer's buffer is not empty. Nothing here writes with it.

Tests: tests/upstream/test_stock_faust.py (test_commits_starve_while_rows_are_written),
tests/upstream/test_fixes.py (test_commits_do_not_wait_for_rows).

Remove it when upstream can run an app without a producer.
"""

from __future__ import annotations

from faust.transport.drivers.aiokafka import Producer


class UnusedProducer(Producer):  # type: ignore[misc]  # faust ships no types
    """Does not connect."""

    async def on_start(self) -> None:
        pass
