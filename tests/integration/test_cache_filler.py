"""Results that workers put into the cache."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import redis
import redis.asyncio
from aiokafka import AIOKafkaProducer

from stream_app.cache.filler import CacheFiller
from stream_app.cache.redis import RedisCache, redis_link
from stream_app.dev.kafka import Broker
from stream_app.domain.model.messages import Result
from stream_app.domain.model.records import Record
from stream_app.domain.plan import CachePolicy
from stream_app.domain.result import NOTHING, Field, person_slot
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import TopicReader
from stream_app.partition.ports import Cache
from tests.support.kafka import create_topics

NOW_MS = int(time.time() * 1000)
ADA, BOB, FIRM = "A" * 22, "B" * 22, "F" * 22
ADA_SLOT, BOB_SLOT = (person_slot("acme", "people", person) for person in (ADA, BOB))


def result(person: str, title: str, *, age_days: int = 0) -> Record:
    fields: dict[str, str | int | float | bool | None] = {"title": title, "industry": "bikes"}
    age_s = age_days * 86_400
    made = Result(person, "acme", "people", "clay", 1, NOW_MS, age_s, fields, person=person, company=FIRM)
    return Record("", f"acme/people/{person}".encode(), msgspec.json.encode(made))


async def publish(bootstrap: str, topic: str, *records: Record) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for record in records:
            headers = list(record.headers)
            await producer.send_and_wait(topic, record.value, record.key, partition=1, headers=headers)


@asynccontextmanager
async def filling(bootstrap: str, topic: str, cache: Cache) -> AsyncIterator[tuple[CacheFiller, TopicReader]]:
    connection = KafkaConnection(bootstrap, {})
    filler = CacheFiller(connection, topic, 2, cache, CachePolicy(), lambda: [1], lambda: NOW_MS)
    async with TopicReader(connection, 2) as reader:
        yield filler, reader


async def titles(cache: Cache) -> list[Field | None]:
    return [entry.fields.get("title") for entry in await cache.find([ADA_SLOT, BOB_SLOT])]


async def test_a_flushed_redis_is_refilled_and_a_new_process_continues(
    kafka: Broker, namespace: str, redis_url: str
) -> None:
    topic = f"{namespace}enriched"
    await create_topics(kafka.bootstrap, topic, partitions=2)
    ceo = Field("CEO", NOW_MS, "people")
    async with redis_link(redis_url, 5.0) as link, redis.asyncio.from_url(redis_url) as client:
        cache = RedisCache(link, namespace, 60)
        await publish(kafka.bootstrap, topic, result(ADA, "CEO"))
        async with filling(kafka.bootstrap, topic, cache) as (filler, reader):
            await filler.look(reader)
            assert await titles(cache) == [ceo, None]
            await client.delete(*[key async for key in client.scan_iter(f"{namespace}*")])
            assert await titles(cache) == [None, None]
            await filler.look(reader)
            assert await titles(cache) == [ceo, None]
        assert await cache.forget([ADA_SLOT])
        async with filling(kafka.bootstrap, topic, cache) as (filler, reader):
            await filler.look(reader)
        assert await cache.find([ADA_SLOT]) == [NOTHING], "it was read before: the mark is in Redis"
