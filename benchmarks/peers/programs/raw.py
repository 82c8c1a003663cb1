"""aiokafka and aiohttp by hand: a batch at a time, committed when all of it is done."""

from __future__ import annotations

import asyncio
import os

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from async_delivery import IN_FLIGHT, Delivery, new_session


async def main() -> None:
    consumer = AIOKafkaConsumer(
        os.environ["LEADS"],
        os.environ["BULK"],
        bootstrap_servers=os.environ["BOOTSTRAP"],
        group_id=os.environ["GROUP"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=int(os.environ["SESSION_MS"]),
        heartbeat_interval_ms=1000,
    )
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["BOOTSTRAP"], enable_idempotence=True)
    async with producer, consumer, new_session() as session:
        deliver = Delivery(session, lambda lead: producer.send_and_wait(os.environ["DLQ"], lead))
        while True:
            batches = await consumer.getmany(timeout_ms=500, max_records=IN_FLIGHT)
            await asyncio.gather(
                *(deliver(record.value) for records in batches.values() for record in records),
            )
            if batches:
                await consumer.commit()


if __name__ == "__main__":
    asyncio.run(main())
