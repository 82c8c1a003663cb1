"""Topics, records in and out, and a wait with a deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import InvalidReplicationFactorError

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.kafka import topics
from stream_app.kafka.connection import kafka_admin
from stream_app.kafka.consumer import Consumer
from tests.support.pace import BUSY


async def until(true: Callable[[], object], within_s: float = 15.0, what: str = "it") -> None:
    """Wait until `true()` holds. Fail if it does not in time."""
    deadline = asyncio.get_running_loop().time() + within_s * BUSY
    while not true():
        assert asyncio.get_running_loop().time() < deadline, (
            f"{what} did not happen within {within_s * BUSY:g} s"
        )
        await asyncio.sleep(0.01)


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[Any]:
    """An admin client of ours: aiokafka's own has no answer while the cluster elects its
    controller.
    """
    client = kafka_admin(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create_topics(
    bootstrap: str,
    *names: str,
    partitions: int = 1,
    config: dict[str, str] | None = None,
) -> None:
    """Create the topics and wait until the broker knows them."""
    async with admin(bootstrap) as client:
        wanted = [NewTopic(name, partitions, 1, topic_configs=config) for name in names]
        made = await client.create_topics(wanted)
        async with asyncio.timeout(20 * BUSY):
            # A broker that has just started answers before the controller places a partition on it.
            while InvalidReplicationFactorError.errno in {
                code for _, code, *_ in made.topic_errors
            }:
                await asyncio.sleep(0.2)
                made = await client.create_topics(wanted)
        assert not [error for error in made.topic_errors if error[1]], made
        await _until_listed(client, lambda listed: listed.issuperset(names))


async def create_planned(settings: Settings) -> None:
    """Create all topics of a configuration, as `stream-app topics` does."""
    report = await topics.create_topics(
        connection_of(settings),
        settings.topic_plan(),
        30,
        lambda _: None,
    )
    assert report.problems == []


async def add_partitions(bootstrap: str, partitions: int, *names: str) -> None:
    """Let topics have so many partitions, as `kafka-topics.sh --alter` does."""
    async with admin(bootstrap) as client:
        await client.create_partitions({name: NewPartitions(partitions) for name in names})


async def delete_topics(bootstrap: str, *names: str) -> None:
    """Delete the topics and wait until they are gone."""
    async with admin(bootstrap) as client:
        await client.delete_topics(names)
        await _until_listed(client, lambda listed: listed.isdisjoint(names))


async def delete_records(bootstrap: str, place: TopicPartition, before: int) -> None:
    """Delete records as retention does."""
    async with admin(bootstrap) as client:
        await client.delete_records({place: RecordsToDelete(before_offset=before)})


async def _until_listed(client: Any, expected: Callable[[set[str]], bool]) -> None:
    """Wait until the broker's list of topics is as expected: the controller answers before the
    broker knows.
    """
    async with asyncio.timeout(20 * BUSY):
        while True:
            if expected(set(await client.list_topics())):
                return
            await asyncio.sleep(0.05)


async def topic_names(bootstrap: str, prefix: str) -> set[str]:
    async with admin(bootstrap) as client:
        return {name for name in await client.list_topics() if name.startswith(prefix)}


async def committed(bootstrap: str, group: str) -> dict[tuple[str, int], int]:
    """Return the group's committed offsets."""
    async with admin(bootstrap) as client:
        offsets = await client.list_consumer_group_offsets(group)
        return {(tp.topic, tp.partition): at.offset for tp, at in offsets.items()}


async def publish(bootstrap: str, topic: str, values: Iterable[bytes], partitions: int = 1) -> None:
    """Write the values in order, one partition after the other."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5) as producer:
        for number, value in enumerate(values):
            await producer.send(topic, value, partition=number % partitions)


async def publish_transactions(
    bootstrap: str,
    topic: str,
    batches: Sequence[tuple[bool, Sequence[bytes]]],
    partition: int = 0,
) -> None:
    """Write one transaction a batch. True commits it, False aborts it."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{topic}-publisher")
    async with producer:
        for commit, values in batches:
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(topic, value, partition=partition)
            await (producer.commit_transaction() if commit else producer.abort_transaction())


async def read_committed(
    bootstrap: str,
    topic: str,
    partition: int = 0,
) -> list[tuple[bytes | None, bytes | None]]:
    """Return all committed records of the partition."""
    where = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        isolation_level="read_committed",
        fetch_max_wait_ms=20,
    )
    seen: list[tuple[bytes | None, bytes | None]] = []
    await consumer.start()
    try:
        consumer.assign([where])
        await consumer.seek_to_beginning(where)
        end = (await consumer.end_offsets([where]))[where]
        async with asyncio.timeout(15 * BUSY):
            while await consumer.position(where) < end:
                for records in (await consumer.getmany(where, timeout_ms=100)).values():
                    seen.extend((record.key, record.value) for record in records)
    finally:
        await consumer.stop()
    return seen


async def read_topic(
    bootstrap: str,
    topic: str,
    partitions: int,
    inputs: frozenset[str] = frozenset(),
) -> list[Any]:
    """Return all committed records of a topic. `inputs`: the topics to which producers write."""
    consumer = Consumer(bootstrap_servers=bootstrap, inputs=inputs)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(tps)
        read: list[Any] = []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                read.extend(records)
        return read
    finally:
        await consumer.stop()
