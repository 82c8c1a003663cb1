"""A Faust app that combines all fixes, without what it does not need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.transport.drivers.aiokafka import DEFAULT_GENERATION_ID, Transport

from stream_app.domain.model.errors import UnreadableBatch
from stream_app.faust_app.fixes.membership import BoundedLifecycle, SubscribeOnce
from stream_app.faust_app.fixes.records import (
    CommitBeforeRevoke,
    DirectHandover,
    ExactOffsets,
    FairFetch,
    SeekToFirst,
)
from stream_app.faust_app.fixes.recovery import IdleFetcher, SafeTableManager
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_HEARTBEAT_S = 2.0
_HEARTBEAT_PAUSE_S = 0.5


class SafeConsumerThread(BoundedLifecycle, SeekToFirst, FairFetch):
    """Runs a read_committed consumer with Faust's co-partitioning assignor.

    Attributes:
        heartbeats_taken: heartbeats that the group has accepted.
    """

    heartbeats_taken = 0

    def _create_worker_consumer(self, transport: Any) -> Consumer:
        conf = self.app.conf
        self._assignor = self.app.assignor
        consumer = Consumer(
            **self.app.connection.settings(),
            inputs=self.app.connection.inputs,
            client_id=conf.broker_client_id,
            group_id=conf.id,
            partition_assignment_strategy=[self._assignor],
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )
        consumer.on_skipped = self._skipped
        return consumer

    def _skipped(self, batch: UnreadableBatch) -> None:
        self.consumer.loop.call_soon_threadsafe(self.consumer.pass_batch, batch)

    async def on_start(self) -> None:
        await super().on_start()
        coordinator = self._consumer._coordinator
        if coordinator is None:  # the app was stopped while no broker answered
            return
        beat = coordinator._do_heartbeat

        async def counted() -> bool:
            accepted = bool(await beat())
            self.heartbeats_taken += accepted
            return accepted

        coordinator._do_heartbeat = counted

    @property
    def knows_coordinator(self) -> bool:
        """False from when the group's coordinator fails to answer until another one is found."""
        return self._consumer is not None and self._consumer._coordinator.coordinator_id is not None

    async def on_partitions_assigned(self, assigned: Any, generation: int) -> None:
        """Fetch nothing until `resume_fetching`.

        The broker answers a connection in order: a fetch that finds nothing would delay the seek
            that follows the take-over by half a second.
        """
        self._consumer.pause(*self._consumer.assignment())
        await super().on_partitions_assigned(assigned, generation)

    async def resume_fetching(self, but: set[Any]) -> None:
        """Fetch again, except for the partitions of the changelog, whatever Faust requests."""

        async def resume() -> None:
            self._consumer.resume(*(self._consumer.assignment() - but))

        await self.call_thread(resume)

    async def heartbeat(self, member_id: str) -> bool:
        """Send a heartbeat.

        Returns True if the group accepted it in time, from the member with this id.
        """
        coordinator = self._consumer._coordinator
        if coordinator.generation == DEFAULT_GENERATION_ID or coordinator.coordinator_id is None:
            return False
        # A CancelledError comes when the consumer's thread ends.
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            accepted: bool = await asyncio.wait_for(coordinator._do_heartbeat(), _HEARTBEAT_S)
            # An id that was replaced never comes back.
            return accepted and bool(coordinator.member_id == member_id)
        return False


class SafeConsumer(CommitBeforeRevoke, IdleFetcher, ExactOffsets, DirectHandover):
    """Faust's consumer with all fixes."""

    def _new_consumer_thread(self) -> SafeConsumerThread:
        return SafeConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def membership(self) -> Callable[[], Coroutine[Any, Any, float]]:
        """Return what waits until the group confirms that this process still is its member.

        The member is the one that got the last assignment. A heartbeat confirms it, for the seconds
        that are returned. The wait does not end if the consumer stops, nor if the group has evicted
        the member, although the process may have joined again: another process may have owned the
        partitions meanwhile. The caller is cancelled then.
        """
        member_id = self.member_id

        async def still_member() -> float:
            while not self.should_stop:
                began_s = self.loop.time()
                if await self._thread.call_thread(self._thread.heartbeat, member_id):
                    return float(
                        self.app.conf.broker_session_timeout - (self.loop.time() - began_s),
                    )
                await asyncio.sleep(_HEARTBEAT_PAUSE_S)
            return float(await self.loop.create_future())

        return still_member

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: `services/process.py` checks progress.

        Upstream logs an error each second for each partition that is not fetched. The partitions of
        the state topic never are, and those of a held lane are not while it is held.
        """


class SafeTransport(Transport):  # type: ignore[misc]  # faust ships no types
    """Creates the fixed consumer and conductor."""

    Consumer = SafeConsumer
    Conductor = SubscribeOnce


class WithoutProducer(BootStrategy):  # type: ignore[misc]  # faust ships no types
    """Starts no producer of Faust's, because nothing here writes with it.

    It would end the app if no broker answers at once, and delay commits of offsets while its buffer
    is not empty (docs/reference/upstream/ends-without-a-broker.md, commits-starve.md).
    """

    enable_kafka_producer = False


class SafeApp(faust.App):  # type: ignore[misc]  # faust ships no types
    """A `faust.App` with all fixes.

    Args:
        connection: how its clients connect to Kafka.
    """

    BootStrategy = WithoutProducer

    def __init__(self, *args: Any, connection: KafkaConnection, **options: Any) -> None:
        self.connection = connection
        super().__init__(*args, TableManager=SafeTableManager, **options)

    def _init_fixups(self) -> list[Any]:
        """Load no fixups, such as Django's.

        A search for them would read the metadata of all installed packages.
        """
        return []

    def on_init_dependencies(self) -> Any:
        """Remove Faust's statistics. They cost 10 us a lead, and nothing reads them."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def on_rebalance_start(self) -> None:
        """Keep upstream from logging a warning about missing statistics at each rebalance."""
        super().on_rebalance_start()
        self._rebalancing_sensor_state = {"unused": None}

    def _new_transport(self) -> SafeTransport:
        return SafeTransport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Create none: the app keeps no files."""

    def _on_rebalance_when_stopped(self) -> None:
        """Do nothing when a rebalance comes after the app has stopped.

        Upstream closes the consumer in the loop of another thread, which hangs a stop in progress.
        """
