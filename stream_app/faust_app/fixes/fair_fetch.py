"""Fix: partitions take turns.

Upstream (not reported): all records of one partition's fetch, up to 1 MB, are delivered before the first record of the
next partition.

Tests: tests/integration/test_faust_app.py (test_a_blocked_handler_delays_no_other_partition_or_topic).

Remove it when aiokafka returns records of all fetched partitions in turn.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from stream_app.kafka.consumer import Consumer


class FairFetch(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Moves a partition behind the others after each poll."""

    async def _fetch_records(self, consumer: Consumer, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        waiting = consumer._fetcher._records
        for tp in records:
            if tp in waiting:
                waiting.move_to_end(tp)
        return records
