"""Fix: after a rebalance, stop the fetcher and load the state, then seek and resume.

Upstream: https://github.com/faust-streaming/faust/issues/596. Recovery reads changelogs and resumes the streams before
it seeks. It also takes a time-out for a stop and then never resumes, and a changelog that ends in a transaction marker
never looks complete to it (not reported).

The state is loaded here and not in Faust's `on_rebalance`, because aiokafka sends no heartbeats while that runs.

Tests: tests/upstream/test_stock_faust.py (test_596_a_rebalance_with_a_table_loses_events),
tests/upstream/test_fixes.py (test_596_a_rebalance_loses_no_event),
tests/unit/faust_app/test_faust_bookkeeping.py
(test_committed_offsets_are_waited_for_as_long_as_the_group_has_no_coordinator), tests/integration/test_faust_app.py
(test_a_rebalance_interrupts_a_takeover_and_then_revokes).

Remove it when stock Faust passes the 596 tests and lets a store load a partition by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from mode import Service

from stream_app.domain.errors import BrokerUnavailable
from stream_app.tasks import cancel, died_of

log = logging.getLogger(__name__)


class SafeRecovery(Recovery):  # type: ignore[misc]  # faust ships no types
    """Stops the fetcher, has the tables' stores load newly assigned partitions, and resumes the streams."""

    _taking_over: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        while not await self.wait_for_stopped(self.signal_recovery_start):
            self.signal_recovery_start.clear()
            self._taking_over = asyncio.create_task(self._take_over(self._generation_id))
            await self.wait(asyncio.wait({self._taking_over}))
            if not self._taking_over.done():
                await self.interrupt()
            error = died_of(self._taking_over)  # None too when the next rebalance or a stop interrupted it
            if isinstance(error, IllegalStateError):
                continue  # a partition was revoked between the assignment and the seek: another rebalance follows
            if error is not None and not self.app.should_stop:  # during a stop, errors are a consequence of the stop
                await self.app.crash(error)  # Faust would log a traceback if it were raised; `run_app` raises it
                return

    _restart_recovery = Service.task(_run)

    async def on_stop(self) -> None:
        await self.interrupt()
        await super().on_stop()

    async def interrupt(self) -> None:
        """Cancel the takeover and return when it has ended."""
        await cancel([self._taking_over])

    @property
    def taking_over(self) -> bool:
        """True from the end of a rebalance until the streams have resumed."""
        return self._taking_over is not None and not self._taking_over.done()

    async def _take_over(self, generation: int) -> None:
        consumer = self.app.consumer
        parking = asyncio.create_task(consumer.park())  # takes up to 0.25 s, and is needed for the seek only
        try:
            for table in self.tables.values():
                await table.on_recovery_completed(self.actives_for_table[table], self.standbys_for_table[table])
            await parking
        finally:
            await cancel([parking])
        await self._resume_streams(generation)
        await consumer._thread.resume_fetching(but=self.active_tps)

    async def _wait(self, coro: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109  # upstream's signature
        """Wait for `coro`, and go on waiting after the time-out for as long as the group has no coordinator."""
        waited_for = asyncio.ensure_future(coro)
        try:
            while not (await asyncio.wait({waited_for}, timeout=timeout))[0]:
                if self.app.consumer._thread.knows_coordinator:
                    raise BrokerUnavailable(f"Kafka did not return the committed offsets within {timeout:.0f} s")
                log.warning("the group has had no coordinator for %.0f s: waiting for Kafka to elect one", timeout)
            waited_for.result()
        finally:
            await cancel([waited_for])


class SafeTableManager(TableManager):  # type: ignore[misc]  # faust ships no types
    """Uses `SafeRecovery`, and starts without upstream's sleep of one second."""

    _recovery: SafeRecovery | None

    @property
    def recovery(self) -> SafeRecovery:
        """The recovery service of all tables."""
        if self._recovery is None:
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()
