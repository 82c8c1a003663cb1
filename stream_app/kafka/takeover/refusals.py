"""Remembers what brokers refuse a transactional producer, because aiokafka retries silently.

It relies on the fact that all requests of aiokafka 0.14.0's sender go through the `send` of its
client, which tests/unit/kafka/test_faust_pins.py pins.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from aiokafka import TopicPartition, errors
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from stream_app.kafka.protocol import DescribeProducers
from stream_app.kafka.takeover.view import NO_LEADER, without_leader

_SILENT_S = 0.5  # aiokafka repeats a refused request much sooner.
_UNWRITABLE = (
    ", its log cannot be written: look at its broker's disk, and restart that when there is room"
)
_TOO_FEW = (
    ", fewer of its replicas are in sync than min.insync.replicas: look at the brokers that have it"
)
_WHAT_TO_DO = {
    errors.NotEnoughReplicasError: _TOO_FEW,
    errors.NotEnoughReplicasAfterAppendError: _TOO_FEW,
    errors.KafkaStorageError: _UNWRITABLE,
}
_LOOK = "takes no records: look at its brokers, at their disks, and for too few replicas in sync"
_OF_THE_WHOLE = {
    FindCoordinatorRequest: "the search for the coordinator",
    InitProducerIdRequest: "the fence",
    EndTxnRequest: "the end of the transaction",
}


class Refusals:
    """The refusals of one producer that are not resolved.

    It reads a few answers of each transaction, and no records.
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._last: dict[str, type[Exception]] = {}
        self._unanswered: dict[object, float] = {}
        self._open: set[TopicPartition] = set()
        self._held_by = ""

    def watch(self, client: Any) -> None:
        """Watch this client, and forget everything about earlier ones."""
        # Each client fills collections of its own: the answer to a request of an earlier client may
        # come late, and says nothing about this client.
        last: dict[str, type[Exception]] = {}
        unanswered: dict[object, float] = {}
        still_open: set[TopicPartition] = set()
        now = asyncio.get_running_loop().time
        send = client.send

        async def watched(node_id: int, request: Any, **how: Any) -> Any:
            mark = object()
            unanswered[mark] = now()  # The mark stays if the caller stops waiting.
            try:
                answer = await send(node_id, request, **how)
            except errors.KafkaError:
                del unanswered[mark]
                raise
            del unanswered[mark]
            if isinstance(request, DescribeProducers):
                for place, _, producers in request.read(answer):
                    (still_open.add if producers else still_open.discard)(place)
            for what, code in _codes(request, answer):
                error = errors.for_code(code)
                # DuplicateSequenceNumber says that the broker has the batch already.
                if error in (errors.NoError, errors.DuplicateSequenceNumber):
                    last.pop(what, None)
                else:
                    last[what] = error
            return answer

        client.send = watched
        self._client = client
        self._last = last
        self._unanswered = unanswered
        self._open = still_open

    def saw_open(self, places: Iterable[TopicPartition]) -> None:
        """Note that another client found transactions of this producer open at these places."""
        self._open.update(places)

    def committed(self) -> None:
        self._held_by = ""

    def text(self, places: Iterable[TopicPartition] = ()) -> str:
        """Return why a transaction to these partitions, or the fence, makes no progress.

        It is '' if Kafka is silent, because then nothing was refused.
        """
        silent_since = asyncio.get_running_loop().time() - _SILENT_S
        if any(asked_at < silent_since for asked_at in self._unanswered.values()):
            return ""
        refused = [
            f"{what}: {error.__name__}{_WHAT_TO_DO.get(error, '')}"
            for what, error in self._last.items()
            if error is not errors.ConcurrentTransactions
        ] or [f"{place} {NO_LEADER}" for place in without_leader(self._client, places)]
        if refused:
            self._held_by = "; ".join(refused)
        elif self._open or self._last:
            where = ", ".join(f"{place.topic}/{place.partition}" for place in sorted(self._open))
            held_by = self._held_by or f"{where or 'one of them'} {_LOOK}"
            return (
                "Kafka has not ended the last transaction (ConcurrentTransactions): the end "
                "must be written to each "
                f"topic of it, and {held_by}"
            )
        return "; ".join(refused)


def _codes(request: Any, answer: Any) -> Iterator[tuple[str, int]]:
    """Yield a description of each part of a request, and the error code of its answer."""
    if isinstance(request, ProduceRequest):
        for topic, partitions in answer.topics:
            for partition, code, *_ in partitions:
                yield f"{topic}/{partition} did not take it", code
    elif isinstance(request, AddPartitionsToTxnRequest):
        for topic, partitions in answer.errors:
            for partition, code in partitions:
                yield f"{topic}/{partition} did not join the transaction", code
    elif type(request) in _OF_THE_WHOLE:
        yield _OF_THE_WHOLE[type(request)], answer.error_code
