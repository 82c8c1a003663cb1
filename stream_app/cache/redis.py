"""The cache port (`ports.Cache`) in Redis. This is the only module that uses Redis.

Redis is optional. Each call has a time limit. After several failures in a row, calls are skipped
for a while.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stream_app.domain.cached_results import NOTHING_CACHED, CacheEntry, decode, merged

T = TypeVar("T")

WRITE_TIMEOUT_S: Final = 2.0
_CONNECTIONS: Final = 8
_FAILURES: Final = 3
_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 30.0

CallObserver = Callable[[str], None]
"""Called with the outcome of each call: `ok`, `failed`, or `skipped` because previous calls failed.
"""


class RedisLink:
    """Calls to one Redis server. A lead may wait `read_timeout_s` for a read."""

    def __init__(
        self,
        client: Redis,
        read_timeout_s: float,
        observe: CallObserver = lambda _: None,
    ) -> None:
        self._client = client
        self._read_timeout_s = read_timeout_s
        self._observe = observe
        self._failures = 0
        self._pause_s = _FIRST_PAUSE_S
        self._paused_until_s = 0.0

    async def read(
        self,
        slots: Sequence[str],
        *,
        patient: bool = False,
    ) -> list[bytes | None] | None:
        """Return the values of some keys, or None if they did not arrive in time.

        `patient`: the time limit of a write, for callers that keep no lead waiting.
        """

        async def get_all() -> list[bytes | None]:
            return [
                value if isinstance(value, bytes) else None
                for value in await self._client.mget(slots)
            ]

        return await self._call(get_all, WRITE_TIMEOUT_S if patient else self._read_timeout_s)

    async def write(self, values: Mapping[str, bytes | None], ttl_s: int) -> bool:
        """Set values that expire after `ttl_s`; None deletes the key.

        False if not all of it was confirmed.
        """

        async def set_all() -> bool:
            async with self._client.pipeline(transaction=False) as pipeline:
                for slot, value in values.items():
                    if value is None:
                        pipeline.delete(slot)
                    else:
                        pipeline.set(slot, value, ex=ttl_s)
                await pipeline.execute()
            return True

        return not values or bool(await self._call(set_all, WRITE_TIMEOUT_S))

    async def _call(self, ask: Callable[[], Awaitable[T]], within_s: float) -> T | None:
        now_s = asyncio.get_running_loop().time
        if now_s() < self._paused_until_s:
            self._observe("skipped")
            return None
        try:
            async with asyncio.timeout(within_s):
                answer = await ask()
        except (redis.RedisError, OSError, TimeoutError):
            # Otherwise the call began before the pause, and its failure is no news.
            if now_s() >= self._paused_until_s:
                self._failures += 1
                if self._failures >= _FAILURES:
                    self._paused_until_s = now_s() + self._pause_s
                    self._pause_s = min(_MAX_PAUSE_S, 2 * self._pause_s)
            self._observe("failed")
            return None
        self._failures = 0
        self._pause_s = _FIRST_PAUSE_S
        self._observe("ok")
        return answer


def tls_options(url: str, ca_file: str | None) -> dict[str, str]:
    """Return the TLS arguments for a connection to that URL."""
    return {"ssl_ca_certs": ca_file} if ca_file and url.startswith("rediss://") else {}


def redis_problem(url: str) -> str | None:
    """Return what is wrong with a URL, without repeating the URL."""
    try:
        pool = _pool(url, None)
        # This opens no connection, but rejects unknown options.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError):
        return "must be like redis://user:password@host:6379/0 (rediss:// for TLS)"
    return None


def _pool(url: str, ca_file: str | None) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=WRITE_TIMEOUT_S,
        socket_timeout=WRITE_TIMEOUT_S,
        socket_connect_timeout=WRITE_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),  # the next lead is the retry
        **tls_options(url, ca_file),
    )


@asynccontextmanager
async def redis_link(
    url: str,
    read_timeout_s: float,
    ca_file: str | None = None,
    observe: CallObserver = lambda _: None,
) -> AsyncIterator[RedisLink]:
    """Open a link to the Redis server at a URL, which holds the password.

    Connects at the first call.

    `ca_file`: PEM file of the authority of a `rediss://` server, if the system does not trust it.
    """
    pool = _pool(url, ca_file)
    client = Redis(connection_pool=pool)
    try:
        yield RedisLink(client, read_timeout_s, observe)
    finally:
        await client.aclose()
        await pool.aclose()


@dataclass(eq=False)
class RedisCache:
    """Cache entries under `<prefix><key>`. An entry expires `ttl_s` after its last change."""

    link: RedisLink
    prefix: str
    ttl_s: int

    async def find(self, slots: Sequence[str]) -> list[CacheEntry]:
        values = await self.link.read([self.prefix + slot for slot in slots])
        return [NOTHING_CACHED] * len(slots) if values is None else list(map(decode, values))

    async def add(self, changes: Sequence[tuple[str, CacheEntry]]) -> bool:
        """Merge changes into the stored entries.

        Only one worker writes a workspace, so the read cannot be outdated.
        """
        slots = list(dict.fromkeys(slot for slot, _ in changes))
        if not slots:
            return True
        values = await self.link.read([self.prefix + slot for slot in slots], patient=True)
        if values is None:
            return False
        after = merged(dict(zip(slots, values, strict=True)), changes)
        return await self.link.write(
            {self.prefix + slot: value for slot, value in after.items()},
            self.ttl_s,
        )

    async def forget(self, slots: Sequence[str]) -> bool:
        return await self.link.write({self.prefix + slot: None for slot in slots}, self.ttl_s)

    async def filled_to(self, partition: int) -> int | None:
        values = await self.link.read([self._mark(partition)], patient=True)
        if values is None:
            return None
        return int(values[0]) if values[0] and values[0].isdigit() else 0

    async def set_filled_to(self, partition: int, offset: int) -> bool:
        return await self.link.write({self._mark(partition): str(offset).encode()}, self.ttl_s)

    def _mark(self, partition: int) -> str:
        return f"{self.prefix}filled:{partition}"
