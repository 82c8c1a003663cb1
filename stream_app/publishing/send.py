"""Sends records to one topic through an idempotent producer, in whole batches, with bounded memory.

Filling aiokafka's batches directly costs about 3 us a record; `send` costs ten times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self

from aiokafka.errors import KafkaError

from stream_app.domain.errors import BrokerUnavailable
from stream_app.kafka.connection import KafkaConnection, kafka_producer, silent

BATCH_BYTES: Final = 262_144
MAX_UNDER_WAY: Final = 16
"""Batches in flight. They bound the publisher's memory."""

_GOODBYE_S: Final = 2.0

OnAcknowledged = Callable[[int, int, int], None]
"""Gets the partition, the first offset (-1: unknown) and the number of records of an acknowledged batch."""


class Sender:
    """Sends records. `acknowledged` counts the records that Kafka has confirmed.

    A broker that acknowledges nothing for `wait_s` raises BrokerUnavailable. `on_acknowledged` is called for each
    batch.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, wait_s: float, on_acknowledged: OnAcknowledged = silent
    ) -> None:
        self._connection = connection
        self._on_acknowledged = on_acknowledged
        self._topic = topic
        self._wait_s = wait_s
        self._open: dict[int, Any] = {}
        self._under_way: dict[asyncio.Future[Any], int] = {}
        self.acknowledged = 0

    async def __aenter__(self) -> Self:
        self._producer = kafka_producer(
            **self._connection.settings(), enable_idempotence=True, acks="all", max_batch_size=BATCH_BYTES
        )
        try:
            async with asyncio.timeout(self._wait_s):
                await self._producer.start()
        except (KafkaError, TimeoutError) as exc:
            await self._leave()
            raise self._lost(exc) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Add one record. Waits while too many batches are in flight. Raises BrokerUnavailable."""
        batch = self._open.get(partition)
        if batch is None or batch.append(timestamp=None, key=key, value=value) is None:
            if batch is not None:
                await self._send(partition, batch)
            self._open[partition] = batch = self._producer.create_batch()
            batch.append(timestamp=None, key=key, value=value)

    async def flush(self) -> None:
        """Return when all records are acknowledged. Raises BrokerUnavailable."""
        for partition in list(self._open):
            await self._send(partition, self._open.pop(partition))
        while self._under_way:
            await self._settle_some()

    async def _send(self, partition: int, batch: Any) -> None:
        while len(self._under_way) >= MAX_UNDER_WAY:
            await self._settle_some()
        try:
            async with asyncio.timeout(self._wait_s):
                future = await self._producer.send_batch(batch, self._topic, partition=partition)
        except (KafkaError, TimeoutError) as exc:
            raise self._lost(exc) from exc
        self._under_way[future] = batch.record_count()
        await asyncio.sleep(0)  # send_batch may return at once; aiokafka's own tasks need a turn

    async def _settle_some(self) -> None:
        # An idempotent batch never expires in aiokafka, so the timeout is here.
        done, _ = await asyncio.wait(self._under_way, timeout=self._wait_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise self._lost(TimeoutError(f"nothing acknowledged within {self._wait_s:g} s"))
        for future in done:
            records = self._under_way.pop(future)
            if error := future.exception():
                raise self._lost(error) from error
            self.acknowledged += records
            batch = future.result()
            self._on_acknowledged(batch.partition, batch.offset, records)

    async def _leave(self) -> None:
        """Stop the producer. Close its connections first if batches are pending: it could wait for a broker forever."""
        if self._under_way:
            await self._producer.client.close()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._producer.stop()
        except (KafkaError, TimeoutError):
            await self._producer.client.close()

    def _lost(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self._connection.bootstrap} accepted {self.acknowledged} records, then no more: "
            f"{str(error) or 'no response'}. Publish the same leads again when Kafka is back: those already sent are "
            "recognised as duplicates, unless they were published with force"
        )
