"""Builds the worker's cache, the task that fills it, and the mirror of its lanes, with or without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client import CollectorRegistry, Counter

from stream_app.cache.filler import CacheFiller
from stream_app.cache.memory import MemoryCache
from stream_app.config import Settings
from stream_app.domain.result.cache_entry import DAY_MS
from stream_app.kafka.connection import KafkaConnection
from stream_app.ops import logs as log
from stream_app.ops.metrics import WorkerMetrics
from stream_app.partition.fallback import Cache

if TYPE_CHECKING:
    from stream_app.cache.mirror import RedisMirror

PREFIX: Final = "stream-app:"
"""Prefix of every key in Redis, after the namespace."""

_PAUSE_S: Final = 30.0


class WorkerCache(msgspec.Struct, frozen=True):
    """The cache of a worker. With Redis, also the mirror of its lanes."""

    cache: Cache
    mirror: RedisMirror | None
    settings: Settings

    def tasks(
        self, connection: KafkaConnection, owned: Callable[[], Collection[int]], now_ms: Callable[[], int]
    ) -> list[Coroutine[Any, Any, None]]:
        """Return the background tasks. `owned` returns the partitions that this worker owns now."""
        settings = self.settings
        topic, partitions = settings.names.enriched, settings.kafka.partitions
        filler = CacheFiller(connection, topic, partitions, self.cache, settings.cache, owned, now_ms)
        runs = [filler.run, *([self.mirror.run] if self.mirror else [])]
        return [_restarted(run) for run in runs]


async def _restarted(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run until cancelled. An error of the cache affects no lead: it is logged, and the task restarts."""
    while True:
        try:
            await run()
        except Exception as bug:  # noqa: BLE001 - a cache that fails must not end the worker
            log.get("cache").error("cache_trouble", error=type(bug).__name__, exc_info=True)
        await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def open_cache(
    settings: Settings, registry: CollectorRegistry, metrics: WorkerMetrics
) -> AsyncIterator[WorkerCache]:
    """Open the cache of one worker. Redis may be unavailable at any time."""
    if settings.redis.url_env is None:
        yield WorkerCache(MemoryCache(), None, settings)
        return
    from stream_app.cache.mirror import RedisMirror  # 8 % of the imports of a worker that uses no Redis
    from stream_app.cache.redis import RedisCache, redis_link

    calls = Counter(
        "stream_app_redis_calls",
        "Calls to Redis: ok, failed, or skipped for a while because several failed.",
        ("outcome",),
        registry=registry,
    )
    prefix = settings.kafka.namespace + PREFIX
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(
            redis_link(
                settings.secrets[settings.redis.url_env],
                settings.redis.timeout_s,
                settings.redis.ca_file,
                lambda outcome: calls.labels(outcome).inc(),
            )
        )
        mirror = RedisMirror(link, prefix)
        metrics.mirror_lanes(mirror)
        ttl_s = int(settings.cache.stale_days * DAY_MS / 1000)
        yield WorkerCache(RedisCache(link, prefix, ttl_s), mirror, settings)
