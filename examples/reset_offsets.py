"""Reset the offsets of a consumer group, as `kafka-consumer-groups.sh --reset-offsets` does.

    python examples/reset_offsets.py --group my-crm --topic leads.status
    python examples/reset_offsets.py --group my-crm --topic leads.status --to-datetime
    2026-11-24T08:00+00:00

First stop all members of the group: Kafka refuses to move the offsets of an active group. The group
`stream-app-replay` with the topic `leads.dlq` sends the dead letters again, and pays for them: see
docs/dead-letters.md, and look first with `stream-app replay plan` at what waits there.
"""

from __future__ import annotations

import argparse
import asyncio
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from connect import for_aiokafka


async def partitions_of(topic: str) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(**for_aiokafka())
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    if described["error_code"]:
        raise SystemExit(f"{topic}: there is no such topic")
    return [
        TopicPartition(topic, number)
        for number in sorted(place["partition"] for place in described["partitions"])
    ]


async def main(group: str, topic: str, to: datetime | None) -> None:
    consumer = AIOKafkaConsumer(**for_aiokafka(), group_id=group, enable_auto_commit=False)
    async with consumer:
        partitions = await partitions_of(topic)
        consumer.assign(partitions)
        if to is None:
            offsets = await consumer.beginning_offsets(partitions)
        else:
            time_ms = round(to.timestamp() * 1000)
            offsets_then = await consumer.offsets_for_times(dict.fromkeys(partitions, time_ms))
            ends = await consumer.end_offsets(partitions)
            offsets = {
                place: at.offset if (at := offsets_then[place]) else ends[place]
                for place in partitions
            }
        try:
            await consumer.commit(offsets)
        except KafkaError as error:
            raise SystemExit(
                f"{group}: Kafka refuses: {error!r}: stop all members of the group first",
            ) from error
    for partition, offset in offsets.items():
        print(f"{group} {partition.topic}/{partition.partition} {offset}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument(
        "--to-datetime",
        type=datetime.fromisoformat,
        metavar="TIME",
        help="default: the earliest",
    )
    args = parser.parse_args()
    asyncio.run(main(args.group, args.topic, args.to_datetime))
