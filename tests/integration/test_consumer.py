"""Batches that cannot be read stop their own partition and are named.

All sound records are read.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiokafka.record._crecords.default_records as batches
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from stream_app.dev.kafka import Broker
from stream_app.domain.model.errors import UnreadableBatch
from stream_app.faust_app.run import assigned, membership, run_app, unreadable
from stream_app.kafka import consumer as module
from stream_app.kafka.connection import stop_consumer
from stream_app.kafka.consumer import Consumer
from tests.support.faust_bench import Recorder, make_bench
from tests.support.kafka import create_topics, until
from tests.support.odd_batches import ODD
from tests.support.pace import BUSY
from tests.support.tampering import (
    Damage,
    bad_checksum,
    broken_bytes,
    no_utf8,
    tamper,
    tampered,
    unknown_codec,
)

DAMAGES: dict[Damage, str] = {
    bad_checksum: "its checksum does not match",
    unknown_codec: "its compression codec 7 is none of Kafka's",
    broken_bytes: "it is not a frame of LZ4",
}


@pytest.fixture
async def topic(kafka: Broker, namespace: str) -> str:
    """A topic of four partitions."""
    await create_topics(kafka.bootstrap, name := f"{namespace}leads", partitions=4)
    return name


async def produce(
    bootstrap: str,
    topic: str,
    partition: int,
    batches: int,
    codec: str | None = None,
) -> None:
    """Write batches of three records. The value says which."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=codec) as producer:
        for number in range(batches):
            batch = producer.create_batch()
            for nth in range(3):
                value = b"%d" % (3 * number + nth)
                batch.append(timestamp=None, key=None, value=value, headers=[("a-name", b"x")])
            await (await producer.send_batch(batch, topic, partition=partition))


@asynccontextmanager
async def consumer_of(
    bootstrap: str,
    *places: TopicPartition,
    **options: Any,
) -> AsyncIterator[Any]:
    consumer = Consumer(bootstrap_servers=bootstrap, **options)
    await consumer.start()
    consumer.assign(places)
    try:
        yield consumer
    finally:
        await stop_consumer(consumer)


async def records_of(consumer: Consumer, count: int) -> list[Any]:
    """Read this many records."""
    seen: list[Any] = []
    async with asyncio.timeout(15 * BUSY):
        while len(seen) < count:
            seen += [
                record
                for got in (await consumer.getmany(timeout_ms=200)).values()
                for record in got
            ]
    return seen


async def read(consumer: Consumer, values: dict[int, list[int]], records: int) -> None:
    """Read this many records, or until no more can be read."""
    async with asyncio.timeout(15 * BUSY):
        while sum(map(len, values.values())) < records:
            for place, got in (await consumer.getmany(timeout_ms=200)).items():
                values.setdefault(place.partition, []).extend(int(record.value) for record in got)


async def test_every_codec_of_kafka_is_read(kafka: Broker, topic: str) -> None:
    for partition, codec in enumerate(("gzip", "snappy", "lz4", "zstd")):
        await produce(kafka.bootstrap, topic, partition, 2, codec)
    values: dict[int, list[int]] = {}
    async with consumer_of(
        kafka.bootstrap,
        *(TopicPartition(topic, number) for number in range(4)),
    ) as consumer:
        await read(consumer, values, 24)
    assert values == {number: [*range(6)] for number in range(4)}


