"""A producer that is dropped ends without a word, whatever its requests still come to."""

import asyncio

from aiokafka import TopicPartition

from stream_app.kafka.connection import kafka_producer
from stream_app.kafka.transactions import end

PLACE = TopicPartition("leads", 0)


async def test_a_batch_may_be_tried_again_after_its_producer_was_dropped() -> None:
    """Its request ends later than the sender, which awaits only some of them."""
    producer = kafka_producer(bootstrap_servers="127.0.0.1:1", transactional_id="id")
    producer._txn_manager.set_pid_and_epoch(1, 1)
    producer._txn_manager.begin_transaction()
    producer._sender._sender_task = asyncio.create_task(asyncio.Event().wait())
    accumulator = producer._message_accumulator
    builder = producer.create_batch()
    builder.append(key=None, value=b"1", timestamp=None)
    batch = accumulator._append_batch(builder, PLACE)
    assert accumulator._pop_batch(PLACE) is batch
    waits = accumulator._append_batch(producer.create_batch(), PLACE)
    await end(producer, None, 0.1)
    assert batch.future.exception() is not None
    assert waits.future.exception() is not None
    accumulator.reenqueue(batch)
