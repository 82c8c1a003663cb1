"""One transaction on an aiokafka producer, and how such a producer ends whatever state it is in.

Knows what aiokafka 0.14.0 does inside: tests/unit/kafka/test_faust_pins.py fails when that changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, InvalidProducerIdMapping, KafkaError, ProducerFenced

from stream_app.kafka.connection import forget_dead
from stream_app.kafka.stranded import ended, producer_id

_FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping)

Batch = tuple[Any, str, int]
"""What `create_batch` gave and was filled, with its topic and partition."""


async def commit(producer: AIOKafkaProducer, batches: Sequence[Batch]) -> None:
    """Begin, send all, commit, and see its end everywhere: an abort of the next one would undo it where it is open.

    Raises what any of it came to; then it is not known whether it is committed.
    """
    await producer.begin_transaction()
    sent: dict[asyncio.Future[Any], str] = {}
    for builder, topic, partition in batches:
        future = await producer.send_batch(builder, topic, partition=partition)
        future.add_done_callback(_look_at)
        sent[future] = f"{topic}/{partition}"
    # aiokafka commits a transaction although some of its batches failed: only these futures tell.
    done, _ = await asyncio.wait(sent, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        if (error := future.exception()) is not None:
            raise KafkaError(f"{sent[future]} did not take it: {error!r}") from error
    await producer.commit_transaction()
    await ended(producer.client, producer_id(producer), places(batches))


def places(batches: Iterable[Batch]) -> set[TopicPartition]:
    """Where these go."""
    return {TopicPartition(topic, partition) for _, topic, partition in batches}


def is_fenced(producer: AIOKafkaProducer, error: BaseException | None) -> bool:
    """Whether `error`, or what the producer's sender died of, says that a later producer has this transactional id.

    The sender too, for aiokafka wraps what that died of, and hands out copies that lost their cause. An unknown
    producer id counts: it comes when the id expired, and then another may have taken it.
    """
    for start in (error, _died_of(producer)):
        link = start
        while link is not None:
            if isinstance(link, _FENCED):
                return True
            link = link.__cause__ or link.__context__
    return False


def told(producer: AIOKafkaProducer, error: BaseException) -> str:
    """What went wrong, for people. aiokafka's sender says of each surprise that it was one, and hides what it was."""
    died_of = _died_of(producer)
    if died_of is not None:
        why = died_of.__cause__ or died_of
        return f"aiokafka's producer ended with {why!r}: look at the brokers, and at their logs"
    return str(error) if isinstance(error, KafkaError) else repr(error)


def _died_of(producer: AIOKafkaProducer) -> BaseException | None:
    sender = producer._sender.sender_task
    return sender.exception() if sender is not None and sender.done() and not sender.cancelled() else None


async def end(producer: AIOKafkaProducer, attempt: asyncio.Task[None] | None, patience_s: float) -> None:
    """Close the producer without sending what it still holds: `stop()` waits for ever for what cannot be sent."""
    if attempt is not None:
        attempt.cancel()
        await asyncio.wait({attempt})
    sender = producer._sender.sender_task
    futures: list[Any] = []
    if sender is not None:
        futures = _futures(producer)  # a batch that fails is in the producer's books no longer
        accumulator = producer._message_accumulator
        accumulator._pending_batches = _Pending(accumulator._pending_batches)
        accumulator.fail_all(KafkaError("this producer was dropped"))
        while not sender.done():  # each cancel ends one of the requests that it waits for on its way out
            sender.cancel()
            await asyncio.wait({sender}, timeout=patience_s / 10)
        _look_at(sender)  # it died of what the broker answered at its end, perhaps
    forget_dead(producer.client)
    try:
        async with asyncio.timeout(patience_s):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError):
        await producer.client.close()
    for future in (*futures, *_futures(producer)):
        if future is not None and future.done():
            _look_at(future)


class _Pending(set[Any]):
    """Batches under way.

    aiokafka removes one that waits to be tried again when it fails, and one that has failed when its request ends later
    than the sender, as where one of several brokers hangs. Each is a KeyError.
    """

    def remove(self, batch: Any) -> None:
        self.discard(batch)


def _look_at(future: asyncio.Future[Any]) -> None:
    """asyncio reports each failed one that nobody looked at."""
    if not future.cancelled():
        future.exception()


def _futures(producer: AIOKafkaProducer) -> list[Any]:
    """All that aiokafka itself holds, and nobody may look at."""
    accumulator = producer._message_accumulator
    batches = chain(accumulator._pending_batches, *accumulator._batches.values())
    ours = [future for batch in batches for future in (batch.future, batch._drain_waiter)]
    return [*ours, producer._txn_manager._transaction_waiter]
