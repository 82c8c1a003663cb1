"""Each lane's state in a real Redis, for programs that ask before they publish."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client import CollectorRegistry

from stream_app.cache.mirror import TTL_S, RedisMirror
from stream_app.cache.redis import redis_link
from stream_app.config import load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.lane.meters import Meter
from stream_app.domain.lane.mirror import LaneMirror
from stream_app.domain.lane_messages import Actor, LaneView
from stream_app.ops import logs as log
from stream_app.ops.metrics import WorkerMetrics
from stream_app.services.worker import open_cache
from tests.integration.test_cache import PATIENT_S, eventually

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
