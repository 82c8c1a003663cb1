"""arroyo: a task in threads for each lead, then the commit. It reads one topic."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from arroyo.backends.kafka.configuration import (
    build_kafka_configuration,
    build_kafka_consumer_configuration,
)
from arroyo.backends.kafka.consumer import KafkaConsumer, KafkaPayload, KafkaProducer
from arroyo.processing.processor import StreamProcessor
from arroyo.processing.strategies import CommitOffsets, RunTaskInThreads
from arroyo.processing.strategies.abstract import ProcessingStrategy, ProcessingStrategyFactory
from arroyo.types import Commit, Message, Partition, Topic
from thread_delivery import IN_FLIGHT, Delivery

BROKERS = [os.environ["BOOTSTRAP"]]
producer = KafkaProducer(build_kafka_configuration(default_config={}, bootstrap_servers=BROKERS))
deliver = Delivery(
    lambda lead: producer.produce(Topic(os.environ["DLQ"]), KafkaPayload(None, lead, [])).result(),
)


def task(message: Message[KafkaPayload]) -> None:
    deliver(message.payload.value)


class Factory(ProcessingStrategyFactory[KafkaPayload]):
    def create_with_partitions(
        self,
        commit: Commit,
        partitions: Mapping[Partition, int],
    ) -> ProcessingStrategy[KafkaPayload]:
        return RunTaskInThreads(task, IN_FLIGHT, IN_FLIGHT, CommitOffsets(commit))


def main() -> None:
    consumer = KafkaConsumer(
        build_kafka_consumer_configuration(
            default_config={
                "session.timeout.ms": int(os.environ["SESSION_MS"]),
                "heartbeat.interval.ms": 1000,
            },
            bootstrap_servers=BROKERS,
            auto_offset_reset="earliest",
            group_id=os.environ["GROUP"],
        ),
    )
    processor = StreamProcessor(consumer, Topic(os.environ["LEADS"]), Factory())

    def stop(*_: Any) -> None:
        processor.signal_shutdown()

    signal.signal(signal.SIGTERM, stop)
    processor.run()


if __name__ == "__main__":
    main()
