"""A Kafka at another address than it advertises, one that goes away or hangs, and consumers that
stop meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from stream_app.client.lanes.commands import submit
from stream_app.client.publish.leads import PublishOptions, Ready, send_batch
from stream_app.dev.kafka import Broker
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.kafka import producers
from stream_app.kafka.connection import KafkaConnection, admin_of, stop_consumer, wait_for_kafka
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from tests.support.config import one_way, settings_in
from tests.support.kafka import create_planned, create_topics, until
from tests.support.pace import BUSY, slowness
from tests.support.proxy import ProxiedKafka, Proxy


@pytest.mark.slow
async def test_an_unreachable_advertised_address_is_explained_at_once(broker: ProxiedKafka) -> None:
    way = broker.proxy()
    connection = KafkaConnection(broker.behind_proxy)
    lines: list[str] = []
    waiting = asyncio.create_task(wait_for_kafka(connection, 60 * BUSY, lines.append))
    await until(lambda: lines, what="a line")
    assert lines[0].startswith(
        f"Kafka at {connection.bootstrap} does not answer (none of the brokers that it names does, "
        f"{way.address}: connection refused; are their advertised.listeners addresses",
    )
    with pytest.raises(BrokerUnavailable, match="did not answer within 1 s"):
        await wait_for_kafka(connection, 1, lines.append)
    async with way:
        await waiting


@pytest.mark.slow
async def test_a_broker_that_stops_between_two_checks_is_waited_for(
    broker: ProxiedKafka,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_app.kafka.connection.wait_for_kafka", AsyncMock())  # it was there
    async with broker.proxy() as way:
        way.cut()
        asyncio.get_running_loop().call_later(1, way.repair)
        async with admin_of(KafkaConnection(way.address), 60 * BUSY, lambda _: None) as admin:
            assert len((await admin.describe_cluster())["brokers"]) == 1


@pytest.mark.slow
async def test_an_order_to_a_kafka_that_hangs_ends(
    broker: ProxiedKafka,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producers, "_CONFIRM_WITHIN_S", 1.0)
    monkeypatch.setattr(producers, "_FLUSH_WITHIN_S", 0.5)
    settings = settings_in(
        tmp_path,
        broker.bootstrap,
        namespace,
        one_way(people="acme"),
    )
    await create_planned(settings)
    connect = producers.kafka_publisher

    @asynccontextmanager
    async def hanging(*args: Any) -> AsyncIterator[Any]:
        async with connect(*args) as connected:
            broker.freeze()
            yield connected

    monkeypatch.setattr(producers, "kafka_publisher", hanging)
    try:
        async with asyncio.timeout(60 * BUSY):
            with pytest.raises(BrokerUnavailable, match="did not confirm the command within 1 s"):
                await submit(settings, "pause", "acme", {}, "jane", "w", wait_s=5, say=print)
    finally:
        broker.thaw()


@pytest.mark.slow
async def test_a_publication_to_a_kafka_that_hangs_ends_with_the_leads_that_were_taken(
    broker: ProxiedKafka,
    namespace: str,
    tmp_path: Path,
) -> None:
    times = slowness()
    settings = settings_in(
        tmp_path,
        broker.bootstrap,
        namespace,
        one_way(people="acme"),
        broker_wait_s=round(3 * times),
    )
    await create_planned(settings)

    def leads() -> Iterator[Ready]:
        for n in range(200_000):
            if n == 20_000:
                broker.freeze()
            yield Ready("acme", "people", 0, b"x" * 500, n, "", "")

    try:
        async with asyncio.timeout(20 * times):
            with pytest.raises(BrokerUnavailable, match=r"accepted [\d,]+ records?, then no more"):
                await send_batch(leads(), settings, PublishOptions("acme"))
    finally:
        broker.thaw()


FAILED_A_MOMENT_AGO_S = 0.05  # half of aiokafka's pause behind a fetch that failed


@pytest.fixture
async def proxy(broker: ProxiedKafka, namespace: str) -> AsyncIterator[Proxy]:
    """A way to a broker that has a topic of the namespace's name."""
    await create_topics(broker.bootstrap, namespace)
    async with broker.proxy() as way:
        yield way


async def _fetches(proxy: Proxy, topic: str) -> AIOKafkaConsumer:
    where = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=proxy.address,
        group_id=None,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    consumer.assign([where])
    await consumer.position(where)
    await consumer.getmany(timeout_ms=50)
    return consumer


@pytest.mark.slow
async def test_a_stop_without_a_broker_does_not_cancel_its_caller(
    proxy: Proxy,
    namespace: str,
) -> None:
    for _ in range(3):
        consumer = await _fetches(proxy, namespace)
        proxy.cut()
        await asyncio.sleep(FAILED_A_MOMENT_AGO_S)
        await stop_consumer(consumer)
        assert not [task for task in asyncio.all_tasks() if "_md_synchronizer" in repr(task)], (
            "it is closed"
        )
        proxy.repair()


async def test_stop_raises_a_cancellation_whenever_it_comes(kafka: Broker) -> None:
    """aiokafka's client swallows one while its own task ends.

    The recovery of a partition then never returned.
    """
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
    proxy: Proxy,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aiokafka gives up on `end_offsets` after a while.

    The recovery of a partition then ended without a report.
    """
    store = TransactionalState(
        KafkaConnection(proxy.address),
        namespace,
        namespace,
        0,
        StateStoreLimits(take_over_s=20 * BUSY),
    )
    await store.take_over()
    await store.transact([Record(namespace, b"a", b"1")])
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
        assert await store.take_over() == {b"a": b"1"}
    finally:
        await store.close()
