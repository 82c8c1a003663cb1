"""Calls to Redis: what is stored and for how long, and when calls are skipped after failures, to
the second.
"""

import asyncio
from collections import Counter
from typing import Any

import pytest
import redis

from stream_app.cache.redis import RedisCache, RedisLink, redis_link, redis_problem, tls_options
from stream_app.domain.cached_results import NOTHING_CACHED, CachedField, CacheEntry
from tests.support.partition.virtual import virtual_time

CEO = CacheEntry({"title": CachedField("CEO", 1, "people")})
CTO = CacheEntry({"title": CachedField("CTO", 2, "people")})


class FakeRedis:
    """Values and when they expire. `takes_s`: how long a call takes; `error`: how it ends."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.expires: dict[str, int] = {}
        self.takes_s = 0.0
        self.error = ""
        self._commands: list[tuple[Any, ...]] = []

    async def _answer(self) -> None:
        await asyncio.sleep(self.takes_s)
        if self.error:
            raise redis.ConnectionError(self.error)

    async def mget(self, keys: Any) -> list[Any]:
        await self._answer()
        return [self.values.get(key) for key in keys]

    def pipeline(self, *, transaction: bool) -> "FakeRedis":
        assert not transaction
        return self

    async def __aenter__(self) -> "FakeRedis":
        self._commands = []
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def set(self, key: str, value: bytes, ex: int) -> None:
        self._commands.append((key, value, ex))

    def delete(self, key: str) -> None:
        self._commands.append((key, None, 0))

    async def execute(self) -> None:
        await self._answer()
        for key, value, expires_s in self._commands:
            self.values.pop(key, None)
            if value is not None:
                self.values[key] = value
                self.expires[key] = expires_s


def link_of(client: FakeRedis, seen: Counter[str] | None = None) -> RedisLink:
    outcomes = Counter[str]() if seen is None else seen
    return RedisLink(client, 0.25, lambda outcome: outcomes.update([outcome]))  # type: ignore[arg-type]  # a fake


@virtual_time
async def test_entries_are_merged_under_the_prefix_and_expire() -> None:
    client = FakeRedis()
    cache = RedisCache(link_of(client), "app:", 60)
    assert await cache.add([("a", CTO), ("b", CEO), ("a", CEO)])
    assert await cache.find(["b", "c", "a"]) == [CEO, NOTHING_CACHED, CTO]
    assert client.expires == {"app:a": 60, "app:b": 60}
    assert await cache.forget(["a"])
    assert await cache.find(["a", "b"]) == [NOTHING_CACHED, CEO]
    assert await cache.set_filled_to(3, 77)
    assert [await cache.filled_to(number) for number in (3, 4)] == [77, 0]
    client.values["app:filled:4"] = b"no number"
    client.values["app:b"] = "no bytes"
    assert await cache.filled_to(4) == 0
    assert await cache.find(["b"]) == [NOTHING_CACHED]


@virtual_time
async def test_without_an_answer_nothing_is_found_and_nothing_is_claimed_to_be_stored() -> None:
    client = FakeRedis()
    seen = Counter[str]()
    cache = RedisCache(link_of(client, seen), "app:", 60)
    assert await cache.add([])
    assert await cache.forget([])
    assert seen == {}, "nothing to ask"
    client.error = "gone"
    assert await cache.find(["a", "b"]) == [NOTHING_CACHED, NOTHING_CACHED]
    assert not await cache.add([("a", CEO)])
    assert not await cache.forget(["a"])
    assert seen == {"failed": 3}
    client.error = ""
    assert await cache.filled_to(1) is None
    assert not await cache.set_filled_to(1, 5)
    assert seen["skipped"] == 2
    assert client.values == {}


async def test_a_call_that_fails_is_not_tried_again() -> None:
    connections = 0

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server, redis_link(url, 5.0) as link:
        assert await link.read(["a"]) is None
    assert connections == 1


@pytest.mark.parametrize(
    ("takes_s", "reads", "stores"),
    [(0.2, True, True), (0.3, False, True), (2.1, False, False)],
)
@virtual_time
async def test_a_lead_waits_less_for_a_read_than_the_filler_for_a_write(
    takes_s: float,
    reads: bool,
    stores: bool,
) -> None:
    client = FakeRedis()
    client.takes_s = takes_s
    link = link_of(client)
    assert (await link.read(["a"]) is not None) is reads
    assert (await link.read(["a"], patient=True) is not None) is stores
    assert await link.write({"a": b"1"}, 60) is stores


@virtual_time
async def test_three_failures_in_a_row_pause_calls_for_a_second_that_doubles_to_half_a_minute() -> (
    None
):
    client = FakeRedis()
    seen = Counter[str]()
    link = link_of(client, seen)
    now_s = asyncio.get_running_loop().time
    await asyncio.sleep(1.0)
    client.error = "gone"
    for _ in range(2):
        assert await link.read(["a"]) is None
    client.error = ""
    assert await link.read(["a"]) == [None]
    client.error = "gone"
    for _ in range(3):
        assert await link.read(["a"]) is None
    assert seen["skipped"] == 0, "not in a row before"
    assert seen["failed"] == 5, "not in a row before"
    for pause_s in (1, 2, 4, 8, 16, 30, 30):
        begin_s = now_s()
        await asyncio.sleep(pause_s - 0.001)
        skipped = seen["skipped"]
        assert await link.read(["a"]) is None
        assert seen["skipped"] == skipped + 1, pause_s
        await asyncio.sleep(begin_s + pause_s - now_s())
        assert await link.read(["a"]) is None
        assert seen["skipped"] == skipped + 1, pause_s
    await asyncio.sleep(30)
    client.error = ""
    assert await link.read(["a"]) == [None]
    client.error = "gone"
    assert await link.read(["a"]) is None
    assert await link.read(["a"]) is None
    assert seen["ok"] == 2, "the count began again"


@virtual_time
async def test_failures_of_calls_that_began_before_a_pause_do_not_make_it_longer() -> None:
    client = FakeRedis()
    seen = Counter[str]()
    link = link_of(client, seen)
    client.error = "gone"
    client.takes_s = 0.1
    await asyncio.gather(*(link.read(["a"]) for _ in range(10)))
    client.error = ""
    client.takes_s = 0.0
    await asyncio.sleep(1.0)
    assert await link.read(["a"]) == [None]
    assert seen == {"failed": 10, "ok": 1}


def test_a_url_is_checked_without_being_repeated() -> None:
    for bad in ("host:6379", "http://host", "redis://host?unknown=1", "redis://host:port"):
        assert (
            redis_problem(bad)
            == "must be like redis://user:password@host:6379/0 (rediss:// for TLS)"
        )
    assert redis_problem("redis://u:p@host:6379/0") is None
    assert tls_options("rediss://host", "ca.pem") == {"ssl_ca_certs": "ca.pem"}
    assert tls_options("redis://host", "ca.pem") == tls_options("rediss://host", None) == {}
