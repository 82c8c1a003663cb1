"""Faults of aiokafka's consumer when it is stopped without a broker, and what they must not cause."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from stream_app.kafka.connection import KafkaConnection, stop_consumer
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from tests.support.kafka import create_topics
from tests.support.proxy import ProxiedKafka, Proxy

FAILED_A_MOMENT_AGO_S = 0.05  # half of aiokafka's pause behind a fetch that failed


@pytest.fixture
async def proxy(broker: ProxiedKafka, namespace: str) -> AsyncIterator[Proxy]:
    """A way to a broker that has a topic of the namespace's name."""
    await create_topics(broker.bootstrap, namespace)
    async with broker.proxy() as way:
        yield way


async def _fetches(proxy: Proxy, topic: str) -> AIOKafkaConsumer:
    where = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=proxy.address, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([where])
    await consumer.position(where)
    await consumer.getmany(timeout_ms=50)
    return consumer


@pytest.mark.slow
async def test_a_stop_without_a_broker_does_not_cancel_its_caller(proxy: Proxy, namespace: str) -> None:
    for _ in range(3):
        consumer = await _fetches(proxy, namespace)
        proxy.cut()
        await asyncio.sleep(FAILED_A_MOMENT_AGO_S)
        await stop_consumer(consumer)
        assert not [task for task in asyncio.all_tasks() if "_md_synchronizer" in repr(task)], "it is closed"
        proxy.repair()


async def test_stop_raises_a_cancellation_whenever_it_comes(kafka: Broker) -> None:
    """aiokafka's client swallows one while its own task ends. The recovery of a partition then never returned."""
    turns = 1  # it has begun
    while True:
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap)
        await consumer.start()
        stopping = asyncio.create_task(stop_consumer(consumer))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not stopping.cancel():
            break
        with pytest.raises(asyncio.CancelledError):
            await stopping
        turns += 1
    assert turns > 1, "it was cancelled on its way"


@pytest.mark.slow
async def test_a_takeover_survives_a_broker_that_stops_while_rows_are_read(
    proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka gives up on `end_offsets` after a while. The recovery of a partition then ended without a report."""
    ledger = TransactionalState(
        KafkaConnection(proxy.address), namespace, namespace, 0, StateStoreLimits(take_over_s=20)
    )
    await ledger.take_over()
    await ledger.transact([Record(namespace, b"a", b"1")])
    real = AIOKafkaConsumer.end_offsets

    async def broker_goes(self: AIOKafkaConsumer, partitions: Any) -> Any:
        monkeypatch.setattr(AIOKafkaConsumer, "end_offsets", real)
        await self.position(partitions[0])
        proxy.cut()
        await asyncio.sleep(FAILED_A_MOMENT_AGO_S)
        asyncio.get_running_loop().call_later(1, proxy.repair)
        raise KafkaTimeoutError

    monkeypatch.setattr(AIOKafkaConsumer, "end_offsets", broker_goes)
    try:
        assert await ledger.take_over() == {b"a": b"1"}
    finally:
        await ledger.close()
