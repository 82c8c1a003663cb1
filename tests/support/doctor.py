"""A configuration for the doctor that points to services of this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer

from stream_app.config import Settings, load_settings
from tests.gateway.support import NEW_KEY, OLD_KEY
from tests.support.config import NO_BOARD
from tests.support.pace import BUSY


def settings_for(
    folder: Path,
    bootstrap: str,
    namespace: str,
    *,
    webhook: str = "http://127.0.0.1:1/v3/sources/webhook/x",
    public_url: str = "http://127.0.0.1:1",
    redis_url: str = "",
    key: str = NEW_KEY,
    more: str = "",
    proxy: str = "",
) -> Settings:
    """Workspace acme with the destination people, as in tests.gateway.support."""
    redis = '[redis]\nurl_env = "REDIS"' if redis_url else ""
    if proxy:
        more += '\n[egress]\nproxy_env = "PROXY"\n'
    board = "" if "[board]" in more else NO_BOARD
    path = folder / "stream_app.toml"
    path.write_text(
        f"""
[kafka]
bootstrap = "{bootstrap}"
namespace = "{namespace}"
partitions = 4
replication = 1
[gateway]
public_url = "{public_url}"
token_keys_env = ["KEY", "OLD_KEY"]
{redis}
{board}
[workspaces.acme]
budget.unlimited = true
partition = 2
[destinations.people]
workspace = "acme"
webhooks_env = ["WEBHOOK"]
allowed_hosts = ["127.0.0.1", "localhost", "api.clay.com"]
{more}
""",
    )
    environ = {
        "WEBHOOK": webhook,
        "FIRMS": f"{webhook}-firms",
        "REDIS": redis_url,
        "KEY": key,
        "OLD_KEY": OLD_KEY,
    }
    environ["PROXY"] = proxy
    return load_settings(path, environ, ("clay", "gateway"))


@asynccontextmanager
async def in_groups(settings: Settings) -> AsyncIterator[None]:
    """One member in the group of the workers, and one in that of the replay processes."""
    names = settings.names
    async with AsyncExitStack() as stack:
        for topic, group in ((names.leads, names.worker_app), (names.dlq, names.replay_app)):
            consumer = AIOKafkaConsumer(
                topic,
                bootstrap_servers=settings.kafka.bootstrap,
                group_id=group,
                enable_auto_commit=False,
            )
            await stack.enter_async_context(consumer)
            async with asyncio.timeout(30 * BUSY):
                while not consumer.assignment():
                    await consumer.getmany(timeout_ms=100)
        yield
