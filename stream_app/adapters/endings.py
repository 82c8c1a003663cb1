"""Whether Kafka has ended a producer's transactions in each partition, and the ending of those that it left open.

KRaft (Kafka 4.3.1) skips the end marker of a partition that has no leader at that moment
(KRaftMetadataCache.getPartitionLeaderEndpoint). The coordinator calls the transaction ended, and in that partition it
stays open, hidden from every reader, until its producer's next end marker, which decides over it, too: an abort takes
with it what was committed. So a transaction is over when its end was seen everywhere, no other is begun before, and
who takes over ends what was left open in the way in which its coordinator ended the rest.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream_app.adapters.transaction_requests import DescribeProducers, DescribeTransactions

NO_LEADER: Final = "has no leader: look at whether it exists, at the brokers that have it, and at their disks"
_LASTING: Final = (TopicAuthorizationFailedError, IncompatibleBrokerVersion)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1
_NEVER_SEEN: Final = 105  # TRANSACTIONAL_ID_NOT_FOUND
_ABORTED: Final = {"Ongoing", "PrepareAbort", "CompleteAbort", "PrepareEpochFence"}


class Last(NamedTuple):
    """The last transaction of a transactional id. `committed`: not aborted, and not still under way."""

    producer_id: int
    committed: bool


async def last_transaction(client: Any, transactional_id: str) -> Last | None:
    """As its coordinator knows it until the next fence; None for an id that was never used. Raises KafkaError.

    An id that was fenced and not used since counts as committed: who fenced it has ended what was left open.
    """
    node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    answer = await client.send(node, DescribeTransactions(transactional_id), group=ConnectionGroup.COORDINATION)
    ((code, _, state, _, _, producer_id, *_),) = answer.transactions
    if code == _NEVER_SEEN:
        return None
    if code:
        raise for_code(code)(f"the last transaction of {transactional_id}")
    return Last(producer_id, state not in _ABORTED)


async def open_at(client: Any, producer_id: int, places: Collection[TopicPartition]) -> list[TopicPartition]:
    """Where the producer's transaction is open, as the leaders say now. Raises KafkaError where one does not say."""
    if lost := without_leader(client, places):
        raise KafkaError(f"{', '.join(lost)} {NO_LEADER}")
    asked: dict[int, list[TopicPartition]] = defaultdict(list)
    for place in places:
        asked[client.cluster.leader_for_partition(place)].append(place)
    found: list[TopicPartition] = []
    for node, its in asked.items():
        request = DescribeProducers(producer_id, its)
        for place, code, is_open in request.read(await client.send(node, request)):
            if code:
                raise for_code(code)(f"{place.topic}/{place.partition}")
            if is_open:
                found.append(place)
    return found


async def ended(client: Any, producer_id: int, places: Collection[TopicPartition]) -> None:
    """Return once the producer's transaction is open nowhere there. Raises KafkaError where that can never be seen."""
    pause_s = _FIRST_PAUSE_S
    while True:
        await asyncio.sleep(pause_s)  # the markers are written behind the coordinator's answer
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        try:
            if not await open_at(client, producer_id, places):
                return
        except _LASTING:
            raise
        except KafkaError:
            client.force_metadata_update()


async def refresh(client: Any) -> None:
    """Read the metadata anew. Raises KafkaError where aiokafka's task for that has died, which it tells nobody."""
    update = client.force_metadata_update()
    await asyncio.wait({update, client._sync_task}, return_when=asyncio.FIRST_COMPLETED)
    if not update.done():
        raise KafkaConnectionError("no metadata could be read")


async def end_left_open(producer: AIOKafkaProducer, places: Collection[TopicPartition], committed: bool) -> None:
    """End there, with markers and nothing else, what Kafka forgot. Raises KafkaError."""
    await producer.begin_transaction()
    for place in places:
        producer._txn_manager.maybe_add_partition_to_txn(place)
    await (producer.commit_transaction() if committed else producer.abort_transaction())
    await ended(producer.client, producer_id(producer), places)


def producer_id(producer: AIOKafkaProducer) -> int:
    """The one that its fence gave it."""
    given: int = producer._txn_manager.producer_id
    return given


def without_leader(client: Any, places: Iterable[TopicPartition]) -> list[str]:
    """Those of the places that no broker leads, as far as the client knows."""
    leader = client.cluster.leader_for_partition
    return [f"{place.topic}/{place.partition}" for place in sorted(set(places)) if leader(place) in (None, -1)]
