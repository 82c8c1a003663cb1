"""Finds the partitions in which a transaction is open, as their leaders report it.

KRaft (Kafka 4.3.1) skips the end marker of a partition that has no leader at that moment
(KRaftMetadataCache.getPartitionLeaderEndpoint). The coordinator calls the transaction complete, and in that partition
it stays open until its producer's next end marker, which then ends it too. So a transaction is over only when its end
is visible in all partitions, and no other one starts before. partition/takeover.py ends transactions that were left
open.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream_app.kafka.protocol import DescribeProducers

NO_LEADER: Final = "has no leader: look at whether it exists, at the brokers that have it, and at their disks"
_LASTING: Final = (TopicAuthorizationFailedError, IncompatibleBrokerVersion)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1


async def ended(client: Any, producer_id: int, places: Collection[TopicPartition]) -> None:
    """Return once the producer has no open transaction there. Raises KafkaError if that cannot be determined."""
    pause_s = _FIRST_PAUSE_S
    while True:
        await asyncio.sleep(pause_s)  # the coordinator answers before the markers are written
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        try:
            if not await _is_open(client, producer_id, places):
                return
        except _LASTING:
            raise
        except KafkaError:
            client.force_metadata_update()


async def _is_open(client: Any, producer_id: int, places: Collection[TopicPartition]) -> bool:
    if lost := without_leader(client, places):
        raise KafkaError(f"{', '.join(lost)} {NO_LEADER}")
    asked: dict[int, list[TopicPartition]] = defaultdict(list)
    for place in places:
        asked[client.cluster.leader_for_partition(place)].append(place)
    is_open = False
    for node, led in asked.items():
        request = DescribeProducers(producer_id, led)
        for place, code, producers in request.read(await client.send(node, request)):
            if code:
                raise for_code(code)(f"{place.topic}/{place.partition}")
            is_open = is_open or bool(producers)
    return is_open


def producer_id(producer: AIOKafkaProducer) -> int:
    """Return the id that the fence assigned to the producer."""
    given: int = producer._txn_manager.producer_id
    return given


def without_leader(client: Any, places: Iterable[TopicPartition]) -> list[str]:
    """Return the partitions without a leader in the client's metadata."""
    leader = client.cluster.leader_for_partition
    return [f"{place.topic}/{place.partition}" for place in sorted(set(places)) if leader(place) in (None, -1)]
