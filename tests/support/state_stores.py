"""Transactional states of a test on a real Kafka, with their topics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from tests.support.kafka import create_topics, read_committed

Seen = list[tuple[bytes | None, bytes | None]]


class KafkaHarness:
    limits = StateStoreLimits(
        take_over_s=20,
        transact_s=5,
        abort_s=1,
        request_s=5,
        max_record_bytes=50_000,
    )

    def __init__(self, bootstrap: str, namespace: str) -> None:
        self.bootstrap = bootstrap
        self.rows = namespace + "state"
        self.events = namespace + "events"
        self.tight = namespace + "tight"
        self.made: list[TransactionalState] = []

    def store(
        self,
        partition: int = 0,
        limits: StateStoreLimits | None = None,
    ) -> TransactionalState:
        connection = KafkaConnection(self.bootstrap)
        name = f"{self.rows}-{partition}"
        events = [(self.events, 0), (self.events, 1), (self.tight, partition)]
        self.made.append(
            TransactionalState(
                connection,
                name,
                self.rows,
                partition,
                limits or self.limits,
                writes_to=events,
            ),
        )
        return self.made[-1]

    async def seen(self, topic: str, partition: int = 0) -> Seen:
        return await read_committed(self.bootstrap, topic, partition)


@asynccontextmanager
async def on(bootstrap: str, namespace: str) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(bootstrap, namespace)
    await create_topics(bootstrap, harness.rows, harness.events, partitions=2)
    await create_topics(
        bootstrap,
        harness.tight,
        partitions=2,
        config={"max.message.bytes": "1000"},
    )
    yield harness
    await asyncio.gather(*(store.close() for store in harness.made))