@pytest.mark.long
async def test_what_java_reads_is_read(
    kafka: Broker,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches that only a strange producer writes, which brokers take."""
    lead = "a lead " * 100
    for codec, encode in ODD.values():
        monkeypatch.setattr(batches, f"{codec}_encode", encode)
        async with AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap,
            compression_type=codec,
        ) as producer:
            await producer.send_and_wait(topic, lead.encode(), partition=0)
    count = str(len(ODD))
    how = (
        "--topic",
        topic,
        "--from-beginning",
        "--max-messages",
        count,
        "--timeout-ms",
        str(int(15_000 * BUSY)),
    )
    by_java = await asyncio.to_thread(
        kafka.run_tool,
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *how,
    )
    assert by_java.splitlines() == [lead] * len(ODD)
    async with consumer_of(kafka.bootstrap, TopicPartition(topic, 0)) as consumer:
        seen = await records_of(consumer, len(ODD))
    assert [record.value for record in seen] == [lead.encode()] * len(ODD)


@pytest.mark.parametrize(
    ("damage", "cause"),
    DAMAGES.items(),
    ids=[damage.__name__ for damage in DAMAGES],
)
async def test_only_the_damaged_partition_stops_after_its_sound_records(
    kafka: Broker,
    topic: str,
    damage: Damage,
    cause: str,
) -> None:
    for partition in (0, 1):
        await produce(kafka.bootstrap, topic, partition, 4)
    values: dict[int, list[int]] = {}
    bad = TopicPartition(topic, 0)
    good = TopicPartition(topic, 1)
    async with consumer_of(kafka.bootstrap, bad, good) as consumer:
        tamper(consumer, {(bad, 6): damage})
        with pytest.raises(UnreadableBatch, match=cause) as refused:
            await read(consumer, values, 24)
        batch = refused.value
        assert batch.topic == topic
        assert batch.partition == 0
        assert batch.first == 6
        assert batch.last == 8
        assert f"{topic}/0 cannot be read at offsets 6 to 8: " in str(refused.value)
        assert f"stream-app skip {topic}/0/6" in str(refused.value)
        assert values == {0: [*range(6)], 1: [*range(12)]}
        await produce(kafka.bootstrap, topic, 1, 1)
        await read(consumer, values, 21)
        assert values[1] == [*range(12), 0, 1, 2]
        assert list(consumer.unreadable) == [bad]
        consumer.skip(refused.value)
        await read(consumer, values, 24)
        assert values[0] == [*range(6), *range(9, 12)]
        assert not consumer.unreadable


async def test_a_damaged_batch_is_retried_until_a_sound_copy_is_there(
    kafka: Broker,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TRY_AGAIN_S", 0.2)
    await produce(kafka.bootstrap, topic, 0, 3)
    values: dict[int, list[int]] = {}
    place = TopicPartition(topic, 0)
    async with consumer_of(kafka.bootstrap, place) as consumer:
        damages: dict[tuple[TopicPartition, int], Damage] = {(place, 3): bad_checksum}
        tamper(consumer, damages)
        for _ in range(2):
            with pytest.raises(UnreadableBatch):
                await read(consumer, values, 9)
        damages.clear()
        async with asyncio.timeout(15 * BUSY):
            while len(values[0]) < 9:
                try:
                    await read(consumer, values, 9)
                except UnreadableBatch:
                    continue
    assert values == {0: [*range(9)]}
    assert not consumer.unreadable


async def test_header_names_that_are_not_utf8_are_read(kafka: Broker, topic: str) -> None:
    await produce(kafka.bootstrap, topic, 0, 3)
    place = TopicPartition(topic, 0)
    async with consumer_of(kafka.bootstrap, place) as consumer:
        tamper(consumer, {(place, 0): no_utf8, (place, 3): no_utf8})
        seen = await records_of(consumer, 9)
    assert [(record.offset, int(record.value)) for record in seen] == [
        (number, number) for number in range(9)
    ]
    assert [record.headers[0][0] for record in seen] == [
        *["\ufffd\ufffdname", "a-name", "a-name"] * 2,
        *["a-name"] * 3,
    ]


async def test_a_faust_app_continues_with_its_other_partitions(
    kafka: Broker,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = await make_bench(kafka, namespace)
    for partition in (0, 1):
        await produce(kafka.bootstrap, bench.leads, partition, 3)
    seen = Recorder()
    app = bench.app({bench.leads: seen})
    place = TopicPartition(bench.leads, 0)
    with tampered({(place, 3): unknown_codec}):
        running = asyncio.create_task(run_app(app))
        await until(lambda: running.done() or len(seen.values) == 12)
        await until(
            lambda: [
                str(batch)
                for batch in unreadable(app).values()
                if (batch.first, batch.last) == (3, 5)
            ],
        )
        assert not [what for what in membership(app) if "cannot be read" in what], (
            "a restart would not help"
        )
        assert not assigned(app)[bench.leads, 0], "what cannot be read does not wait to be taken"
        await produce(kafka.bootstrap, bench.leads, 1, 1)
        await until(lambda: running.done() or len(seen.values) == 15)
        assert not running.done()
        assert caplog.text.count(f"{bench.leads}/0 cannot be read at offsets 3 to 5") == 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
