"""Consume the status events with plain aiokafka, in a consumer group of your own.

    python examples/consume_status_aiokafka.py --group my-crm --count 10

Read with `read_committed`: events of aborted transactions are then left out, and each event is
delivered once. The group commits after each batch was processed, so a restart repeats a batch at
most; `id` is unique, so it tells a repeated event.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from aiokafka import AIOKafkaConsumer
from connect import for_aiokafka


async def main(topic: str, group: str, count: int) -> None:
    consumer = AIOKafkaConsumer(
        topic,
        **for_aiokafka(),
        group_id=group,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        while count > 0:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=count)
            for records in batches.values():
                for record in records:
                    event = json.loads(record.value)
                    print(
                        event["id"],
                        event["lead_id"],
                        event["status"],
                        event.get("text", ""),
                        flush=True,
                    )
                    count -= 1
            if batches:
                await consumer.commit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--topic",
        default="leads.status",
        help="with kafka.namespace in front, if you have one",
    )
    parser.add_argument("--group", default="example-aiokafka")
    parser.add_argument("--count", type=int, default=10, help="end after this many events")
    args = parser.parse_args()
    asyncio.run(main(args.topic, args.group, args.count))
