"""The check of gaps in offsets on real Kafka: harmless gaps are counted, and an unavailable broker is waited for."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, TopicAuthorizationFailedError

from stream_app.dev.kafka import Broker
from stream_app.dev.process import free_port
from stream_app.faust_app.stream import GapCheck, LostRecords
from stream_app.kafka.connection import KafkaConnection
from tests.support.pace import BUSY
from tests.support.proxy import Proxy


async def _one_record(bootstrap: str, topic: str) -> TopicPartition:
    """A topic with one record at offset 0, and a transaction marker after it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic) as producer:
        for _ in range(2):
            async with producer.transaction():
                await producer.send_and_wait(topic, b"x", partition=0)
    return TopicPartition(topic, 0)


async def test_a_marker_is_harmless_and_a_record_is_not(kafka: Broker, namespace: str) -> None:
    tp = await _one_record(kafka.bootstrap, f"{namespace}gaps")
    gaps = GapCheck(KafkaConnection(kafka.bootstrap))
    try:
        await gaps.verify(tp, 1, 2)
        assert gaps.empty == 1
        with pytest.raises(LostRecords, match="gaps/0/0 was fetched but never delivered"):
            await gaps.verify(tp, 0, 2)
    finally:
        await gaps.close()


async def test_a_broker_that_stops_during_the_check_is_waited_for(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka gives up after 40 s. An error that waiting cannot repair is raised."""
    tp = await _one_record(kafka.bootstrap, f"{namespace}gaps")
    gaps = GapCheck(KafkaConnection(kafka.bootstrap))
    real = AIOKafkaConsumer.beginning_offsets
    errors: list[KafkaError] = [KafkaTimeoutError(), KafkaConnectionError()]

    async def fails(self: AIOKafkaConsumer, partitions: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return await real(self, partitions)

    monkeypatch.setattr(AIOKafkaConsumer, "beginning_offsets", fails)
    try:
        await asyncio.wait_for(gaps.verify(tp, 1, 2), 10 * BUSY)
        assert gaps.empty == 1
        assert not errors
        errors.append(TopicAuthorizationFailedError())
        with pytest.raises(TopicAuthorizationFailedError):
            await gaps.verify(tp, 0, 2)
    finally:
        await gaps.close()


async def test_an_unavailable_broker_is_waited_for(kafka: Broker, namespace: str) -> None:
    tp = await _one_record(kafka.bootstrap, f"{namespace}gaps")
    async with Proxy(free_port(), int(kafka.bootstrap.rpartition(":")[2])) as proxy:
        proxy.cut()
        gaps = GapCheck(KafkaConnection(proxy.address))
        checking = asyncio.create_task(gaps.verify(tp, 1, 2))
        try:
            done, _ = await asyncio.wait({checking}, timeout=1.5)
            assert not done, checking.exception()
            proxy.repair()
            await asyncio.wait_for(checking, 10 * BUSY)
        finally:
            checking.cancel()
            await gaps.close()
