"""Checks which broker leads a partition.

A broker that was frozen for long still believes that it is the leader when it resumes. Until it has read the cluster's
metadata, it answers reads from a log in which newer records are missing, and names itself the leader. State that was
read there would miss leads that were sent. Writes are safe, because they need the other replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import NotLeaderForPartitionError

from stream_app.kafka.protocol import Metadata

_WITHIN_S: Final = 1.0


async def require_leader(client: Any, place: TopicPartition, node: int) -> None:
    """Check one partition as `require_leaders` does."""
    await require_leaders(client, {place: node})


async def require_leaders(client: Any, nodes: Mapping[TopicPartition, int]) -> None:
    """Return if no broker knows of later leaders than `nodes`.

    Brokers older than Kafka 2.8 do not send the leader's epoch; then nothing is checked.

    Args:
        client: A BoundedClient.
        nodes: Partitions, each with the broker that it was read from.

    Raises:
        NotLeaderForPartitionError: Another broker leads one of them.
    """
    request = Metadata(sorted({place.topic for place in nodes}))
    asked = [asyncio.create_task(client.send(broker.nodeId, request)) for broker in client.cluster.brokers()]
    try:
        done, _ = await asyncio.wait(asked, timeout=_WITHIN_S)
    finally:
        for task in asked:
            task.cancel()
    known: dict[TopicPartition, tuple[int, int]] = {}
    for task in done:
        if task.exception() is None:
            for place, leader in _leaders(task.result()):
                known[place] = max(leader, known.get(place, leader))
    for place, node in nodes.items():
        if known.get(place, (0, node))[1] != node:
            raise NotLeaderForPartitionError(f"{place.topic}/{place.partition} was read from broker {node}")


def _leaders(answer: Any) -> Iterator[tuple[TopicPartition, tuple[int, int]]]:
    """Yield each partition with its leader's epoch and the leader, as one broker knows them."""
    for topic in answer.to_object()["topics"]:
        for partition in topic["partitions"]:
            if "leader_epoch" in partition:
                place = TopicPartition(topic["topic"], partition["partition"])
                yield place, (partition["leader_epoch"], partition["leader"])
