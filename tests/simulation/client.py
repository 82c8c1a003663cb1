"""The in-memory twins of the partition's ports to Kafka: a store and a stream on a `MemoryKafka`.

Each request to the broker goes through a `Link`. The plain one loses nothing; the simulation's
delays requests and answers, drops them, and lets those of a killed process arrive or not.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from stream_app.domain.model.errors import Aborted, BrokerUnavailable, Fenced
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.kafka.takeover.steps import LastTransaction, Producer, Stranded, take_over
from tests.simulation.kafka import (
    ORDINARY_TIMEOUT_MS,
    ConcurrentTransactions,
    InvalidState,
    MemoryKafka,
    NoLeader,
    ProducerFenced,
    StaleGeneration,
)

_LOOKS: Final = 3
_LOOK_EVERY_S: Final = 0.1

T = TypeVar("T")


class NoAnswer(Exception):
    """The request may have reached the broker or not."""


class Link(Protocol):
    """The way from a process to the broker and back."""

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        """Run `request` at the broker. Raises NoAnswer when no answer comes back."""


class PlainLink:
    """Answers always, after one turn of the loop."""

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return request()


class MemoryTransactions:
    """`steps.Transactions` in memory: the twin of `requests.KafkaTransactions`."""

    def __init__(self, kafka: MemoryKafka, transactional_id: str, link: Link) -> None:
        self.transactional_id = transactional_id
        self._kafka = kafka
        self._link = link

    async def look(self) -> tuple[LastTransaction, Stranded]:
        return await self._link.ask("look", self._look)

    async def open_places(self, producer_id: int) -> Stranded:
        return await self._link.ask("open", lambda: self._kafka.open_places(self.transactional_id))

    async def fence(self, timeout_ms: int) -> Producer | None:
        return await self._link.ask("fence", lambda: self._fence(timeout_ms))

    async def end(self, last: LastTransaction, stranded: Stranded, *, committed: bool) -> None:
        await self._link.ask(
            "end",
            Repair(self._kafka, self.transactional_id, last.epoch, stranded, committed),
        )

    def _look(self) -> tuple[LastTransaction, Stranded]:
        last = self._kafka.describe(self.transactional_id)
        return last, {} if last.is_decided else self._kafka.open_places(self.transactional_id)

    def _fence(self, timeout_ms: int) -> Producer | None:
        try:
            return Producer(1, self._kafka.init_producer(self.transactional_id, timeout_ms))
        except ConcurrentTransactions:
            return None


class Repair:
    """Two requests that are sent together. `half` is the first of them alone."""

    def __init__(
        self,
        kafka: MemoryKafka,
        transactional_id: str,
        epoch: int,
        stranded: Stranded,
        committed: bool,
    ) -> None:
        self._kafka = kafka
        self._producer = transactional_id, epoch
        self._logs = [kafka.log(*place) for place in stranded]
        self._committed = committed

    def __call__(self) -> None:
        with suppress(ConcurrentTransactions):
            self.half()
            self._kafka.end(*self._producer, self._committed)

    def half(self) -> None:
        if self._logs:
            self._kafka.add(*self._producer, self._logs)


class MemoryStateStore:
    """`partition.ports.StateStore` in memory: the twin of
    `kafka.transactional_state.TransactionalState`.
    """

    def __init__(
        self,
        kafka: MemoryKafka,
        transactional_id: str,
        state_topic: str,
        partition: int,
        link: Link | None = None,
        max_record_bytes: int = 1_000_000,
    ) -> None:
        self.transactional_id = transactional_id
        self.partition = partition
        self._kafka = kafka
        self._state_topic = state_topic
        self._link: Link = link or PlainLink()
        self._max_record_bytes = max_record_bytes
        self._epoch: int | None = None

    async def take_over(self, fence_within_s: float = math.inf) -> dict[bytes, bytes]:
        self._epoch = None
        try:
            async with asyncio.timeout(None if fence_within_s == math.inf else fence_within_s):
                self._epoch = await self._fence()
            return await self._link.ask("load", self._load)
        except (NoAnswer, NoLeader, ProducerFenced, InvalidState, TimeoutError):
            self._epoch = None
            raise BrokerUnavailable(f"{self.transactional_id} was not taken over in time") from None

    async def waiting(self, topic: str, offset: int, max_records: int) -> list[ConsumedRecord]:
        log = self._kafka.log(topic, self.partition)
        if log.read(offset) is None:
            return []  # nothing to ask for, so that a run without commands has no request more
        try:
            records = await self._link.ask(
                "load",
                lambda: [record for record in log.committed() if record.offset >= offset],
            )
        except NoAnswer:
            raise BrokerUnavailable(f"{topic}/{self.partition} was not read in time") from None
        return records[:max_records]

    async def transact(self, records: Sequence[Record]) -> None:
        epoch = self._epoch
        if epoch is None:
            raise Aborted("no transaction without take_over first")
        for record in records:
            size = len(record.key or b"") + len(record.value or b"")
            if size > self._max_record_bytes:
                most = self._max_record_bytes
                raise ValueError(
                    f"a record for {record.topic} has {size} bytes, {most} are allowed there",
                )
        if not records:
            return
        done = False
        try:
            await self._link.ask(
                "send",
                lambda: self._kafka.send(self.transactional_id, epoch, self.partition, records),
            )
            left = await self._link.ask("commit", lambda: self._commit(epoch))
            for _ in range(_LOOKS):
                if not left:
                    break
                await asyncio.sleep(_LOOK_EVERY_S)
                left = await self._link.ask(
                    "ended",
                    lambda: self._kafka.open_places(self.transactional_id),
                )
            if left:
                raise Aborted(f"{self.transactional_id}: its end was not seen everywhere in time")
            done = True
        except ProducerFenced:
            raise Fenced(f"{self.transactional_id} has a later owner") from None
        except (NoAnswer, NoLeader, ConcurrentTransactions, InvalidState):
            raise Aborted(f"{self.transactional_id}: no answer in time") from None
        finally:
            if not done:
                self._epoch = None

    async def fetch(self, places: Sequence[str]) -> dict[str, ConsumedRecord]:
        if not places:
            return {}
        try:
            return await self._link.ask("fetch", lambda: dict(self._records_at(places)))
        except NoAnswer:
            raise BrokerUnavailable("records were not read again in time") from None

    async def close(self) -> None:
        self._epoch = None

    def _records_at(self, places: Sequence[str]) -> Iterator[tuple[str, ConsumedRecord]]:
        for place in places:
            topic, partition, offset = place.rsplit("/", 2)
            consumed = self._kafka.log(topic, int(partition)).read(int(offset))
            if consumed is not None and consumed.record_id == place:
                yield place, consumed

    async def _fence(self) -> int:
        transactions = MemoryTransactions(self._kafka, self.transactional_id, self._link)
        return (await take_over(transactions, ORDINARY_TIMEOUT_MS)).epoch

    def _commit(self, epoch: int) -> dict[tuple[str, int], int]:
        """The end, and whether it was written everywhere: two requests to a real Kafka."""
        self._kafka.end(self.transactional_id, epoch, commit=True)
        return self._kafka.open_places(self.transactional_id)

    def _load(self) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = {}
        for consumed in self._kafka.log(self._state_topic, self.partition).committed():
            assert consumed.key is not None
            if consumed.value is None:
                rows.pop(consumed.key, None)
            else:
                rows[consumed.key] = consumed.value
        return rows


class MemoryStream:
    """`ports.RecordStream` in memory. It commits the offset behind the last ack.

    Commits go out `commit_every_s` after an ack and when the generation ends; those of an old
    generation are refused.
    """

    def __init__(
        self,
        kafka: MemoryKafka,
        group: str,
        generation: int,
        topic: str,
        partition: int,
        link: Link | None = None,
        commit_every_s: float = 0.5,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.suspended = asyncio.Event()
        self._kafka = kafka
        self._group = group
        self._generation = generation
        self._log = kafka.log(topic, partition)
        self._link: Link = link or PlainLink()
        self._commit_every_s = commit_every_s
        self._committed = kafka.offset(group, topic, partition)
        self._position = self._committed or 0
        self._acked = self._position
        self._commit_due: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.consumed: dict[int, ConsumedRecord] = {}
        self.ended = False

    def __aiter__(self) -> AsyncIterator[ConsumedRecord]:
        return self

    async def __anext__(self) -> ConsumedRecord:
        while True:
            if self.ended:
                raise StopAsyncIteration
            consumed = None if self.suspended.is_set() else self._log.read(self._position)
            if consumed is not None:
                self._position = consumed.offset + 1
                self.consumed[consumed.offset] = consumed
                self._idle.clear()
                return consumed
            self._changed.clear()
            self._log.readers.append(self._changed.set)
            await self._changed.wait()

    def expect(self, offset: int) -> None:
        """Retention takes nothing here."""

    async def ack(self, consumed: ConsumedRecord) -> None:
        if consumed.offset not in self.consumed or self.ended:
            return
        await asyncio.sleep(0)
        self._acked = consumed.offset + 1
        if self._commit_due is None:
            self._commit_due = asyncio.create_task(self._commit_later())
        self._drop(consumed)

    def give_up(self, consumed: ConsumedRecord) -> None:
        self._drop(consumed)

    def committed(self) -> int | None:
        return self._committed

    @property
    def is_empty(self) -> bool:
        """Nothing is there to be taken."""
        return self._log.read(self._position) is None

    def when_more(self, wake: Callable[[], None]) -> None:
        """Call it once, when something may have come."""
        self._log.readers.append(wake)

    def suspend(self) -> None:
        """The group rebalances or the worker stops: no more records, and what waits is given up."""
        self.suspended.set()

    async def drained(self) -> None:
        """Nothing that was taken is without an ack or given up."""
        await self._idle.wait()

    async def end(self) -> None:
        """The generation is over for this member: a last commit, and the iteration ends."""
        if self._commit_due is not None:
            self._commit_due.cancel()
        await self._commit()
        self.ended = True
        self._changed.set()

    def _drop(self, consumed: ConsumedRecord) -> None:
        self.consumed.pop(consumed.offset, None)
        if not self.consumed:
            self._idle.set()

    async def _commit_later(self) -> None:
        await asyncio.sleep(self._commit_every_s)
        self._commit_due = None
        await self._commit()

    async def _commit(self) -> None:
        offset = self._acked
        if offset <= (self._committed or 0):
            return
        try:
            await self._link.ask(
                "offsets",
                lambda: self._kafka.commit_offset(
                    self._group,
                    self._generation,
                    self.topic,
                    self.partition,
                    offset,
                ),
            )
        except StaleGeneration:
            return
        except NoAnswer:
            if not self.ended and not self.suspended.is_set():
                self._commit_due = asyncio.create_task(self._commit_later())
            return
        self._committed = max(offset, self._committed or 0)
