"""Runs one transaction on an aiokafka producer, and closes such a producer in any state.

Relies on the insides of aiokafka 0.14.0, which tests/unit/kafka/test_faust_pins.py pins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, InvalidProducerIdMapping, KafkaError, ProducerFenced

from stream_app.kafka.connection import forget_dead
from stream_app.kafka.takeover.requests import ended, producer_id
from stream_app.tasks import retrieve

_FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping)

Batch = tuple[Any, str, int]
"""A filled batch of `create_batch`, its topic and its partition."""


async def commit(producer: AIOKafkaProducer, batches: Sequence[Batch]) -> None:
    """Begin, send all, commit, and wait until the end is visible in all partitions.

    Where the transaction is still open, an abort of the next one would undo it.

    Raises:
        KafkaError: A step failed. It is unknown whether the transaction is committed.
    """
    await producer.begin_transaction()
    sent: dict[asyncio.Future[Any], str] = {}
    for builder, topic, partition in batches:
        future = await producer.send_batch(builder, topic, partition=partition)
        future.add_done_callback(retrieve)
        sent[future] = f"{topic}/{partition}"
    # aiokafka commits a transaction even if some of its batches failed. Only these futures show the failure.
    done, _ = await asyncio.wait(sent, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        if (error := future.exception()) is not None:
            raise KafkaError(f"{sent[future]} did not take it: {error!r}") from error
    await producer.commit_transaction()
    await ended(producer.client, producer_id(producer), places(batches))


def places(batches: Iterable[Batch]) -> set[TopicPartition]:
    """Return the partitions of the batches."""
    return {TopicPartition(topic, partition) for _, topic, partition in batches}


def is_fenced(producer: AIOKafkaProducer, error: BaseException | None) -> bool:
    """Return True if `error` or the failure of the producer's sender means that a later producer has this id.

    The sender is asked too, because aiokafka hands out copies of its failure that have lost their cause. An unknown
    producer id counts as fenced: the id has expired, so another producer may have taken it.
    """
    for start in (error, _died_of(producer)):
        link = start
        while link is not None:
            if isinstance(link, _FENCED):
                return True
            link = link.__cause__ or link.__context__
    return False


def describe_failure(producer: AIOKafkaProducer, error: BaseException) -> str:
    """Describe an error for a person. The sender's own failure comes first: aiokafka hides its cause elsewhere."""
    died_of = _died_of(producer)
    if died_of is not None:
        why = died_of.__cause__ or died_of
        return f"aiokafka's producer ended with {why!r}: look at the brokers, and at their logs"
    return str(error) if isinstance(error, KafkaError) else repr(error)


def _died_of(producer: AIOKafkaProducer) -> BaseException | None:
    sender = producer._sender.sender_task
    return sender.exception() if sender is not None and sender.done() and not sender.cancelled() else None


async def end(producer: AIOKafkaProducer, attempt: asyncio.Task[None] | None, patience_s: float) -> None:
    """Close the producer without sending the batches that it still holds: `stop()` would wait for them forever."""
    if attempt is not None:
        attempt.cancel()
        await asyncio.wait({attempt})
    sender = producer._sender.sender_task
    futures: list[Any] = []
    if sender is not None:
        futures = _futures(producer)  # the producer forgets a batch that fails
        accumulator = producer._message_accumulator
        accumulator._pending_batches = _Pending(accumulator._pending_batches)
        accumulator.fail_all(KafkaError("this producer was dropped"))
        while not sender.done():  # each cancel ends one of the requests that it still waits for
            sender.cancel()
            await asyncio.wait({sender}, timeout=patience_s / 10)
        retrieve(sender)
    forget_dead(producer.client)
    try:
        async with asyncio.timeout(patience_s):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError):
        await producer.client.close()
    for future in (*futures, *_futures(producer)):
        if future is not None and future.done():
            retrieve(future)


class _Pending(set[Any]):
    """Batches in flight, where removing a batch twice is no error.

    aiokafka removes a failed batch again if it waited for a retry, or if its request ends after the sender (a broker
    hangs). On a plain set each is a KeyError.
    """

    def remove(self, batch: Any) -> None:
        self.discard(batch)


def _futures(producer: AIOKafkaProducer) -> list[Any]:
    """Return the futures that aiokafka holds and may never retrieve."""
    accumulator = producer._message_accumulator
    batches = chain(accumulator._pending_batches, *accumulator._batches.values())
    ours = [future for batch in batches for future in (batch.future, batch._drain_waiter)]
    return [*ours, producer._txn_manager._transaction_waiter]
