"""Consume the status events with confluent-kafka, in a consumer group of your own.

    pip install confluent-kafka
    python examples/consume_status_confluent.py --group my-crm --count 10

Read with `read_committed`, librdkafka's default: events of aborted transactions are then left out.
"""

from __future__ import annotations

import argparse
import json

from confluent_kafka import Consumer, KafkaException
from connect import for_confluent


def main(topic: str, group: str, count: int) -> None:
    consumer = Consumer(
        {
            **for_confluent(),
            "group.id": group,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        },
    )
    try:
        consumer.subscribe([topic])
        while count > 0:
            record = consumer.poll(1.0)
            if record is None:
                continue
            if (error := record.error()) is not None:
                raise KafkaException(error)
            event = json.loads(record.value() or b"{}")
            print(event["id"], event["lead_id"], event["status"], event.get("text", ""), flush=True)
            count -= 1
            consumer.commit(message=record, asynchronous=False)
    finally:
        consumer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--topic",
        default="leads.status",
        help="with kafka.namespace in front, if you have one",
    )
    parser.add_argument("--group", default="example-confluent")
    parser.add_argument("--count", type=int, default=10, help="end after this many events")
    args = parser.parse_args()
    main(args.topic, args.group, args.count)
