"""Results that workers put into the cache."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import redis
import redis.asyncio
from aiokafka import AIOKafkaProducer

from stream_app.cache import filler as cache_filler
from stream_app.cache.filler import CacheFiller, MemoryCache
from stream_app.cache.redis import RedisCache, redis_link
from stream_app.dev.kafka import Broker
from stream_app.domain.model.messages import Result
from stream_app.domain.model.records import Record
from stream_app.domain.plan import CachePolicy
from stream_app.domain.result import NOTHING, Field, company_slot, person_slot, tombstone
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


async def test_results_are_cached_and_erased_ones_removed(kafka: Broker, namespace: str) -> None:
    topic, cache = f"{namespace}enriched", MemoryCache()
    await create_topics(kafka.bootstrap, topic, partitions=2)
    ceo, cto = Field("CEO", NOW_MS, "people"), Field("CTO", NOW_MS, "people")
    async with filling(kafka.bootstrap, topic, cache) as (filler, reader):
        foreign = Record("", b"x", b"{not a result")
        await publish(kafka.bootstrap, topic, result(ADA, "CEO"), foreign, result(BOB, "old", age_days=181))
        await filler.look(reader)
        assert await titles(cache) == [ceo, None]
        (firm,) = await cache.find([company_slot("acme", FIRM)])
        assert firm.fields == {"industry": Field("bikes", NOW_MS, "people")}

        gone = tombstone(topic, "acme", "people", ADA, [ADA])
        await publish(kafka.bootstrap, topic, result(BOB, "CTO"), gone)
        await filler.look(reader)
        assert await titles(cache) == [None, cto], "only what is new was read: Ada is not remembered again"


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


@pytest.mark.parametrize("mark_is_lost", [False, True])
async def test_a_tombstone_removes_an_entry_from_a_lagging_cache(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch, *, mark_is_lost: bool
) -> None:
    monkeypatch.setattr(cache_filler, "MOST_RESULTS", 3)
    topic, cache = f"{namespace}enriched", MemoryCache()
    await create_topics(kafka.bootstrap, topic, partitions=2)
    await publish(kafka.bootstrap, topic, result(ADA, "CEO"))
    async with filling(kafka.bootstrap, topic, cache) as (filler, reader):
        await filler.look(reader)
        assert await titles(cache) == [Field("CEO", NOW_MS, "people"), None]
        if mark_is_lost:  # Redis makes room by forgetting any key
            assert await cache.set_filled_to(1, 0)
        others = [result(BOB, f"CTO {number}") for number in range(10)]
        await publish(kafka.bootstrap, topic, tombstone(topic, "acme", "people", ADA, [ADA]), *others)
        await filler.look(reader)
        assert await titles(cache) == [None, Field("CTO 9", NOW_MS, "people")]


async def test_an_unavailable_redis_is_filled_when_it_returns(kafka: Broker, namespace: str, redis_url: str) -> None:
    topic = f"{namespace}enriched"
    await create_topics(kafka.bootstrap, topic, partitions=2)
    await publish(kafka.bootstrap, topic, result(ADA, "CEO"))
    async with redis_link("redis://127.0.0.1:1/0", 5.0) as unreachable, redis_link(redis_url, 5.0) as link:
        async with filling(kafka.bootstrap, topic, RedisCache(unreachable, namespace, 60)) as (filler, reader):
            await filler.look(reader)
        cache = RedisCache(link, namespace, 60)
        async with filling(kafka.bootstrap, topic, cache) as (filler, reader):
            await filler.look(reader)
        assert await titles(cache) == [Field("CEO", NOW_MS, "people"), None]
