"""Redis as in production: behind TLS, with a password, or as one shard of a cluster."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import trustme
from redis.crc import key_slot

from stream_app.cache.mirror import TTL_S
from stream_app.cache.redis import RedisCache, redis_link
from stream_app.client.doctor import ProbeFailed, redis_answers
from stream_app.dev.process import free_port
from stream_app.domain.lane.mirror import mirror_slot
from stream_app.domain.result.cache_entry import NOTHING, Entry, Field, company_slot, person_slot
from tests.integration.test_cache import PATIENT_S, eventually
from tests.support.local_redis import LocalRedis
from tests.support.proxy import Proxy

ENTRY = Entry({"title": Field("CEO", 1, "people")})
SLOT = person_slot("acme", "people", "a hash")


async def keeps(url: str, ca_file: str | None = None) -> bool:
    """True if an added entry is found again."""
    async with redis_link(url, PATIENT_S, ca_file) as link:
        cache = RedisCache(link, "t.", 60)
        added = await cache.add([(SLOT, ENTRY)])
        assert await cache.find([SLOT]) == [ENTRY if added else NOTHING]
        return added


async def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    authority, ca_file = trustme.CA(), str(tmp_path / "ca.pem")
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
                with pytest.raises(ProbeFailed, match="TLS"):
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
                lanes = [f"t.stream-app:{mirror_slot(name)}" for name in ("acme", "beta")]
                assert await link.write(dict.fromkeys(lanes, b"{}"), TTL_S)
            keys = [key async for key in client.scan_iter("t.stream-app:{acme}:*")]
            assert len(keys) == len(slots), "19 people, a company and a lane"
            assert len({key_slot(key) for key in keys}) == 1
