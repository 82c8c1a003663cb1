"""What workers keep in Redis for others: results in the cache, and the state of each lane."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import redis.asyncio
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from stream_app.cache import filler as cache_filler
from stream_app.cache.filler import CacheFiller, MemoryCache
from stream_app.cache.redis import TTL_S, RedisCache, RedisMirror, redis_link
from stream_app.config import load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import Broker
from stream_app.domain.lane.meters import Meter
from stream_app.domain.lane.view import LaneMirror
from stream_app.domain.lane_messages import Actor, LaneView
from stream_app.domain.messages import Result
from stream_app.domain.record import Record
from stream_app.domain.result import NOTHING, CachePolicy, Field, company_slot, person_slot, tombstone
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import TopicReader
from stream_app.ops import logs as log
from stream_app.ops.metrics import WorkerMetrics
from stream_app.partition.fallback import Cache
from stream_app.services.worker import open_cache
from tests.integration.test_cache import PATIENT_S, eventually
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


VIEW = LaneView("acme", 0, 5, "open", "unhealthy", 12.5, 8.0, holds="breaker_open", text="why", until_ms=9)


class Seen:
    """A lane's key as another program reads it."""

    def __init__(self, client: redis.asyncio.Redis, namespace: str) -> None:
        self.client = client
        self.key = f"{namespace}stream-app:{{acme}}:lane"

    async def lane(self) -> dict[str, Any] | None:
        raw = await self.client.get(self.key)
        return None if raw is None else dict(json.loads(raw))

    async def paused_by(self, who: str | None) -> bool:
        lane = await self.lane()
        return lane is not None and lane["paused_by"] == who

    async def left_ms(self) -> int:
        """Return for how long the key is still there. Below 0: it is not."""
        return int(await self.client.pttl(self.key))


@pytest.fixture
async def seen(redis_url: str, namespace: str) -> AsyncIterator[Seen]:
    async with redis.asyncio.from_url(redis_url) as client:
        yield Seen(client, namespace)


@asynccontextmanager
async def running(url: str, namespace: str, **intervals: float) -> AsyncIterator[RedisMirror]:
    async with redis_link(url, PATIENT_S) as link:
        mirror = RedisMirror(link, f"{namespace}stream-app:", **intervals)
        task = asyncio.create_task(mirror.run())
        try:
            yield mirror
        finally:
            task.cancel()


async def test_a_lane_is_mirrored_on_change_and_expires(redis_url: str, namespace: str, seen: Seen) -> None:
    async with running(redis_url, namespace) as mirror:
        mirror.lane(VIEW)
        await eventually(lambda: seen.paused_by(None))
        shown = msgspec.json.decode(await seen.client.get(seen.key) or b"", type=LaneMirror)
        assert (shown.moves, shown.holds, shown.breaker, shown.until_ms) == (False, "breaker_open", "open", 9)
        assert 0 < await seen.left_ms() <= TTL_S * 1000
        mirror.lane(msgspec.structs.replace(VIEW, paused_by=Actor("ada", "", 5)))
        await eventually(lambda: seen.paused_by("ada"))
        mirror.lane_gone("acme")
        assert await seen.paused_by("ada"), "another process may have the lane: its key is left to its end"


async def test_a_quiet_lane_stays_while_its_worker_runs(redis_url: str, namespace: str, seen: Seen) -> None:
    async with running(redis_url, namespace, refresh_s=0.2) as mirror:
        mirror.lane(VIEW)
        await eventually(lambda: seen.paused_by(None))
        for _ in range(3):
            await seen.client.pexpire(seen.key, 5_000)  # as if so much of its time had passed
            await eventually(lambda: at_least(seen, 10_000))
        mirror.lane_gone("acme")
        await asyncio.sleep(0.3)  # one that is being written may still be
        await seen.client.pexpire(seen.key, 5_000)
        await asyncio.sleep(0.5)  # more than two refreshes: this is what is looked at
        assert await seen.left_ms() <= 5_000, "it goes: no owner here has that lane"


async def at_least(seen: Seen, left_ms: int) -> bool:
    return await seen.left_ms() >= left_ms


async def test_a_worker_with_redis_shows_its_lanes_health_and_budget_there(
    redis_url: str, namespace: str, seen: Seen, tmp_path: Path
) -> None:
    config = tmp_path / "stream_app.toml"
    kafka = f'[kafka]\nbootstrap = "127.0.0.1:1"\nnamespace = "{namespace}"\n'
    config.write_text(f'{kafka}[redis]\nurl_env = "CACHE_URL"\ntimeout_s = 5\n')
    settings = load_settings(config, {"CACHE_URL": redis_url}, ())
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    meters = {"credits_day": Meter("2026-11-24", 0, 100, 80, 5), "credits_month": Meter("2026-11", 0, None, 80, 5)}
    async with open_cache(settings, registry, metrics) as memory:
        tasks = [asyncio.create_task(run) for run in memory.tasks(connection_of(settings), lambda: (), lambda: 0)]
        try:
            metrics.lane(msgspec.structs.replace(VIEW, meters=meters))
            await eventually(lambda: seen.paused_by(None))
            lane = await seen.lane()
            assert lane is not None
            assert (lane["health"], lane["score"]) == ("unhealthy", 12.5)
            assert lane["left"] == {"credits_day": 15, "credits_month": None}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
