"""Fix: streams resume only when the fetcher is idle and holds no record.

Upstream: https://github.com/faust-streaming/faust/issues/596. After a rebalance, recovery resumes partitions before it
seeks to the committed offsets. Records that are fetched in between are dropped after the seek as already read, and
are lost.

Tests: tests/upstream/test_stock_faust.py (test_596_a_rebalance_with_a_table_loses_events),
tests/upstream/test_fixes.py (test_596_a_rebalance_loses_no_event), tests/unit/faust_app/test_faust_bookkeeping.py
(test_a_rebalance_finds_the_fetcher_idle_at_any_moment_after_the_flow_has_resumed).

Remove it, with the order of `recovery.py`, when stock Faust passes the scenario of these tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from faust.transport.drivers.aiokafka import Consumer

_POLL_S = 0.25  # one poll takes at most this long, and a rebalance waits for it


class IdleFetcher(Consumer):  # type: ignore[misc]  # faust ships no types
    """Can stop its fetcher and wait until it is idle.

    Attributes:
        resume_at: the committed offsets at which the streams have resumed.
        on_suspend: callbacks to run whenever the flow of records is suspended.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.resume_at: dict[Any, int] = {}
        self.on_suspend: set[Callable[[], None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        super().__init__(*args, **kwargs)

    async def park(self) -> None:
        """Suspend the flow and return when the fetcher is idle and holds no record."""
        self.stop_flow()
        self.app.flow_control.suspend()
        await self._idle.wait()

    def stop_flow(self) -> None:
        super().stop_flow()
        for callback in tuple(self.on_suspend):
            callback()

    async def perform_seek(self) -> None:
        await super().perform_seek()
        self.resume_at = {tp: at for tp, at in self._committed_offset.items() if at is not None}

    async def _drain_messages(self, fetcher: Any) -> None:
        self._idle.clear()
        try:
            await super()._drain_messages(fetcher)
        finally:
            self._idle.set()

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109  # upstream's signature
        while not (self.flow_active or self.should_stop):  # the flow may stop again before this has woken up
            self._idle.set()
            try:
                await self.wait(self.can_resume_flow)
            finally:
                self._idle.clear()
        return await super()._wait_next_records(min(timeout, _POLL_S))
