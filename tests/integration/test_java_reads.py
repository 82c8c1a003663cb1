"""What Kafka's own client, in Java, reads of batches that only a strange producer writes, our consumer reads too."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiokafka.record._crecords.default_records as batches
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from stream_app.dev.java import class_path, find_java
from stream_app.dev.kafka import TOOLS_JARS, Broker
from stream_app.kafka.connection import stop_consumer
from stream_app.kafka.consumer import Consumer
from tests.support.kafka import create_topics
from tests.support.odd_batches import ODD
from tests.support.pace import BUSY

VALUE = b"a lead " * 100


async def produce(bootstrap: str, topic: str, codec: str, encode: Callable[..., bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, f"{codec}_encode", encode)
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=codec) as producer:
            await producer.send_and_wait(topic, VALUE, partition=0)


async def read_by_java(bootstrap: str, topic: str, records: int) -> list[bytes]:
    argv = ["-cp", class_path(TOOLS_JARS, lambda _: None), "org.apache.kafka.tools.consumer.ConsoleConsumer"]
    argv += ["--bootstrap-server", bootstrap, "--topic", topic, "--from-beginning", "--max-messages", str(records)]
    process = await asyncio.create_subprocess_exec(
        find_java(), *argv, "--timeout-ms", str(int(15_000 * BUSY)), stdout=-1, stderr=-1
    )
    output, errors = await process.communicate()
    assert b"Processed a total of" in errors, errors
    return output.splitlines()


async def read_by_us(bootstrap: str, topic: str, records: int) -> list[Any]:
    consumer = Consumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        values: list[Any] = []
        async with asyncio.timeout(15 * BUSY):
            while len(values) < records:
                for got in (await consumer.getmany(timeout_ms=200)).values():
                    values += [record.value for record in got]
        return values
    finally:
        await stop_consumer(consumer)


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_what_java_reads_we_read(kafka: Broker, namespace: str) -> None:
    topic = f"{namespace}leads"
    await create_topics(kafka.bootstrap, topic, partitions=1)
    for codec, encode in ODD.values():
        await produce(kafka.bootstrap, topic, codec, encode)
    assert await read_by_java(kafka.bootstrap, topic, len(ODD)) == [VALUE] * len(ODD)
    assert await read_by_us(kafka.bootstrap, topic, len(ODD)) == [VALUE] * len(ODD)
