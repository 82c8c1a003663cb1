"""Fixes of what follows a rebalance: the state is loaded while the fetcher is idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.drivers.aiokafka import Consumer
from mode import Service

from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.tasks import cancel, died_of

_POLL_S = 0.25  # one poll takes at most this long, and a rebalance waits for it
log = logging.getLogger(__name__)


class IdleFetcher(Consumer):  # type: ignore[misc]  # faust ships no types
    """Fix: streams resume only when the fetcher is idle and holds no record.

    Upstream: https://github.com/faust-streaming/faust/issues/596. After a rebalance, recovery
    resumes partitions before it seeks to the committed offsets. Records that are fetched in between
    are dropped after the seek as already read, and are lost.

    Report: docs/reference/upstream/resumes-before-it-seeks.md.

    Tests: tests/upstream/test_stock_faust.py (test_596_a_rebalance_with_a_table_loses_events),
    tests/upstream/test_fixes.py (test_596_a_rebalance_loses_no_event),
    tests/unit/faust_app/test_faust_bookkeeping.py
    (test_a_rebalance_finds_the_fetcher_idle_at_any_moment_after_the_flow_has_resumed).

    Remove it, with the order of `recovery.py`, when stock Faust passes the scenario of these tests.

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

    async def stop_fetching(self) -> None:
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
        # The flow may stop again before this task runs.
        while not (self.flow_active or self.should_stop):
            self._idle.set()
            try:
                await self.wait(self.can_resume_flow)
            finally:
                self._idle.clear()
        return await super()._wait_next_records(min(timeout, _POLL_S))


class SafeRecovery(Recovery):  # type: ignore[misc]  # faust ships no types
    """Fix: after a rebalance, load the state of new partitions before their streams resume.

    It stops the fetcher, has the tables' stores load the partitions, seeks, and resumes.

    Upstream: https://github.com/faust-streaming/faust/issues/596. Recovery reads changelogs and
        resumes the streams before it seeks. It also takes a timeout for a stop and then never
        resumes,
    and a changelog that ends in a transaction marker never looks complete to it.

    Report: docs/reference/upstream/resumes-before-it-seeks.md.

    The state is loaded here and not in Faust's `on_rebalance`, because aiokafka sends no heartbeats
    while that runs.

    Tests: tests/upstream/test_stock_faust.py (test_596_a_rebalance_with_a_table_loses_events),
    tests/upstream/test_fixes.py (test_596_a_rebalance_loses_no_event),
    tests/unit/faust_app/test_faust_bookkeeping.py
    (test_committed_offsets_are_waited_for_as_long_as_the_group_has_no_coordinator),
    tests/integration/test_faust_app.py (test_a_rebalance_interrupts_a_takeover_and_then_revokes).

    Remove it when stock Faust passes the 596 tests and lets a store load a partition by itself.
    """

    _taking_over: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        while not await self.wait_for_stopped(self.signal_recovery_start):
            self.signal_recovery_start.clear()
            self._taking_over = asyncio.create_task(self._take_over(self._generation_id))
            await self.wait(asyncio.wait({self._taking_over}))
            if not self._taking_over.done():
                await self.interrupt()
            # It is also None when the next rebalance or a stop has interrupted the take-over.
            error = died_of(self._taking_over)
            if isinstance(error, IllegalStateError):
                # A partition was revoked between the assignment and the seek, so another rebalance
                # follows.
                continue
            # During a stop, errors are a consequence of the stop.
            if error is not None and not self.app.should_stop:
                # Faust would log a traceback if the error were raised here; `run_app` raises it.
                await self.app.crash(error)
                return

    _restart_recovery = Service.task(_run)

    async def on_stop(self) -> None:
        await self.interrupt()
        await super().on_stop()

    async def interrupt(self) -> None:
        """Cancel the take-over and return when it has ended."""
        await cancel([self._taking_over])

    @property
    def taking_over(self) -> bool:
        """True from the end of a rebalance until the streams have resumed."""
        return self._taking_over is not None and not self._taking_over.done()

    async def _take_over(self, generation: int) -> None:
        consumer = self.app.consumer
        # This takes up to 0.25 s, and only the seek needs it.
        parking = asyncio.create_task(consumer.stop_fetching())
        try:
            for table in self.tables.values():
                await table.on_recovery_completed(
                    self.actives_for_table[table],
                    self.standbys_for_table[table],
                )
            await parking
        finally:
            await cancel([parking])
        await self._resume_streams(generation)
        await consumer._thread.resume_fetching(but=self.active_tps)

    async def _wait(self, coro: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109  # upstream's signature
        """Wait for `coro`, after the timeout only while the group has no coordinator."""
        waited_for = asyncio.ensure_future(coro)
        try:
            while not (await asyncio.wait({waited_for}, timeout=timeout))[0]:
                if self.app.consumer._thread.knows_coordinator:
                    raise BrokerUnavailable(
                        f"Kafka did not return the committed offsets within {timeout:.0f} s: look "
                        "at the broker that coordinates the group",
                    )
                log.warning(
                    "the group has had no coordinator for %.0f s: waiting for Kafka to elect one",
                    timeout,
                )
            waited_for.result()
        finally:
            await cancel([waited_for])


class SafeTableManager(TableManager):  # type: ignore[misc]  # faust ships no types
    """Uses `SafeRecovery`, and starts without upstream's sleep of one second."""

    _recovery: SafeRecovery | None

    @property
    def recovery(self) -> SafeRecovery:
        if self._recovery is None:
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()
