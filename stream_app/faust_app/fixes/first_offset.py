"""Fix: a partition without a committed offset resumes at its beginning.

Upstream (not reported): aiokafka's `seek_to_committed` does not move the position of a partition without a commit.
After a rebalance before the first commit, the records that Faust has dropped are passed over and lost.

Tests: tests/upstream/test_stock_faust.py (test_a_rebalance_before_the_first_commit_loses_fetched_events),
tests/upstream/test_fixes.py (test_fetched_events_come_again_after_a_rebalance_before_the_first_commit).

Remove it when stock Faust delivers all records in that test.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread


class SeekToFirst(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Seeks to the beginning where no offset is committed."""

    async def seek_to_committed(self) -> Any:
        offsets = await super().seek_to_committed()
        changelogs = self.app.tables.changelog_topics
        fresh = [tp for tp, offset in offsets.items() if not offset and tp.topic not in changelogs]
        if fresh:
            await self.call_thread(self._consumer.seek_to_beginning, *fresh)
        return offsets
