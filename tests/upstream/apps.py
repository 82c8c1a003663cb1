"""The same small app on stock Faust and on ours, so that one scenario can be played on both."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import faust

from stream_app.config import Kafka
from stream_app.faust_app.app import build_app
from stream_app.faust_app.stream import PartitionStream
from stream_app.kafka.connection import KafkaConnection
from tests.support.apps import app_with
from tests.support.faust_bench import Owner
from tests.support.kafka import until
from tests.support.pace import BUSY

Ack = Callable[[], Awaitable[object]]
Work = Callable[[int, Ack], Awaitable[None]]
"""What is done with an event: its offset, and how to ack it."""

Build = Callable[[str, str, Work, float], Any]
"""From bootstrap, namespace, work and commit interval to an app on `<namespace>leads` with a table;
one partition.
"""


def stock(bootstrap: str, namespace: str, work: Work, commit_interval_s: float) -> Any:
    app = faust.App(
        namespace + "stock",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        topic_partitions=1,
        topic_disable_leader=True,
        web_enabled=False,
        broker_commit_interval=commit_interval_s,
        stream_recovery_delay=0,
    )
    app._create_directories = lambda: None
    app.Table("counts", partitions=1)
    topic = app.topic(namespace + "leads", key_type=bytes, value_type=bytes, value_serializer="raw")

    async def agent(stream: Any) -> None:
        acking = stream.noack()
        async for event in acking.events():
            await work(event.message.offset, functools.partial(acking.ack, event))

    app.agent(topic)(agent)
    return app


def ours(bootstrap: str, namespace: str, work: Work, commit_interval_s: float) -> Any:
    async def handler(stream: PartitionStream) -> None:
        async for consumed in stream:
            await work(consumed.offset, functools.partial(stream.ack, consumed))

    times = Kafka(partitions=1, session_timeout_s=15, rebalance_timeout_s=90)
    app = build_app(namespace + "ours", KafkaConnection(bootstrap), times)
    app.conf.broker_commit_interval = commit_interval_s
    return app_with(app, {namespace + "leads": handler}, Owner(), namespace + "state")


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[None]:
    starting = asyncio.create_task(app.start())
    try:
        yield
    finally:
        starting.cancel()
        async with asyncio.timeout(30 * BUSY):
            await asyncio.wait({starting})
            await app.stop()


async def rebalance(app: Any) -> None:
    """Have the group rebalance as when a member joins or leaves, and return when the app has the
    next generation.
    """
    thread = app.consumer._thread
    generation = app.consumer_generation_id
    thread.thread_loop.call_soon_threadsafe(thread._consumer._coordinator.request_rejoin)
    await until(lambda: app.consumer_generation_id != generation, what="a rebalance")
