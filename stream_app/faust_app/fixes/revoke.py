"""Fix: a rebalance waits for the records in flight and commits all acks before Faust forgets them.

Upstream: https://github.com/faust-streaming/faust/issues/502. A rebalance drops acked offsets that are not committed,
and skips its last commit while another commit runs. The records are delivered again.

Tests: tests/upstream/test_stock_faust.py (test_502_a_rebalance_forgets_pending_acks,
test_the_last_commit_before_a_rebalance_is_left_out), tests/upstream/test_fixes.py
(test_502_pending_acks_are_committed_before_a_rebalance,
test_a_revoke_waits_for_a_running_commit_and_commits_the_rest).

Remove it when stock Faust delivers none of the acked records again in both tests.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from faust.transport.drivers.aiokafka import DEFAULT_GENERATION_ID, Consumer

log = logging.getLogger(__name__)
_COMMIT_S = 5.0


class CommitBeforeRevoke(Consumer):  # type: ignore[misc]  # faust ships no types
    """Finishes and commits before partitions are revoked. Needs `ExactOffsets` and `IdleFetcher`.

    Attributes:
        was_evicted: True if the group had evicted this process before the last rebalance. Another process may then
            have owned the partitions in between.
    """

    was_evicted = False

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        self.was_evicted = self._thread._consumer._coordinator.generation == DEFAULT_GENERATION_ID
        if not self.app.should_stop:
            try:
                await self.app.tables.recovery.interrupt()
                self.stop_flow()
                self.app.flow_control.suspend()
                self.app.flow_control.clear()
                await self.wait_empty()
            except Exception as error:  # noqa: BLE001  # leads may be in flight, so any error stops the app
                await self.app.crash(error)
        await super().on_partitions_revoked(revoked)
        self.in_flight.clear()
        self.resume_at.clear()

    async def wait_empty(self) -> None:
        """Wait until each delivered record is acked or given up, and until a running commit has ended. Then commit.

        After a crash it does neither, because the consumer's thread has ended.
        """
        while self._unacked_messages and not self.should_stop:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        if self.crashed:
            return
        try:
            async with asyncio.timeout(_COMMIT_S):
                while await self.maybe_wait_for_commit_to_finish():
                    pass
                await self.commit()
        except TimeoutError:
            log.warning(
                "Kafka did not commit the offsets within %.0f s: some finished records will be delivered again",
                _COMMIT_S,
            )
