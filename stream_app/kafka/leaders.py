"""Checks which broker leads a partition.

A broker that was frozen for long still believes that it is the leader when it resumes. Until it has read the cluster's
metadata, it answers reads from a log in which newer records are missing, and names itself the leader. State that was
read there would miss leads that were sent. Writes are safe, because they need the other replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import NotLeaderForPartitionError

from stream_app.kafka.protocol import Metadata

_WITHIN_S: Final = 1.0


class NewestLeaders(NamedTuple):
    """What the brokers know of the leaders of partitions.

    Attributes:
        leaders: The leader with the highest epoch. Brokers older than Kafka 2.8 do not send epochs; then it is empty.
        topics: Broker -> the topics that it described, each as an answer to Metadata has it.
    """

    leaders: Mapping[TopicPartition, int]
    topics: Mapping[int, Sequence[Mapping[str, Any]]]

    def require(self, nodes: Mapping[TopicPartition, int]) -> None:
        """Check that no broker knows of later leaders than the brokers that these partitions were read from.

        Raises:
            NotLeaderForPartitionError: Another broker leads one of them.
        """
        for place, node in nodes.items():
            if self.leaders.get(place, node) != node:
                raise NotLeaderForPartitionError(f"{place.topic}/{place.partition} was read from broker {node}")


async def newest_leaders(client: Any, topics: Iterable[str]) -> NewestLeaders:
    """Ask all brokers of a BoundedClient. Those that do not answer within a second are left out."""
    request = Metadata(sorted(topics))
    asked = {
        broker.nodeId: asyncio.create_task(client.send(broker.nodeId, request)) for broker in client.cluster.brokers()
    }
    try:
        if asked:
            await asyncio.wait(asked.values(), timeout=_WITHIN_S)
        answered = {node: task for node, task in asked.items() if task.done() and task.exception() is None}
    finally:
        for task in asked.values():
            task.cancel()
    described = {node: task.result().to_object()["topics"] for node, task in answered.items()}
    known: dict[TopicPartition, tuple[int, int]] = {}
    for answer in described.values():
        for place, leader in _leaders(answer):
            known[place] = max(leader, known.get(place, leader))
    return NewestLeaders({place: leader for place, (_, leader) in known.items()}, described)


def _leaders(topics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[TopicPartition, tuple[int, int]]]:
    """Yield each partition with its leader's epoch and the leader, as one broker knows them."""
    for topic in topics:
        for partition in topic["partitions"]:
            if "leader_epoch" in partition:
                place = TopicPartition(topic["topic"], partition["partition"])
                yield place, (partition["leader_epoch"], partition["leader"])
