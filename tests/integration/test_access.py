"""The first contact with Kafka at another address than it advertises, and a Kafka that goes away after it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from stream_app.client.commands import submit
from stream_app.client.publish import PublishOptions, Ready, send_batch
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.kafka import producers
from stream_app.kafka.connection import KafkaConnection, admin_of, wait_for_kafka
from tests.support.config import one_way, settings_in
from tests.support.kafka import create_planned
from tests.support.pace import BUSY, slowness
from tests.support.proxy import ProxiedKafka


@pytest.mark.slow
async def test_an_unreachable_advertised_address_is_explained_at_once(broker: ProxiedKafka) -> None:
    way, connection = broker.proxy(), KafkaConnection(broker.behind_proxy)
    lines: list[str] = []
    with pytest.raises(BrokerUnavailable):
        await wait_for_kafka(connection, 1, lines.append)
    assert lines[0].startswith(
        f"Kafka at {connection.bootstrap} does not answer (none of the brokers that it names does, "
        f"{way.address}: connection refused; are their advertised.listeners addresses"
    )
    async with way:
        await wait_for_kafka(connection, 20, lines.append)


@pytest.mark.slow
async def test_a_broker_that_stops_between_two_checks_is_waited_for(
    broker: ProxiedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_app.kafka.connection.wait_for_kafka", AsyncMock())  # it was there
    async with broker.proxy() as way:
        way.cut()
        asyncio.get_running_loop().call_later(1, way.repair)
        async with admin_of(KafkaConnection(way.address), 60 * BUSY, lambda _: None) as admin:
            assert len((await admin.describe_cluster())["brokers"]) == 1


@pytest.mark.slow
async def test_an_order_to_a_kafka_that_hangs_ends(
    broker: ProxiedKafka, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "_CONFIRM_WITHIN_S", 1.0)
    monkeypatch.setattr(producers, "_FLUSH_WITHIN_S", 0.5)
    settings = settings_in(tmp_path, broker.bootstrap, namespace, one_way(people="acme"), broker_wait_s=20)
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
    broker: ProxiedKafka, namespace: str, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, broker.bootstrap, namespace, one_way(people="acme"), broker_wait_s=3)
    await create_planned(settings)

    def leads() -> Iterator[Ready]:
        for n in range(200_000):
            if n == 20_000:
                broker.freeze()
            yield Ready("acme", "people", 0, b"x" * 500, n, "", "")

    try:
        async with asyncio.timeout(20 * slowness()):
            with pytest.raises(BrokerUnavailable, match=r"accepted \d+ records, then no more"):
                await send_batch(leads(), settings, PublishOptions("acme"))
    finally:
        broker.thaw()
