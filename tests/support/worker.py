"""A small worker as a process, for tests that send it signals: `python -m tests.support.worker JSON`.

It takes leads (any bytes) of `<namespace>leads`. Each gets a row and an event in one transaction of its
partition, unless it has a row. The lead's first word says what to do: `hold` waits until the flow is suspended
and gives up, `slow` takes `slow_s` seconds, any other 0 to 10 ms. Each step is printed.
"""

import asyncio
import json
import logging
import random
import sys
from collections import ChainMap
from collections.abc import Mapping

from stream_app.config import Kafka
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.faust_app.app import build_app
from stream_app.faust_app.run import run_app
from stream_app.faust_app.stream import PartitionStream
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from stream_app.services.process import run
from tests.support.apps import app_with

SLOTS = 20


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Worker:
    """Holds the rows of its partitions and writes them in transactions, one at a time."""

    def __init__(self, bootstrap: str, namespace: str, slow_s: float) -> None:
        self.connection = KafkaConnection(bootstrap)
        self.namespace = namespace
        self.slow_s = slow_s
        self.ledgers: dict[int, TransactionalState] = {}
        self.rows_of: dict[int, dict[bytes, bytes]] = {}
        self.locks: dict[int, asyncio.Lock] = {}

    @property
    def rows(self) -> Mapping[bytes, bytes]:
        return ChainMap(*self.rows_of.values())

    async def assigned(self, partitions: set[int]) -> None:
        for partition in partitions:
            ledger = TransactionalState(
                self.connection, f"{self.namespace}worker-{partition}", f"{self.namespace}state", partition,
                StateStoreLimits(transact_s=2.5, abort_s=0.5), writes_to=[(f"{self.namespace}events", partition)],
            )  # fmt: skip
            self.rows_of[partition] = await ledger.take_over()
            self.ledgers[partition] = ledger
            self.locks[partition] = asyncio.Lock()
        say(f"assigned {sorted(partitions)}")

    async def revoked(self, partitions: set[int]) -> None:
        for partition in partitions & self.ledgers.keys():
            await self.ledgers.pop(partition).close()
            del self.rows_of[partition], self.locks[partition]
        say(f"revoked {sorted(partitions)}")

    async def handle(self, inlet: PartitionStream) -> None:
        slots = asyncio.Semaphore(SLOTS)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await slots.acquire()
                try:
                    consumed = await anext(inlet)
                except StopAsyncIteration:
                    return
                tasks.create_task(self._work(inlet, consumed)).add_done_callback(lambda _: slots.release())

    async def _work(self, inlet: PartitionStream, consumed: ConsumedRecord) -> None:
        lead = consumed.value or b""
        say(f"took {lead.decode()}")
        if lead.startswith(b"hold"):
            await inlet.suspended.wait()
            inlet.give_up(consumed)
            return
        await asyncio.sleep(self.slow_s if lead.startswith(b"slow") else random.random() / 100)
        await self._conclude(consumed.partition, lead)
        await inlet.ack(consumed)

    async def _conclude(self, partition: int, lead: bytes) -> None:
        async with self.locks[partition]:
            rows = self.rows_of[partition]
            if lead in rows:
                return
            records = [Record(self.namespace + topic, lead, b"done") for topic in ("state", "events")]
            try:
                await self.ledgers[partition].transact(records)
                rows[lead] = b"done"
            except Aborted:
                self.rows_of[partition] = await self.ledgers[partition].take_over()
                if lead not in self.rows_of[partition]:
                    raise


async def main(bootstrap: str, namespace: str, partitions: int, slow_s: float, session_s: float) -> None:
    worker = Worker(bootstrap, namespace, slow_s)
    times = Kafka(partitions=partitions, session_timeout_s=session_s, rebalance_timeout_s=30)
    app = build_app(namespace + "group", worker.connection, times)
    try:
        await run_app(
            app_with(app, {namespace + "leads": worker.handle}, worker, namespace + "state"), broker_wait_s=20
        )
    finally:
        for ledger in worker.ledgers.values():
            await ledger.close()
    say("ended")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(relativeCreated)d %(name)s %(message)s")
    run(main(**json.loads(sys.argv[1])))
