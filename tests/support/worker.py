"""A small worker as a process, for tests that send it signals: `python -m tests.support.worker
JSON`.

It takes leads (any bytes) of `<namespace>leads`, and writes an event of each. The lead's first word
says what to do: `hold` waits until the flow is suspended and gives up, `slow` takes `slow_s`
seconds, any other no time. Each step is printed.
"""

import asyncio
import json
import logging
import sys

from aiokafka import AIOKafkaProducer

from stream_app.config import Kafka
from stream_app.domain.model.records import ConsumedRecord
from stream_app.faust_app.app import build_app
from stream_app.faust_app.run import run_app
from stream_app.faust_app.stream import PartitionStream
from stream_app.kafka.connection import KafkaConnection
from stream_app.services.process import run
from tests.support.apps import app_with
from tests.support.faust_bench import Owner


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Worker(Owner):
    """Works on all leads of a partition at once."""

    def __init__(self, producer: AIOKafkaProducer, events: str, slow_s: float) -> None:
        super().__init__()
        self._producer = producer
        self._events = events
        self._slow_s = slow_s

    async def assigned(self, partitions: set[int]) -> None:
        await super().assigned(partitions)
        say(f"assigned {sorted(partitions)}")

    async def handle(self, stream: PartitionStream) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for consumed in stream:
                tasks.create_task(self._work(stream, consumed))

    async def _work(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
        lead = consumed.value or b""
        say(f"took {lead.decode()}")
        if lead.startswith(b"hold"):
            await stream.suspended.wait()
            stream.give_up(consumed)
            return
        if lead.startswith(b"slow"):
            await asyncio.sleep(self._slow_s)
        await self._producer.send_and_wait(
            self._events,
            b"done",
            lead,
            partition=consumed.partition,
        )
        await stream.ack(consumed)


async def main(bootstrap: str, namespace: str, partitions: int, slow_s: float) -> None:
    times = Kafka(partitions=partitions, session_timeout_s=6, rebalance_timeout_s=30)
    app = build_app(f"{namespace}group", KafkaConnection(bootstrap), times)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        worker = Worker(producer, f"{namespace}events", slow_s)
        await run_app(
            app_with(app, {f"{namespace}leads": worker.handle}, worker, f"{namespace}state"),
            broker_wait_s=60,
        )
    say("ended")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(relativeCreated)d %(name)s %(message)s")
    run(main(**json.loads(sys.argv[1])))
