"""A feed on real Kafka for tests.

As a program (arguments: bootstrap, namespace, file) it is a feed to be killed.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer

from stream_app.board.read_model.follow import Projection
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import Sources
from stream_app.domain.model.topics import Retention, TopicNames, plan
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.topics import create_topics
from stream_app.ops import logs as log
from tests.board.model_records import PARTITIONS, Made, sources
from tests.support.kafka import until


class Fed:
    """The running feed, and questions to its model."""

    def __init__(self, feed: Projection, ask: Queries) -> None:
        self.feed = feed
        self.ask = ask

    async def up_to_date(self, within_s: float = 30) -> None:
        """Wait until the model has all that is on Kafka now."""
        now_ms = time.time_ns() // 1_000_000
        await until(
            lambda: (self.feed.lag.as_of_ms or 0) >= now_ms,
            within_s,
            "the model's being up to date",
        )


async def make_topics(bootstrap: str, namespace: str) -> None:
    from_plan = sources(namespace)
    topics = plan(from_plan.names, PARTITIONS, 1, from_plan.kept, ())
    await create_topics(KafkaConnection(bootstrap), topics, 30, lambda _: None)


async def write(bootstrap: str, records: Iterable[Made]) -> None:
    """Write the records, each to its partition."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5) as producer:
        for record in records:
            await producer.send(
                record.topic,
                record.value,
                record.key,
                record.partition,
                headers=list(record.headers),
            )


@asynccontextmanager
async def fed(bootstrap: str, namespace: str, path: Path) -> AsyncIterator[Fed]:
    """Run a feed.

    It keeps records for long, because they are of a day long ago and its clock is real.
    """
    kept = Retention(status_days=3_650, dlq_days=3_650, parked_days=3_650)
    lasting = Sources(TopicNames(namespace), PARTITIONS, kept, frozenset({"acme"}))
    feed = Projection(KafkaConnection(bootstrap), lasting, path, log.get("test"))
    task = asyncio.create_task(feed.run())
    try:
        yield Fed(feed, Queries(path, set()))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(bootstrap: str, namespace: str, path: Path) -> None:
    async with fed(bootstrap, namespace, path):
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
