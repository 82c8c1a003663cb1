"""The inbox of callbacks on a real Kafka: an accepted callback is there, and the answer comes in
bounded time.
"""

import asyncio
import time

import pytest

from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.producers import Inbox, open_inbox
from tests.support.kafka import create_topics, read_committed
from tests.support.pace import slowness
from tests.support.proxy import ProxiedKafka

BOUND_S = 8.0
AGAIN_WITHIN_S = 40.0


@pytest.fixture
async def topic(broker: ProxiedKafka, namespace: str) -> str:
    await create_topics(broker.bootstrap, name := f"{namespace}callbacks")
    return name


def record(topic: str, number: int) -> Record:
    return Record(topic, b"acme", b"%d" % number, (), 0)


async def put_within(inbox: Inbox, topic: str, number: int) -> bool:
    """Put one within the time limit. Return true if it was accepted."""
    began = time.monotonic()
    try:
        await inbox.put(record(topic, number))
    except BrokerUnavailable:
        return False
    finally:
        assert time.monotonic() - began < BOUND_S * slowness()
    return True


async def until_kept(inbox: Inbox, topic: str, first: int) -> set[int]:
    """Put numbers from `first` on until one is accepted. Return the accepted ones."""
    deadline = time.monotonic() + AGAIN_WITHIN_S
    for number in range(first, first + 1_000):
        if await put_within(inbox, topic, number):
            return {number}
        assert time.monotonic() < deadline
    raise AssertionError("never kept")


@pytest.mark.long
async def test_kafka_hangs_then_dies_then_returns(broker: ProxiedKafka, topic: str) -> None:
    async with open_inbox(KafkaConnection(broker.bootstrap)) as inbox:
        kept = await until_kept(inbox, topic, 0)
        assert await inbox.not_ready() is None
        broker.freeze()
        assert not any(
            await asyncio.gather(
                *(put_within(inbox, topic, 1_000 + number) for number in range(50)),
            ),
        )
        assert await inbox.not_ready() == "Kafka does not answer"
        broker.thaw()
        kept |= await until_kept(inbox, topic, 2_000)
        await asyncio.to_thread(broker.kill)
        assert not any(
            await asyncio.gather(
                *(put_within(inbox, topic, 3_000 + number) for number in range(50)),
            ),
        )
        await asyncio.to_thread(broker.restart)
        kept |= await until_kept(inbox, topic, 4_000)
        assert await inbox.not_ready() is None
    stored = {int(value or b"0") for _, value in await read_committed(broker.bootstrap, topic)}
    assert kept <= stored
