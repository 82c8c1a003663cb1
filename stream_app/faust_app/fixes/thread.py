"""The group's aiokafka consumer in the thread that Faust gives it, where it differs from Faust's own.

Overrides Faust as faust_fixes.py does, and is pinned by the same test.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from faust.transport.drivers.aiokafka import DEFAULT_GENERATION_ID, AIOKafkaConsumerThread
from mode.threads import WorkerThread

from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.consumer import Consumer

log = logging.getLogger(__name__)

_STOP_S = 3.0
_HEARTBEAT_S = 2.0
_BROKER_AWAY_S = 1.0


class _Thread(WorkerThread):  # type: ignore[misc]  # mode ships no types
    """Does not keep the process alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


class SafeConsumerThread(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """The group's aiokafka consumer: read_committed, and always Faust's own co-partitioning assignor."""

    Worker = _Thread
    heartbeats_taken = 0

    def _create_worker_consumer(self, transport: Any) -> Consumer:
        conf = self.app.conf
        self._assignor = self.app.assignor
        return Consumer(
            **self.app.connection.settings(),
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )

    async def on_start(self) -> None:
        """Upstream ends the app when the broker went away since somebody looked for it."""
        there = False
        while not there and not self.should_stop:
            try:
                await super().on_start()
                there = True
                self._count_heartbeats()
            except KafkaConnectionError as error:
                log.warning("Kafka has gone again: %s; next try in %.0f s", error, _BROKER_AWAY_S)
                await stop_consumer(self._consumer)
                await self.sleep(_BROKER_AWAY_S)

    @property
    def knows_coordinator(self) -> bool:
        """False from when the group's coordinator has failed to answer until the next one was found."""
        return self._consumer is not None and self._consumer._coordinator.coordinator_id is not None

    def _count_heartbeats(self) -> None:
        coordinator = self._consumer._coordinator
        beat = coordinator._do_heartbeat

        async def counted() -> bool:
            consumed = bool(await beat())
            self.heartbeats_taken += consumed
            return consumed

        coordinator._do_heartbeat = counted

    async def on_thread_stop(self) -> None:
        """Upstream waits for ever when the broker is gone or a rebalance is under way."""
        try:
            async with asyncio.timeout(_STOP_S):
                await super().on_thread_stop()
        except (TimeoutError, asyncio.CancelledError):  # the latter is aiokafka's, of a fetch that it cancelled itself
            log.warning("left the group without a word: Kafka, or a rebalance, did not answer within %.0f s", _STOP_S)
            if self._consumer is not None:
                await self._consumer._client.close()

    def _stopped_set(self) -> None:
        """Upstream raises when the thread has ended by itself, as it may when the app has crashed."""
        try:
            super()._stopped_set()
        except RuntimeError:  # its loop is closed
            self._stopped.set()

    async def pause_fetching(self, partitions: set[Any]) -> None:
        """Never fetch these, whatever Faust asks for: the changelog's, that Faust is not to read."""

        async def pause() -> None:
            self._consumer.pause(*(TopicPartition(*tp) for tp in partitions))

        await self.call_thread(pause)

    async def seek_to_committed(self) -> Any:
        """Seek to the beginning where nothing is committed: aiokafka leaves that position, past what was dropped."""
        offsets = await super().seek_to_committed()
        known = self.app.tables.changelog_topics
        fresh = [tp for tp, offset in offsets.items() if not offset and tp.topic not in known]
        if fresh:
            await self.call_thread(self._consumer.seek_to_beginning, *fresh)
        return offsets

    async def heartbeat(self) -> bool:
        """Whether the group has just taken a heartbeat of ours: False too when it does not answer in time."""
        coordinator = self._consumer._coordinator
        if coordinator.generation == DEFAULT_GENERATION_ID or coordinator.coordinator_id is None:
            return False
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):  # the latter when the thread ends
            return bool(await asyncio.wait_for(coordinator._do_heartbeat(), _HEARTBEAT_S))
        return False

    async def _fetch_records(self, consumer: Consumer, *args: Any, **kwargs: Any) -> Any:
        """Take turns: else a partition's whole fetch of 1 MB is delivered before another one's first record."""
        records = await super()._fetch_records(consumer, *args, **kwargs)
        waiting = consumer._fetcher._records
        for tp in records:
            if tp in waiting:
                waiting.move_to_end(tp)
        return records
