"""Faust apps in this process with topics of their own, and handlers and owners that record all
calls.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from stream_app.config import Kafka
from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import ConsumedRecord
from stream_app.faust_app.app import build_app
from stream_app.faust_app.stream import PartitionStream
from stream_app.kafka.connection import KafkaConnection
from tests.support.apps import Handler, app_with
from tests.support.kafka import committed, create_topics
from tests.support.pace import BUSY

PARTITIONS = 4


class Owner:
    """Records each call, with the number of events seen at that time."""

    def __init__(self) -> None:
        self.owned: set[int] = set()
        self.rows: dict[bytes, bytes] = {}
        self.calls: list[tuple[str, set[int]]] = []
        self.taking_s = 0.0

    async def assigned(self, partitions: set[int]) -> None:
        assert not partitions & self.owned
        self.calls.append(("assigned", partitions))
        await asyncio.sleep(self.taking_s)
        self.owned |= partitions

    async def revoked(self, partitions: set[int]) -> None:
        self.calls.append(("revoked", partitions))
        self.owned -= partitions


class Recorder:
    """A handler that keeps the records, and acks at once unless `work` does something else."""

    def __init__(self, owner: Owner | None = None) -> None:
        self.consumed: list[ConsumedRecord] = []
        self.streams: list[PartitionStream] = []
        self.owner = owner

    async def __call__(self, stream: PartitionStream) -> None:
        self.streams.append(stream)
        async for consumed in stream:
            assert self.owner is None or consumed.partition in self.owner.owned
            self.consumed.append(consumed)
            await self.work(stream, consumed)

    async def work(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
        await stream.ack(consumed)

    @property
    def values(self) -> list[bytes | None]:
        return [consumed.value for consumed in self.consumed]


class FaustBench:
    """Topics `leads`, `bulk` and `state` of one namespace, and apps on them."""

    def __init__(self, kafka: Broker, namespace: str) -> None:
        self.bootstrap = kafka.bootstrap
        self.leads = f"{namespace}leads"
        self.bulk = f"{namespace}bulk"
        self.state = f"{namespace}state"
        self.group = namespace + "group"

    def app(self, handlers: dict[str, Handler], owner: Owner | None = None) -> Any:
        times = Kafka(partitions=PARTITIONS, session_timeout_s=6, rebalance_timeout_s=90)
        app = build_app(self.group, KafkaConnection(self.bootstrap), times)
        app.conf.broker_commit_interval = 0.1
        return app_with(app, handlers, owner, self.state)

    async def committed(self) -> dict[tuple[str, int], int]:
        return await committed(self.bootstrap, self.group)


async def make_bench(kafka: Broker, namespace: str) -> FaustBench:
    made = FaustBench(kafka, namespace)
    await create_topics(kafka.bootstrap, made.leads, made.bulk, made.state, partitions=PARTITIONS)
    return made


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[Any]:
    """Run the app and stop it cleanly at the end."""
    starting = asyncio.create_task(app.start())
    try:
        yield app
    finally:
        starting.cancel()
        async with asyncio.timeout(20 * BUSY):
            await asyncio.wait({starting})
            await app.stop()
            await app.gaps.close()
