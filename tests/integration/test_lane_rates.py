"""The published rates of lanes are followed, and unreadable records are ignored."""

from __future__ import annotations

import asyncio

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_app.dev.kafka import Broker
from stream_app.domain.lane_messages import LaneView
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.lane_rates import LaneRates


def test_the_last_rate_of_a_lane_counts() -> None:
    rates = LaneRates(KafkaConnection("nowhere:9092", {}), "leads.lanes", 1, {"acme": 8.0, "beta": 4.0})
    view = msgspec.json.encode(LaneView("acme", 0, 1, "closed", "healthy", 100.0, 2.0))
    for key, value in (
        (b"acme", view),
        (b"acme", None),
        (b"acme", b'{"rate_per_s": 0}'),
        (b"acme", b'{"rate_per_s": "fast"}'),
        (b"acme", b"\xff"),
        (None, view),
        (b"gamma", view),
    ):
        rates.apply(key, value)
    assert rates.per_s == {"acme": 2.0, "beta": 4.0}


async def test_earlier_and_new_rates_of_a_lane_are_read(kafka: Broker, namespace: str) -> None:
    topic = f"{namespace}leads.lanes"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    rates = LaneRates(KafkaConnection(kafka.bootstrap), topic, 1, {"acme": 8.0})
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(topic, b'{"rate_per_s": 2.0}', b"acme")
        following = asyncio.create_task(rates.follow())
        await until_it_is(rates, 2.0)
        await producer.send_and_wait(topic, b'{"rate_per_s": 3.0}', b"acme")
        await until_it_is(rates, 3.0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def until_it_is(rates: LaneRates, per_s: float) -> None:
    for _ in range(400):
        if rates.per_s["acme"] == per_s:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(rates.per_s)
