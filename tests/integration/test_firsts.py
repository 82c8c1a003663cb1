"""The first committed record of each partition, on a real Kafka: it says what the namespace began
with.
"""

import asyncio
import re
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.dev.kafka import Broker
from stream_app.domain.model.errors import TopicsError
from stream_app.domain.model.system import SYSTEM_KEY, system_problem, system_row
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader
from stream_app.kafka.topics import create_topics as make_topics
from tests.support.config import settings_in
from tests.support.kafka import create_topics

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "200",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "200",
    "delete.retention.ms": "0",
}


async def firsts(kafka: Broker, topic: str, partitions: int) -> dict[int, tuple[bytes, bytes, int]]:
    """Key, value and offset, by partition."""
    async with Reader(KafkaConnection(kafka.bootstrap), max_partition_fetch_bytes=64) as reader:
        first_records = await reader.firsts(
            [TopicPartition(topic, number) for number in range(partitions)],
        )
    return {
        place.partition: (record.key, record.value, record.offset)
        for place, record in first_records.items()
    }


async def test_only_committed_records_count_and_none_is_waited_for(
    kafka: Broker,
    namespace: str,
) -> None:
    topic = namespace + "state"
    await create_topics(kafka.bootstrap, topic, partitions=4)
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        transactional_id=namespace,
    ) as producer:
        await producer.begin_transaction()
        for number in (0, 1):
            await producer.send_and_wait(topic, b"lost", b"x", partition=number)
        await producer.abort_transaction()
        for value in (b"1", b"2"):
            await producer.begin_transaction()
            for number in (0, 2):
                await producer.send_and_wait(topic, value * 5_000, value, partition=number)
            await producer.commit_transaction()
        assert await firsts(kafka, topic, 4) == {
            0: (b"1", b"1" * 5_000, 2),
            2: (b"1", b"1" * 5_000, 0),
        }
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", b"x", partition=3)
        assert (await firsts(kafka, topic, 4)).keys() == {0, 2}
        await producer.abort_transaction()


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_compaction_leaves_what_a_partition_began_with(kafka: Broker, namespace: str) -> None:
    topic = namespace + "state"
    await create_topics(kafka.bootstrap, topic, config=COMPACTED)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(topic, system_row(4), SYSTEM_KEY)
        offsets = list(range(9))
        number = 0
        while len(offsets) > 4:  # what is left of a row that changes again and again
            await producer.send_and_wait(topic, b"%d" % number, b"d/acme/people/1")
            number += 1
            await asyncio.sleep(0.5)
            async with Reader(KafkaConnection(kafka.bootstrap)) as reader:
                place = TopicPartition(topic, 0)
                span = (await reader.begins([place]))[place], (await reader.ends([place]))[place]
                kept = [
                    record.offset
                    async for got in reader.scan({place: span})
                    for record in got[place]
                ]
                offsets = kept if number > 8 else offsets
    key, value, offset = (await firsts(kafka, topic, 1))[0]
    assert system_problem(key, value, 4) == ""
    assert offset == 0
    assert offsets[1] > 1, "a later row is compacted away"


async def test_a_state_is_lost_if_its_log_is_empty_and_not_if_it_is_only_not_readable_yet(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    """A first transaction that committed the lanes may have to be ended in the state: the take-over
    does that.
    """
    settings = settings_in(tmp_path, kafka.bootstrap, namespace)
    connection = connection_of(settings)
    names = settings.names
    await make_topics(connection, settings.topic_plan(), 30, lambda _: None)
    await kafka_ready(settings, "worker")  # nothing was sent: it may begin
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(names.lanes, b"{}", b"w0")
    with pytest.raises(
        TopicsError,
        match=f"^{re.escape(names.state)}/0: it is empty, and {re.escape(names.lanes)}/0",
    ):
        await kafka_ready(settings, "worker")
    with pytest.raises(TopicsError, match="it is empty"):
        # or a copy that is made each day would have nobody any more
        await kafka_ready(settings, "suppress list")
    await kafka_ready(settings, "board")  # it shows what was, and sends nothing

    owner = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=namespace)
    await owner.start()
    try:
        await owner.begin_transaction()
        await owner.send_and_wait(names.state, system_row(1), SYSTEM_KEY)
        await kafka_ready(settings, "worker")
        await owner.commit_transaction()
        await kafka_ready(settings, "worker")
    finally:
        await owner.stop()
