"""Questions to a cluster of brokers."""

import asyncio
import time
from collections.abc import Sequence

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError

from stream_app.kafka.bounded_client import bind
from stream_app.kafka.connection import repeated
from tests.support.kafka import admin
from tests.support.pace import BUSY


async def coordinator_of(
    bootstrap: str,
    key: str,
    kind: CoordinationType = CoordinationType.GROUP,
) -> int:
    """Return the node id of the coordinator of a group, or of a transactional id."""
    client = bind(AIOKafkaClient(bootstrap_servers=bootstrap))
    try:
        await client.bootstrap()
        # the first one makes the topic
        return int(await repeated(lambda: client.coordinator_lookup(kind, key), 30))
    finally:
        await client.close()


async def all_in_sync(bootstrap: str, topics: Sequence[str], within_s: float) -> None:
    """Return when each partition of these topics has a leader, and all its replicas are in sync."""
    deadline = time.monotonic() + within_s * BUSY
    left = ["no answer"]
    async with admin(bootstrap) as client:
        while left:
            assert time.monotonic() < deadline, f"not in sync within {within_s} s: {left[:3]}"
            await asyncio.sleep(0.5)
            try:
                left = [
                    f"{topic['topic']}/{partition['partition']}"
                    for topic in await client.describe_topics(topics)
                    for partition in topic["partitions"]
                    if partition["leader"] < 0 or len(partition["isr"]) < len(partition["replicas"])
                ]
            except KafkaError as error:
                left = [repr(error)]
