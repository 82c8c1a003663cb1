"""Sends the requests of a take-over to Kafka: `steps.Transactions` on an aiokafka client.

Kafka may call a transaction complete although it left it open in a partition (`steps` says how). So
a transaction is over only when the leaders of all partitions report its end, and no other one
starts before that.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import TopicPartition, errors
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.transaction import (
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from stream_app.kafka.protocol import DescribeTransactions
from stream_app.kafka.takeover.refusals import Refusals
from stream_app.kafka.takeover.steps import LastTransaction, Producer, Stranded
from stream_app.kafka.takeover.view import ClusterView, PartitionProducers, answered, ask_producers

log = logging.getLogger(__name__)
_UNKNOWN_ID: Final = 105  # TRANSACTIONAL_ID_NOT_FOUND
_BUSY: Final = (errors.ConcurrentTransactions, errors.GroupLoadInProgressError)
_LASTING: Final = (errors.TopicAuthorizationFailedError, errors.IncompatibleBrokerVersion)
_FIRST_PAUSE_S = 0.005
_MAX_PAUSE_S = 0.1


@dataclass(eq=False)
class KafkaTransactions:
    """The requests for one transactional id. Each of them raises KafkaError.

    Attributes:
        client: The producer's BoundedClient.
        node: The coordinator of the id.
        transactional_id: The id.
        places: Returns all partitions to which its transactions write. It is called only after a
            crash.
        own: The one of these partitions to which no other transactional id writes.
        view: Looks at the partitions, together with other take-overs.
        refusals: Is told which partitions have an open transaction.
    """

    client: Any
    node: int
    transactional_id: str
    places: Callable[[], Collection[TopicPartition]]
    own: TopicPartition
    view: ClusterView
    refusals: Refusals

    async def look(self) -> tuple[LastTransaction, Stranded]:
        """Return the last transaction, and the partitions where it is still open.

        Two equal answers of the coordinator, one from before and one from after the question to the
        leaders, prove that no transaction began in between. The leaders are checked, because a
        broker that was frozen knows neither newer transactions nor its successor.
        """
        last = await self._last()
        while True:
            if last.is_decided:
                return last, {}
            if not last.state:  # Kafka has forgotten the id and its producer.
                return last, self._open(None, await self.view.producers([self.own]))
            places = self.places()
            seen = await self.view.producers(places)
            # After the answers, because the leaders may have changed before them.
            newest = await self.view.leaders({place.topic for place in places})
            newest.require({place: answer.node for place, answer in seen.items()})
            stranded = self._open(last.producer_id, seen)
            # Second look: an earlier owner that is not fenced yet may have begun or ended a
            # transaction since the first look. Then what is open may be that one, and not stranded.
            if not stranded or (again := await self._last()) == last:
                return last, stranded
            last = again

    async def open_places(self, producer_id: int) -> Stranded:
        return self._open(producer_id, await self.view.producers(self.places()))

    def _open(
        self,
        producer_id: int | None,
        seen: Mapping[TopicPartition, PartitionProducers],
    ) -> Stranded:
        """Return the places where a producer (None: any producer) has an open transaction.

        Returns:
            The first offset of that transaction by topic and partition.
        """
        begins_of: dict[tuple[str, int], int] = {}
        for place, producers in seen.items():
            if producers.open and (
                begins := [at for who, at in producers.open.items() if producer_id in (None, who)]
            ):
                begins_of[place] = min(begins)
        self.refusals.saw_open(TopicPartition(*place) for place in begins_of)
        return begins_of

    async def fence(self, timeout_ms: int) -> Producer | None:
        answer = await self._send(InitProducerIdRequest(self.transactional_id, timeout_ms))
        error = errors.for_code(answer.error_code)
        if error in _BUSY:
            return None
        if error is not errors.NoError:
            raise error(f"the fence of {self.transactional_id}")
        return Producer(answer.producer_id, answer.producer_epoch)

    async def end(self, last: LastTransaction, stranded: Stranded, *, committed: bool) -> None:
        """End a transaction in every partition.

        Both requests are written before either of them is answered, because an abort between them
        would undo a commit.
        """
        where = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(stranded))
        if where:
            how = "committed" if committed else "aborted"
            told = (
                "%s: Kafka did not end the last transaction in %s; ending it there as %s, as "
                "elsewhere"
            )
            log.warning(told, self.transactional_id, where, how)
        producer = (self.transactional_id, last.producer_id, last.epoch)
        topics: dict[str, list[int]] = defaultdict(list)
        for topic, partition in stranded:
            topics[topic].append(partition)
        requests: list[Any] = (
            [AddPartitionsToTxnRequest(*producer, list(topics.items()))] if topics else []
        )
        answers = await asyncio.gather(
            *map(self._send, [*requests, EndTxnRequest(*producer, committed)]),
        )
        codes = (
            [code for _, partitions in answers[0].errors for _, code in partitions]
            if topics
            else []
        )
        for code in [*codes, answers[-1].error_code]:
            error = errors.for_code(code)
            if error in _BUSY:
                return
            if error is not errors.NoError:
                raise error(
                    f"the end of the last transaction of {self.transactional_id} in "
                    f"{where or 'all of it'}",
                )

    async def _last(self) -> LastTransaction:
        answer = await self._send(DescribeTransactions(self.transactional_id))
        ((code, _, state, timeout_ms, started_ms, producer_id, epoch, *_),) = answer.transactions
        if code == _UNKNOWN_ID:
            return LastTransaction()
        if code:
            raise errors.for_code(code)(f"the last transaction of {self.transactional_id}")
        return LastTransaction(state, producer_id, epoch, timeout_ms, started_ms)

    async def _send(self, request: Any) -> Any:
        return await self.client.send(self.node, request, group=ConnectionGroup.COORDINATION)


async def ended(client: Any, producer_id: int, places: Collection[TopicPartition]) -> None:
    """Return once the producer has no open transaction in these partitions.

    Raises:
        KafkaError: That cannot be determined.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        # Before the first question, too: the coordinator answers before the markers are written.
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)
        try:
            seen = answered(places, await ask_producers(client, producer_id, places))
            if not any(producers.open for producers in seen.values()):
                return
        except _LASTING:
            raise
        except (errors.KafkaError, OSError):
            client.force_metadata_update()
