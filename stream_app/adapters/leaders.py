"""Which broker leads a partition. One that was frozen for long believes for a moment, once it goes on, that it does.

Until it has read the cluster's metadata again it answers from its log, in which all that was written meanwhile is
missing, and it names itself the leader to each client that asks it. Rows that were read there forget leads that were
sent. A write cannot go wrong like that: it needs the other replicas.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import NotLeaderForPartitionError

from stream_app.adapters.topic_ids import Metadata

_WITHIN_S: Final = 1.0


async def require_leader(client: Any, place: TopicPartition, node: int) -> None:
    """Return when no broker knows of a later leader of `place` than `node`.

    Brokers older than Kafka 2.8 do not say how new what they know is; then nothing is required.

    Args:
        client: A BoundedClient.
        place: A partition.
        node: The broker that it was read from.

    Raises:
        NotLeaderForPartitionError: Another broker leads it.
    """
    asked = [
        asyncio.create_task(client.send(broker.nodeId, Metadata([place.topic]))) for broker in client.cluster.brokers()
    ]
    try:
        done, _ = await asyncio.wait(asked, timeout=_WITHIN_S)
    finally:
        for task in asked:
            task.cancel()
    known = [leader for task in done if task.exception() is None for leader in _leaders(task.result(), place)]
    _, leader = max(known, default=(0, node))
    if leader != node:
        raise NotLeaderForPartitionError(f"{place.topic}/{place.partition} was read from broker {node}")


def _leaders(answer: Any, place: TopicPartition) -> list[tuple[int, int]]:
    """The leader's epoch, and who it is, as one broker knows it."""
    return [
        (partition["leader_epoch"], partition["leader"])
        for topic in answer.to_object()["topics"]
        if topic["topic"] == place.topic
        for partition in topic["partitions"]
        if partition["partition"] == place.partition and "leader_epoch" in partition
    ]
