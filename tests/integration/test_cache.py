"""The cache in a real Redis: what a slow, missing, secured or clustered one costs."""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import trustme
from redis.crc import key_slot

from stream_app.cache.redis import RedisCache, redis_link
from stream_app.client.doctor.checks import redis_answers
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.dev.process import free_port
from stream_app.domain.cached_results import (
    NOTHING_CACHED,
    CachedField,
    CacheEntry,
    company_slot,
    person_slot,
)
from stream_app.partition.ports import Cache
from tests.support.local_redis import LocalRedis
from tests.support.pace import BUSY, slowness
from tests.support.proxy import Proxy

PATIENT_S = 5.0 * BUSY  # the machine that tests run on may be busy
OLD = CacheEntry({"a": CachedField("old", 1, "people"), "b": CachedField(1, 1, "people")})


async def test_a_hanging_redis_is_bounded_and_is_used_again_later() -> None:
    with LocalRedis() as server:
        client = redis.Redis.from_url(server.url)
        pid = int(client.info("server")["process_id"])
        client.close()
        async with redis_link(server.url, PATIENT_S) as link:
            assert await RedisCache(link, "t.", 60).add([("{w}:1", OLD)])
        async with redis_link(server.url, 0.05) as link:
            cache = RedisCache(link, "t.", 60)
            os.kill(pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                for _ in range(20):
                    assert await cache.find(["{w}:1"]) == [NOTHING_CACHED]
                took_s = time.monotonic() - began
            finally:
                os.kill(pid, signal.SIGCONT)
            assert took_s < 1.0 * slowness(), (
                f"three times 0.05 s, then nothing; it took {took_s:.2f} s"
            )
            await eventually(lambda: finds(cache, OLD))


async def finds(cache: Cache, entry: CacheEntry) -> bool:
    return await cache.find(["{w}:1"]) == [entry]


async def eventually(holds: Callable[[], Coroutine[Any, Any, bool]], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s * BUSY
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


ENTRY = CacheEntry({"title": CachedField("CEO", 1, "people")})
SLOT = person_slot("acme", "people", "a hash")


async def keeps(url: str, ca_file: str | None = None) -> bool:
    """True if an added entry is found again."""
    async with redis_link(url, PATIENT_S, ca_file) as link:
        cache = RedisCache(link, "t.", 60)
        added = await cache.add([(SLOT, ENTRY)])
        assert await cache.find([SLOT]) == [ENTRY if added else NOTHING_CACHED]
        return added


async def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(ca_file)
    with LocalRedis() as server:
        port = urlsplit(server.url).port or 0
        for name, trusted in (("127.0.0.1", True), ("elsewhere.example", False)):
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(tls)
            async with Proxy(free_port(), port, tls) as proxy:
                url = f"rediss://{proxy.address}/0"
                assert await keeps(url, ca_file) == trusted
                assert not await keeps(url), "the system's authorities do not know it"
                if trusted:
                    assert await redis_answers(url, 10, ca_file) == "Redis answers"
                with pytest.raises(CheckFailed, match="TLS"):
                    await redis_answers(url, 10, None if trusted else ca_file)


async def test_a_right_a_wrong_and_a_missing_password() -> None:
    with LocalRedis() as server:
        async with redis.asyncio.from_url(server.url) as client:
            await client.config_set("requirepass", "p@ss/word")
        assert await keeps(server.url.replace("redis://", "redis://:p%40ss%2Fword@"))
        assert await keeps(server.url.replace("redis://", "redis://default:p%40ss%2Fword@"))
        assert not await keeps(server.url.replace("redis://", "redis://:wrong@"))
        assert not await keeps(server.url)


async def test_a_shard_of_a_cluster_refuses_no_call_because_each_stays_in_one_slot() -> None:
    slots = [person_slot("acme", "people", f"person {number}") for number in range(20)]
    slots.append(company_slot("acme", "a company"))
    with LocalRedis("--cluster-enabled", "yes") as server:
        async with redis.asyncio.from_url(server.url) as client:
            await client.cluster("ADDSLOTS", *range(16_384))

            async def is_whole() -> bool:
                return bool((await client.cluster("INFO"))["cluster_state"] == "ok")

            await eventually(is_whole)
            with pytest.raises(redis.ResponseError, match="same slot"):
                await client.mget("one", "another")
            async with redis_link(server.url, PATIENT_S) as link:
                cache = RedisCache(link, "t.stream-app:", 60)
                assert await cache.add([(slot, ENTRY) for slot in slots])
                assert await cache.find(slots) == [ENTRY] * len(slots)
                assert await cache.forget(slots[:1])
                assert await cache.set_filled_to(3, 77)
                assert await cache.filled_to(3) == 77
            keys = [key async for key in client.scan_iter("t.stream-app:{acme}:*")]
            assert len(keys) == len(slots) - 1, "19 people and a company"
            assert len({key_slot(key) for key in keys}) == 1
