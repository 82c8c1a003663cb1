"""Sends leads to their topic in whole batches, then waits until they are at rest.

Filling aiokafka's batches directly costs about 3 us a record; `send` costs ten times as much.
Memory is bounded.

An event on `leads.status` names the record that it belongs to (`origin`: topic, partition, offset).
So a lead is recognised by the place of its record, whatever its id is, and a duplicate in the same
file has a final status of its own. Memory of the wait: one byte for each lead, and some 200 for
each batch that was sent.
"""

import asyncio
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from typing import Any, Final, Self, get_args

from aiokafka.errors import KafkaError

from stream_app.domain.books.records import MOVING, column
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.model.text import count
from stream_app.kafka.connection import KafkaConnection, kafka_producer, silent

BATCH_BYTES: Final = 262_144
MAX_UNDER_WAY: Final = 16
"""Batches in flight. They bound the publisher's memory."""

_GOODBYE_S: Final = 2.0

OnAcknowledged = Callable[[int, int, int], None]
"""Gets what Kafka says of an acknowledged batch.

That is its partition, its first offset (-1: unknown), and its number of records.
"""


class Sender:
    """Sends records. `acknowledged` counts the records that Kafka has confirmed.

    A broker that acknowledges nothing for `wait_s` raises BrokerUnavailable. `on_acknowledged` is
    called for each batch.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        wait_s: float,
        on_acknowledged: OnAcknowledged = silent,
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
            **self._connection.settings(),
            enable_idempotence=True,
            acks="all",
            max_batch_size=BATCH_BYTES,
        )
        try:
            async with asyncio.timeout(self._wait_s):
                await self._producer.start()
        except (KafkaError, TimeoutError) as exc:
            await self.__aexit__()
            raise self._lost(exc) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the producer.

        Close its connections first if batches are pending: it could wait for a broker forever.
        """
        if self._under_way:
            await self._producer.client.close()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._producer.stop()
        except (KafkaError, TimeoutError):
            await self._producer.client.close()

    async def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Add one record. Waits while too many batches are in flight. Raises BrokerUnavailable."""
        batch = self._open.get(partition)
        if batch is None or batch.append(timestamp=None, key=key, value=value) is None:
            if batch is not None:
                await self._send(partition, batch)
            batch = self._producer.create_batch()
            self._open[partition] = batch
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
        done, _ = await asyncio.wait(
            self._under_way,
            timeout=self._wait_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            raise self._lost(TimeoutError(f"nothing acknowledged within {self._wait_s:g} s"))
        for future in done:
            records = self._under_way.pop(future)
            if error := future.exception():
                raise self._lost(error) from error
            self.acknowledged += records
            batch = future.result()
            self._on_acknowledged(batch.partition, batch.offset, records)

    def _lost(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self._connection.bootstrap} accepted "
            f"{count(self.acknowledged, 'record')}, "
            f"then no more: {str(error) or 'no response'}. Publish the same leads "
            "again when Kafka is back: those already sent are recognised as duplicates, "
            "unless they were published with force",
        )


_STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_NUMBER: Final[dict[Status, int]] = {status: number for number, status in enumerate(_STATUSES, 1)}
_NO_EVENT: Final = 0
_AT_REST: Final = 0x80
"""The bit that a byte has when its lead is at rest.

The other seven are the number of its last status.
"""


class PublishedLeads:
    """The last status of each lead that one command has published.

    `without_callbacks`: destinations that never call back. `accepted` is their leads' end.
    """

    def __init__(self, topic: str, without_callbacks: Collection[str]) -> None:
        self._topic = topic
        self._without_callbacks = without_callbacks
        self._batches: dict[int, list[tuple[int, bytearray]]] = {}
        self._leads = Counter[int]()

    def add(self, partition: int, offset: int, leads: int) -> None:
        """Add `leads` leads, whose records begin at that offset.

        A negative offset is unknown: Kafka had the batch already, after an answer that was lost.
        These leads count, but none of their events can be recognised.
        """
        self._leads[_NO_EVENT] += leads
        if offset >= 0:
            insort(self._batches.setdefault(partition, []), (offset, bytearray(leads)))

    def apply(self, event: StatusEvent) -> None:
        """Take an event. Events of other records change nothing."""
        topic, partition, offset = event.origin.rsplit("/", 2)
        batches = self._batches.get(int(partition), []) if topic == self._topic else []
        before = bisect_right(batches, int(offset), key=lambda batch: batch[0])
        first, last = batches[before - 1] if before else (0, bytearray())
        at = int(offset) - first
        if at >= len(last):
            return
        stands_in = column(event.status, final=event.destination in self._without_callbacks)
        now = _NUMBER[event.status] | (
            _AT_REST if stands_in is not None and stands_in not in MOVING else 0
        )
        self._leads[last[at]] -= 1
        self._leads[now] += 1
        last[at] = now

    @property
    def total(self) -> int:
        return self._leads.total()

    @property
    def at_rest(self) -> int:
        """Leads that have ended or wait for a human."""
        return sum(leads for code, leads in self._leads.items() if code & _AT_REST)

    @property
    def no_event(self) -> int:
        """Leads without any event: no worker has read them, as far as is known."""
        return self._leads[_NO_EVENT]

    def by_status(self, *, at_rest: bool) -> dict[Status, int]:
        """Leads at rest, or leads under way, by their last status, the most frequent first."""
        return {
            _STATUSES[(code & ~_AT_REST) - 1]: leads
            for code, leads in self._leads.most_common()
            if leads and code != _NO_EVENT and bool(code & _AT_REST) is at_rest
        }


async def wait_for_rest(
    leads: PublishedLeads,
    batches: AsyncIterator[list[StatusEvent]],
    within_s: float,
    on_progress: Callable[[int, int], None],
) -> None:
    """Follow the leads until all are at rest, or until the time is over.

    `batches` are those of a follower that began before the first lead was published; an empty one
    comes from time to time. `on_progress` gets (leads at rest, all leads) after each.

    Raises:
        BrokerUnavailable, UnreadableBatch: The events could not be read to the end.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while leads.at_rest < leads.total:
                for event in await anext(batches):
                    leads.apply(event)
                on_progress(leads.at_rest, leads.total)
