"""Questions to a cluster of brokers, and how long a lane stopped while one of them was broken."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError

from stream_app.kafka.bounded_client import bind
from stream_app.kafka.connection import repeated
from tests.e2e.fleet import Request
from tests.support.kafka import admin
from tests.support.pace import BUSY


async def coordinator_of(bootstrap: str, key: str, kind: CoordinationType = CoordinationType.GROUP) -> int:
    """Return the node id of the coordinator of a group, or of a transactional id."""
    client = bind(AIOKafkaClient(bootstrap_servers=bootstrap))
    try:
        await client.bootstrap()
        return int(await repeated(lambda: client.coordinator_lookup(kind, key), 30))  # the first one makes the topic
    finally:
        await client.close()


async def all_in_sync(bootstrap: str, topics: Sequence[str], within_s: float) -> None:
    """Return when each partition of these topics has a leader, and all its replicas are in sync."""
    deadline, left = time.monotonic() + within_s * BUSY, ["no answer"]
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


def longest_stops(requests: Iterable[Request], lanes: Collection[str], from_ms: int, to_ms: int) -> dict[str, float]:
    """Return by lane the longest time in seconds without a request. The lanes have leads to send all that time."""
    marks: dict[str, list[int]] = defaultdict(lambda: [from_ms])
    for request in requests:
        if request.workspace in lanes and from_ms <= request.at_ms <= to_ms:
            marks[request.workspace or ""].append(request.at_ms)
    return {
        lane: max(after - before for before, after in zip(times, [*times[1:], to_ms], strict=True)) / 1000
        for lane in lanes
        for times in [sorted(marks[lane])]
    }
