"""Sends the requests of a take-over to Kafka: `partition.takeover.Transactions` on an aiokafka client."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import ConcurrentTransactions, GroupLoadInProgressError, NoError, for_code
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from stream_app.domain.stranded import LastTransaction, Stranded
from stream_app.kafka.leaders import require_leaders
from stream_app.kafka.protocol import DescribeTransactions
from stream_app.kafka.stranded import open_at
from stream_app.partition.takeover import Producer

log = logging.getLogger(__name__)

_UNKNOWN_ID: Final = 105  # TRANSACTIONAL_ID_NOT_FOUND
_BUSY: Final = (ConcurrentTransactions, GroupLoadInProgressError)


class KafkaTransactions:
    """The transactions of one transactional id. Each request raises KafkaError.

    Args:
        client: A BoundedClient.
        node: The coordinator of the transactional id.
        transactional_id: The id.
        places: All partitions that its transactions write to.
        own: One of them, to which no other transactional id writes.
    """

    def __init__(
        self, client: Any, node: int, transactional_id: str, places: Collection[TopicPartition], own: TopicPartition
    ) -> None:
        self.transactional_id = transactional_id
        self._client = client
        self._node = node
        self._places = places
        self._own = own

    async def look(self) -> tuple[LastTransaction, Stranded]:
        """Return the last transaction, and the partitions where it is still open.

        Two equal answers of the coordinator, one before and one after the question to the leaders, prove that no
        transaction began in between. The leaders are checked, because a broker that was frozen knows neither newer
        transactions nor its successor.
        """
        last = await self._last()
        while True:
            if last.is_decided:
                return last, {}
            if not last.state:  # Kafka has forgotten the id, and with it the producer
                return last, await open_at(self._client, None, [self._own])
            leader = self._client.cluster.leader_for_partition
            asked = {place: leader(place) for place in self._places}
            stranded = await self.open_places(last.producer_id)
            await require_leaders(self._client, asked)
            if not stranded or (again := await self._last()) == last:
                return last, stranded
            last = again

    async def open_places(self, producer_id: int) -> Stranded:
        return await open_at(self._client, producer_id, self._places)

    async def fence(self, timeout_ms: int) -> Producer | None:
        answer = await self._send(InitProducerIdRequest(self.transactional_id, timeout_ms))
        error = for_code(answer.error_code)
        if error in _BUSY:
            return None
        if error is not NoError:
            raise error(f"the fence of {self.transactional_id}")
        return Producer(answer.producer_id, answer.producer_epoch)

    async def end(self, last: LastTransaction, stranded: Stranded, *, committed: bool) -> None:
        """End a transaction everywhere.

        Both requests are written before either is answered, because an abort between them would undo a commit.
        """
        where = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(stranded))
        if where:
            how = "committed" if committed else "aborted"
            log.warning(
                "%s: Kafka did not end the last transaction in %s; ending it there as %s, as elsewhere",
                *(self.transactional_id, where, how),
            )
        producer = (self.transactional_id, last.producer_id, last.epoch)
        topics: dict[str, list[int]] = defaultdict(list)
        for topic, partition in stranded:
            topics[topic].append(partition)
        requests: list[Any] = [AddPartitionsToTxnRequest(*producer, list(topics.items()))] if topics else []
        answers = await asyncio.gather(*map(self._send, [*requests, EndTxnRequest(*producer, committed)]))
        codes = [code for _, partitions in answers[0].errors for _, code in partitions] if topics else []
        for code in [*codes, answers[-1].error_code]:
            error = for_code(code)
            if error in _BUSY:
                return
            if error is not NoError:
                raise error(f"the end of the last transaction of {self.transactional_id} in {where or 'all of it'}")

    async def _last(self) -> LastTransaction:
        answer = await self._send(DescribeTransactions(self.transactional_id))
        ((code, _, state, timeout_ms, started_ms, producer_id, epoch, *_),) = answer.transactions
        if code == _UNKNOWN_ID:
            return LastTransaction()
        if code:
            raise for_code(code)(f"the last transaction of {self.transactional_id}")
        return LastTransaction(state, producer_id, epoch, timeout_ms, started_ms)

    async def _send(self, request: Any) -> Any:
        return await self._client.send(self._node, request, group=ConnectionGroup.COORDINATION)
