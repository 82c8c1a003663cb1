"""A partition's ledger on Kafka: its rows read in bulk, and all its writes as transactions that fence each other.

Kafka is the lock (docs/decisions/02-kafka-as-the-lock.md): the process that last started a producer with the
partition's transactional id owns the partition, and the writes of every earlier owner fail. So `take_over` fences first
and reads afterwards.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    InvalidTransactionTimeout,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from stream_app.domain.errors import Aborted, BrokerUnavailable, Fenced, StateStoreError
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.kafka.broker_errors import Refusals
from stream_app.kafka.clients import kafka_producer
from stream_app.kafka.clock import KafkaClock
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.fencing import KafkaTransactions
from stream_app.kafka.leaders import require_leader
from stream_app.kafka.stranded import refresh
from stream_app.kafka.topic_identity import KnownTopics
from stream_app.kafka.transactions import Batch, commit, end, is_fenced, places, told
from stream_app.kafka.waiting import waiting
from stream_app.partition.takeover import take_over

_REFUSED = (
    IncompatibleBrokerVersion,
    InvalidTransactionTimeout,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
_START_AGAIN = "this process must stop; start it again and it joins as a new one"
_RETRY_S = 0.5
_FETCH_BYTES = 4 * 2**20  # of small rows: 50 ms of this core, so that a reload holds up no other partition
_BATCH_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class StateStoreLimits:
    """Times and sizes. `transact_s` bounds a transaction; the clean-up after a failure adds `abort_s` at most twice.

    The three together stay below the group's session timeout less its heartbeat interval: then whoever took longer
    was frozen, and may have been evicted, and must not take over again.
    `transaction_timeout_s` is when the broker itself aborts a transaction that its owner left open.
    `max_record_bytes` holds for topics that `topic_max_record_bytes` does not name; both leave room for the
    batch's header below the topic's `max.message.bytes`.
    """

    take_over_s: float = 60.0
    transact_s: float = 8.0
    abort_s: float = 1.5
    request_s: float = 10.0
    transaction_timeout_s: float = 60.0
    max_record_bytes: int = 1_000_000
    topic_max_record_bytes: dict[str, int] = field(default_factory=dict)


class TransactionalState:
    """The rows of one partition of `state_topic`, and the only writer of what belongs to that partition.

    Not for use by two tasks at once: the partition's committer owns it.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        transactional_id: str,
        state_topic: str,
        partition: int,
        limits: StateStoreLimits | None = None,
        known: KnownTopics | None = None,
        writes_to: Iterable[tuple[str, int]] = (),
        clock: KafkaClock | None = None,
    ) -> None:
        """`writes_to`: the topics and partitions that records go to, besides the rows' own.

        `clock` compares Kafka's clock with ours at each transaction.
        """
        self.transactional_id = transactional_id
        self.partition = partition
        self._connection = connection
        self._rows_at = TopicPartition(state_topic, partition)
        self._limits = limits or StateStoreLimits()
        self._known = known or KnownTopics()
        self._places = {self._rows_at, *(TopicPartition(*place) for place in writes_to)}
        self._producer: AIOKafkaProducer | None = None
        self._refusals = Refusals()
        self._clock = clock
        self._endings: set[asyncio.Task[None]] = set()

    async def take_over(self, fence_within_s: float = math.inf) -> dict[bytes, bytes]:
        """Fence every earlier owner, then read the rows to their end: committed ones only, by key, tombstones gone.

        Callable again at any time (after Aborted it has to be). Raises BrokerUnavailable when the fence took longer
        than `fence_within_s` or all of it longer than `take_over_s`, StateStoreError when the broker refuses for good,
        and TopicsError when this is another topic than the process has known: an empty one would forget what was sent.
        """
        self._drop()
        began = asyncio.get_running_loop().time()
        deadline = began + self._limits.take_over_s
        last: BaseException | None = None
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, began + fence_within_s)):
                    await self._fence()
                async with asyncio.timeout_at(deadline):
                    return await self._load()
            except _REFUSED as refused:
                self._drop()
                raise StateStoreError(
                    f"Kafka refuses the ledger {self.transactional_id} on {self._rows_at.topic}: {refused}: the "
                    "worker needs Kafka 3.0 or newer, Write and Describe on its transactional ids, Read and Write "
                    "on all topics that it writes to, and transaction.max.timeout.ms of at least 601000"
                ) from refused
            except TimeoutError as late:
                self._drop()
                after_s = asyncio.get_running_loop().time() - began
                where = self._connection.bootstrap
                why = self._refusals.text() or (
                    f"{last or 'no answer'}: is {where} up, does the topic exist, and does no other "
                    "transaction hold it open?"
                )
                raise BrokerUnavailable(f"{self._place} was not taken over within {after_s:.0f} s: {why}") from (
                    last or late
                )
            except (KafkaError, OSError) as error:
                last = error
                self._drop()
                await asyncio.sleep(_RETRY_S)
            except BaseException:
                self._drop()
                raise

    async def waiting(self, topic: str, offset: int, most: int) -> list[ConsumedRecord]:
        """This partition's records of another topic, from an offset to its present end, `most` of them at most.

        Raises BrokerUnavailable.
        """
        return await waiting(self._connection, topic, self.partition, offset, most, self._limits.take_over_s)

    async def transact(self, records: Sequence[Record]) -> None:
        """Write all of `records` in one transaction; they are committed, and to be read, when this returns.

        Raises ValueError before anything is begun when a record is too large, or goes where `writes_to` does not say.
        Raises Fenced when a later owner exists, or may exist since this process stood still: nothing more is to be
        written here. Raises Aborted otherwise, within `transact_s` + 2 x `abort_s`: the records are not known to be
        committed, and only `take_over` tells what is.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        producer = self._producer
        if producer is None:
            raise Aborted(f"{self._place}: no transaction without take_over first")
        batches = self._pack(producer, records)
        if not batches:
            return
        attempt = asyncio.create_task(commit(producer, batches))
        try:
            await asyncio.wait({attempt}, timeout=self._limits.transact_s)
            if attempt.done() and attempt.exception() is None:
                self._refusals.committed()
                return
            error = await self._settle(producer, attempt)
        except BaseException:
            self._drop(attempt)
            raise
        self._drop(attempt)
        if is_fenced(producer, error):
            raise Fenced(f"{self._place} has a later owner: {_START_AGAIN}") from error
        stood_still_s = loop.time() - began - self._limits.transact_s - 2 * self._limits.abort_s
        if stood_still_s > 1:
            raise Fenced(f"{self._place} may have a later owner, for this process froze: {_START_AGAIN}") from error
        reason = self._refusals.text(places(batches)) or f"no answer within {self._limits.transact_s:g} s"
        if error is not None:
            reason = told(producer, error)
        if self._clock is not None and self._clock.text:
            reason = f"{reason}; {self._clock.text}"
        raise Aborted(f"{self._place}: the transaction failed ({reason})") from error

    async def close(self) -> None:
        """Let go of the connections. What was not committed is not, and never will be."""
        self._drop()
        while self._endings:
            await asyncio.wait(self._endings)

    @property
    def _place(self) -> str:
        return f"partition {self.partition} of {self._rows_at.topic} ({self.transactional_id})"

    async def _fence(self) -> None:
        producer = kafka_producer(
            **self._connection.settings(),
            client_id=f"{self.transactional_id}-ledger",
            transactional_id=self.transactional_id,
            transaction_timeout_ms=_ms(self._limits.transaction_timeout_s),
            request_timeout_ms=_ms(self._limits.request_s),
            max_batch_size=_BATCH_BYTES,
        )
        # Before it is started, so that _drop also ends one whose start failed half way.
        self._producer = producer
        client = producer.client
        self._refusals.watch(client)
        if self._clock is not None:
            self._clock.watch(client)
        try:
            await client.bootstrap()
            client.set_topics({place.topic for place in self._places})
            await refresh(client)
            name = self.transactional_id
            node = await producer._sender._find_coordinator(CoordinationType.TRANSACTION, name)
        except AssertionError as error:  # aiokafka's: a broker that was frozen answers before its cluster counts it
            raise NodeNotReadyError(f"Kafka at {self._connection.bootstrap} names no broker yet") from error
        transactions = KafkaTransactions(client, node, name, self._places, self._rows_at)
        fenced = await take_over(transactions, _ms(self._limits.transaction_timeout_s))
        producer._txn_manager.set_pid_and_epoch(*fenced)
        # As `start()`, which would connect and fence once more.
        await producer._sender.start()

    async def _load(self) -> dict[bytes, bytes]:
        consumer = Consumer(
            **self._connection.settings(),
            client_id=f"{self.transactional_id}-load",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=20,
            max_partition_fetch_bytes=_FETCH_BYTES,
            request_timeout_ms=_ms(self._limits.request_s),
        )
        rows: dict[bytes, bytes] = {}
        try:
            await consumer.start()
            consumer.assign([self._rows_at])
            # ListOffsets is refused by a leader that does not know its high water mark yet; a fetch is not.
            end = (await consumer.end_offsets([self._rows_at]))[self._rows_at]
            while not await self._at_end(consumer, end):
                for records in (await consumer.getmany(self._rows_at, timeout_ms=100)).values():
                    for record in records:
                        if record.value is None:
                            rows.pop(record.key, None)
                        else:
                            rows[record.key] = record.value
            leader = consumer._client.cluster.leader_for_partition(self._rows_at)
            await self._known.check(consumer._client, [self._rows_at.topic], leader)
            await require_leader(consumer._client, self._rows_at, leader)
        finally:
            await stop_consumer(consumer)
        return rows

    async def _at_end(self, consumer: Consumer, end: int) -> bool:
        """Whether everything was read, markers and aborted records included.

        The high water mark counts, not the last stable offset: were somebody else's transaction still open there,
        rows behind it would be committed and yet not to be read.
        """
        high_water = consumer.highwater(self._rows_at)
        return high_water is not None and await consumer.position(self._rows_at) >= max(end, high_water)

    def _pack(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> list[Batch]:
        """One batch a topic and partition (more when it gets big): 20 times cheaper than a future a record."""
        now_ms = time.time_ns() // 1_000_000
        newest: dict[tuple[str, int], Any] = {}
        batches: list[Batch] = []
        for record in records:
            headers = list(record.headers)
            self._check_size(record, headers)
            partition = self.partition if record.partition is None else record.partition
            where = (record.topic, partition)
            builder = newest.get(where)
            while builder is None or not builder.append(
                timestamp=now_ms, key=record.key, value=record.value, headers=headers
            ):
                if where not in self._places:
                    raise ValueError(f"{self._place} writes nothing to {record.topic}/{partition}: see writes_to")
                builder = newest[where] = producer.create_batch()
                batches.append((builder, record.topic, partition))
        return batches

    def _check_size(self, record: Record, headers: list[tuple[str, bytes]]) -> None:
        limit = self._limits.topic_max_record_bytes.get(record.topic, self._limits.max_record_bytes)
        size = DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, headers)
        if size > limit:
            raise ValueError(f"a record for {record.topic} has {size} bytes, {limit} are allowed there")

    async def _settle(self, producer: AIOKafkaProducer, attempt: asyncio.Task[None]) -> BaseException | None:
        """Why the attempt failed, None when it only took too long. Ends the transaction if the broker still listens.

        A process that was frozen past its deadline may learn only here that it was fenced meanwhile.
        """
        if not attempt.done():
            await asyncio.wait({attempt}, timeout=self._limits.abort_s)
        if not attempt.done():
            return None
        error = attempt.exception()
        if error is not None and not is_fenced(producer, error):
            try:
                async with asyncio.timeout(self._limits.abort_s):
                    await producer.abort_transaction()
            except (KafkaError, AssertionError, TimeoutError) as abort_error:
                if is_fenced(producer, abort_error):
                    return abort_error
        return error

    def _drop(self, attempt: asyncio.Task[None] | None = None) -> None:
        """Give the producer up for good; its connections are closed behind the caller's back."""
        producer, self._producer = self._producer, None
        if producer is not None:
            ending = asyncio.create_task(end(producer, attempt, self._limits.abort_s))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
