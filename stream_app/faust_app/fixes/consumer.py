"""Combines the fixes of the consumer, and adds what the worker asks of its group."""

from __future__ import annotations

import asyncio

from faust.transport.drivers.aiokafka import Transport

from stream_app.faust_app.fixes.conductor import SubscribeOnce
from stream_app.faust_app.fixes.consumer_thread import SafeConsumerThread
from stream_app.faust_app.fixes.fetcher import IdleFetcher
from stream_app.faust_app.fixes.handover import DirectHandover
from stream_app.faust_app.fixes.offsets import ExactOffsets
from stream_app.faust_app.fixes.producer import UnusedProducer
from stream_app.faust_app.fixes.revoke import CommitBeforeRevoke

_HEARTBEAT_PAUSE_S = 0.5


class SafeConsumer(CommitBeforeRevoke, IdleFetcher, ExactOffsets, DirectHandover):
    """Faust's consumer with all fixes."""

    def _new_consumer_thread(self) -> SafeConsumerThread:
        return SafeConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def still_member(self) -> float:
        """Wait until the group confirms by a heartbeat that this process is a member.

        If the consumer stops, this does not return; the caller is cancelled then.

        Returns:
            The seconds for which the membership is certain.
        """
        while not self.should_stop:
            asked = self.loop.time()
            if await self._thread.call_thread(self._thread.heartbeat):
                left_s: float = self.app.conf.broker_session_timeout - (self.loop.time() - asked)
                return left_s
            await asyncio.sleep(_HEARTBEAT_PAUSE_S)
        forever: asyncio.Future[float] = self.loop.create_future()
        return await forever

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: `ops/watchdog.py` checks progress.

        Upstream logs an error each second for each partition that is not fetched. The partitions of the state topic
        never are, and those of a held lane are not while it is held.
        """


class SafeTransport(Transport):  # type: ignore[misc]  # faust ships no types
    """Creates the fixed consumer, producer and conductor."""

    Consumer = SafeConsumer
    Producer = UnusedProducer
    Conductor = SubscribeOnce
