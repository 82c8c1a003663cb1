"""The state of one partition on Kafka: its rows, and the transactions that write them.

Kafka is the lock (docs/decisions/02-kafka-as-the-lock.md). The last producer to start with the
partition's transactional id owns the partition, and all writes of earlier owners fail. So
`take_over` fences first and reads the rows afterwards.

Relies on the insides of aiokafka 0.14.0, which tests/unit/kafka/test_faust_pins.py pins.
"""

import asyncio
import math
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition, errors
from aiokafka.client import CoordinationType
from aiokafka.cluster import ClusterMetadata
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from stream_app.domain.model.errors import (
    Aborted,
    BrokerUnavailable,
    Fenced,
    StateStoreError,
    TopicsError,
)
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.model.system import deletion_problem
from stream_app.kafka.clock import KafkaClock
from stream_app.kafka.connection import KafkaConnection, end, kafka_producer, stop_consumer
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.readers import fetch, waiting
from stream_app.kafka.takeover.refusals import Refusals
from stream_app.kafka.takeover.requests import KafkaTransactions, ended
from stream_app.kafka.takeover.steps import take_over
from stream_app.kafka.takeover.view import NO_LEADER, ClusterView
from stream_app.kafka.topics import KnownTopics
from stream_app.tasks import causes, finish, retrieve

_REFUSED = (
    errors.IncompatibleBrokerVersion,
    errors.InvalidTransactionTimeout,
    errors.TopicAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)
_FENCED = (errors.ProducerFenced, errors.InvalidProducerEpoch, errors.InvalidProducerIdMapping)
_START_AGAIN = "this process must stop; start it again and it joins as a new one"
_RETRY_S = 0.5
# Small rows of this size take 50 ms of CPU, so that a reload does not delay other partitions.
_FETCH_BYTES = 4 * 2**20
_BATCH_BYTES = 256 * 2**10

Batch = tuple[Any, str, int]
"""A filled batch of `create_batch`, its topic and its partition."""


@dataclass(frozen=True, slots=True)
class StateStoreLimits:
    """Times in seconds and sizes in bytes.

    `transact_s` + 2 x `abort_s` must be below the group's session timeout less its heartbeat
    interval. A process that took longer was frozen. The group may have evicted it, so it must not
    take over again.

    Attributes:
        take_over_s: the limit for a take-over.
        transact_s: the limit for a transaction.
        abort_s: the limit for each of two steps that clean up after a transaction that failed or
            was cancelled.
        request_s: the limit for a request.
        transaction_timeout_s: after this time the broker aborts a transaction that its owner left
            open.
        max_record_bytes: the limit for a record of a topic that `topic_max_record_bytes` does not
            name. It leaves room for the header of the batch below the topic's `max.message.bytes`.
        topic_max_record_bytes: the limits for records by topic.
    """

    take_over_s: float = 60.0
    transact_s: float = 8.0
    abort_s: float = 1.5
    request_s: float = 10.0
    transaction_timeout_s: float = 60.0
    max_record_bytes: int = 1_000_000
    topic_max_record_bytes: dict[str, int] = field(default_factory=dict)


class TransactionalState:
    """Reads the rows of one partition of the state topic, and writes all that the partition writes.

    It connects in `take_over`. Two tasks must not use it at the same time. The partition's
    `Commits` owns it.

    Args:
        transactional_id: Identifies the partition's producer. A later producer with this id fences
            it.
        state_topic: The topic of the rows.
        known: The topics that this process has seen.
        writes_to: The topics and partitions that transactions write to, besides that of the rows.
        writes_to_all_of: Topics that they write to in any partition that there is.
        clock: Compares Kafka's clock with the local one at each transaction.
        view: The requests that it shares with other partitions. None: it has its own.
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
        writes_to_all_of: Collection[str] = (),
        clock: KafkaClock | None = None,
        view: ClusterView | None = None,
    ) -> None:
        self.transactional_id = transactional_id
        self.partition = partition
        self._connection = connection
        self._rows_at = TopicPartition(state_topic, partition)
        self._limits = limits or StateStoreLimits()
        self._known = known or KnownTopics()
        self._own = {self._rows_at, *writes_to}
        self._everywhere = writes_to_all_of
        self._producer: AIOKafkaProducer | None = None
        self._refusals = Refusals()
        self._clock = clock
        self._view = view or ClusterView(connection)
        self._owns_view = view is None
        self._closing: set[asyncio.Task[None]] = set()

    async def take_over(self, fence_within_s: float = math.inf) -> dict[bytes, bytes]:
        """Fence every earlier owner, then return all committed rows by key.

        Required again after Aborted.

        Args:
            fence_within_s: the limit for the fence, in seconds. The limit for all of it is
                `take_over_s`.

        Raises:
            BrokerUnavailable: a limit was exceeded.
            StateStoreError: the broker refuses permanently.
            TopicsError: the state topic was deleted and created again, or rows were deleted.
                Without them it would not be known which leads were sent.
        """
        self._drop()
        began = asyncio.get_running_loop().time()
        deadline = began + self._limits.take_over_s
        last: BaseException | None = None
        while True:
            try:
                # The fence first: after it no earlier owner can write, so the rows that are read
                # stay as they are.
                async with asyncio.timeout_at(min(deadline, began + fence_within_s)):
                    await self._fence()
                async with asyncio.timeout_at(deadline):
                    return await self._load()
            except _REFUSED as refused:
                self._drop()
                raise StateStoreError(
                    f"Kafka refuses the state {self.transactional_id} on "
                    f"{self._rows_at.topic}: {refused}: the "
                    "worker needs Kafka 3.0 or newer, Write and Describe on its "
                    "transactional ids, Read and Write "
                    "on all topics that it writes to, and transaction.max.timeout.ms of at "
                    "least 601000",
                ) from refused
            except TimeoutError as late:
                self._drop()
                after_s = asyncio.get_running_loop().time() - began
                why = self._refusals.text() or (
                    f"{last or 'no answer'}: is {self._connection.bootstrap} up, does the "
                    "topic exist, and does no "
                    "other transaction hold it open?"
                )
                raise BrokerUnavailable(
                    f"{self._place} was not taken over within {after_s:.0f} s: {why}",
                ) from (last or late)
            except (errors.KafkaError, OSError) as error:
                last = error
                self._drop()
                await asyncio.sleep(_RETRY_S)
            except BaseException:
                self._drop()
                raise

    async def waiting(self, topic: str, offset: int, max_records: int) -> list[ConsumedRecord]:
        """Return at most `max_records` of this partition of another topic, to its current end.

        They begin at `offset`.

        Raises:
            BrokerUnavailable: Kafka did not answer in time.
        """
        # On an error, it is tried again below for as long as it may take.
        with suppress(errors.KafkaError, OSError):
            begin, end, _ = await self._view.span(TopicPartition(topic, self.partition))
            if begin == end or offset == end:
                return []
        return await waiting(
            self._connection,
            topic,
            self.partition,
            offset,
            max_records,
            self._limits.take_over_s,
        )

    async def fetch(self, record_ids: Sequence[str]) -> dict[str, ConsumedRecord]:
        """Fetch records of any topic by their ids; see `readers.fetch`."""
        return await fetch(self._connection, record_ids)

    async def transact(self, records: Sequence[Record]) -> None:
        """Write all of `records` in one transaction.

        They are committed and readable when this returns. Where it is cancelled, the transaction
        ends first, unless Kafka takes longer than 2 x `abort_s`. As after Aborted, only `take_over`
        can find out how it ended.

        Raises:
            ValueError: a record is too large, or `writes_to` does not name its partition. Nothing
                was written.
            Fenced: a later owner exists, or may exist because this process was frozen. Write
                nothing more.
            Aborted: the transaction failed, within `transact_s` + 2 x `abort_s`. It is unknown
                whether the records are committed; only `take_over` can find out.
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
            error = await self._abort_attempt(producer, attempt)
        except BaseException:
            # Before the drop: Kafka keeps a transaction that is cut off open for as long as
            # `transaction_timeout_s`, and readers see nothing beyond it.
            await finish(self._abort_attempt(producer, attempt))
            self._drop(attempt)
            raise
        self._drop(attempt)
        if is_fenced(producer, error):
            raise Fenced(f"{self._place} has a later owner: {_START_AGAIN}") from error
        # The awaits above end within `transact_s` + 2 x `abort_s`. If they took longer, this
        # process was frozen, and the group may have given the partition to another one, which a
        # take-over would fence. No answer of Kafka shows that, so the clock is the fence here.
        stood_still_s = loop.time() - began - self._limits.transact_s - 2 * self._limits.abort_s
        if stood_still_s > 1:
            raise Fenced(
                f"{self._place} may have a later owner, as this process was frozen: {_START_AGAIN}",
            ) from error
        reason = (
            self._refusals.text(places(batches))
            or f"no answer within {self._limits.transact_s:g} s"
        )
        if error is not None:
            reason = describe_failure(producer, error)
        if self._clock is not None and self._clock.text:
            reason = f"{reason}; {self._clock.text}"
        raise Aborted(f"{self._place}: the transaction failed ({reason})") from error

    async def close(self) -> None:
        """Close the connections. Records that are not committed never will be."""
        self._drop()
        while self._closing:
            await asyncio.wait(self._closing)
        if self._owns_view:
            await self._view.close()

    @property
    def _place(self) -> str:
        return f"partition {self.partition} of {self._rows_at.topic} ({self.transactional_id})"

    def _written(self, cluster: ClusterMetadata) -> set[TopicPartition]:
        """Return all places to which any owner has written.

        Among them are places that another configuration does not have.
        """
        written = {TopicPartition(*place) for place in self._own}
        for topic in self._everywhere:
            written.update(
                TopicPartition(topic, number)
                for number in cluster.partitions_for_topic(topic) or ()
            )
        return written

    async def _fence(self) -> None:
        producer = kafka_producer(
            **self._connection.settings(),
            client_id=f"{self.transactional_id}-producer",
            transactional_id=self.transactional_id,
            transaction_timeout_ms=_ms(self._limits.transaction_timeout_s),
            request_timeout_ms=_ms(self._limits.request_s),
            max_batch_size=_BATCH_BYTES,
        )
        # Set before the start, so that _drop also closes a producer whose start failed halfway.
        self._producer = producer
        client = producer.client
        topics = {*(topic for topic, _ in self._own), *self._everywhere}
        self._refusals.watch(client)
        if self._clock is not None:
            self._clock.watch(client)
        try:
            await self._view.refresh(topics)
            self._view.supply(client, topics)
            name = self.transactional_id
            node = await producer._sender._find_coordinator(CoordinationType.TRANSACTION, name)
        # It is aiokafka's, when a broker answers before it has rejoined its cluster.
        except AssertionError as error:
            raise errors.NodeNotReadyError(
                f"Kafka at {self._connection.bootstrap} names no broker yet",
            ) from error
        written = partial(self._written, client.cluster)
        transactions = KafkaTransactions(
            client,
            node,
            name,
            written,
            self._rows_at,
            self._view,
            self._refusals,
        )
        fenced = await take_over(transactions, _ms(self._limits.transaction_timeout_s))
        # Before the sender starts: without an id, it would fetch one itself, which fences again.
        producer._txn_manager.set_pid_and_epoch(*fenced)
        # Not `start()`, which would connect and fence a second time.
        await producer._sender.start()

    async def _load(self) -> dict[bytes, bytes]:
        begin, end, node = await self._view.span(self._rows_at)
        if problem := deletion_problem(begin):
            raise TopicsError([f"{self._rows_at.topic}/{self.partition}: {problem}"])
        rows, node = await self._read() if begin < end else ({}, node)
        topic = self._rows_at.topic
        # Asked after the read: a broker that was frozen may have answered it, from a log without
        # the newest rows, and not know its successor. Then `require` refuses what was read.
        newest = await self._view.leaders([topic])
        if node not in newest.topics:
            raise errors.RequestTimedOutError(
                f"broker {node}, the leader of {topic}/{self.partition}, does not answer",
            )
        self._known.compare([topic], newest.topics[node])
        newest.require({self._rows_at: node})
        return rows

    async def _read(self) -> tuple[dict[bytes, bytes], int]:
        """Read all rows. Returns them, and the broker that they were read from."""
        consumer = Consumer(
            **self._connection.settings(),
            client_id=f"{self.transactional_id}-load",
            fetch_max_wait_ms=20,
            max_partition_fetch_bytes=_FETCH_BYTES,
            request_timeout_ms=_ms(self._limits.request_s),
        )
        rows: dict[bytes, bytes] = {}
        try:
            await consumer.start()
            consumer.assign([self._rows_at])
            # A leader that does not know its high-water mark yet refuses ListOffsets, but no fetch.
            end = (await consumer.end_offsets([self._rows_at]))[self._rows_at]
            while not await self._at_end(consumer, end):
                for records in (await consumer.getmany(self._rows_at, timeout_ms=100)).values():
                    for record in records:
                        if record.value is None:
                            rows.pop(record.key, None)
                        else:
                            rows[record.key] = record.value
            leader: int = consumer._client.cluster.leader_for_partition(self._rows_at)
        finally:
            await stop_consumer(consumer)
        return rows, leader

    async def _at_end(self, consumer: Consumer, end: int) -> bool:
        """Return True if everything was read, including markers and aborted records.

        It compares with the high water mark and not with the last stable offset: rows after an open
        transaction of another producer can be committed but are not readable yet.
        """
        high_water = consumer.highwater(self._rows_at)
        return high_water is not None and await consumer.position(self._rows_at) >= max(
            end,
            high_water,
        )

    def _pack(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> list[Batch]:
        """Pack the records into one batch a topic and partition, or more if it gets too large.

        This is 20 times cheaper than one future a record.
        """
        now_ms = time.time_ns() // 1_000_000
        newest: dict[tuple[str, int], Any] = {}
        batches: list[Batch] = []
        for record in records:
            headers = list(record.headers)
            limit = self._limits.topic_max_record_bytes.get(
                record.topic,
                self._limits.max_record_bytes,
            )
            size = DefaultRecordBatchBuilder.estimate_size_in_bytes(
                record.key,
                record.value,
                headers,
            )
            if size > limit:
                raise ValueError(
                    f"a record for {record.topic} has {size} bytes, {limit} are allowed there",
                )
            partition = self.partition if record.partition is None else record.partition
            where = (record.topic, partition)
            builder = newest.get(where)
            while builder is None or not builder.append(
                timestamp=now_ms,
                key=record.key,
                value=record.value,
                headers=headers,
            ):
                if where not in self._own and record.topic not in self._everywhere:
                    raise ValueError(
                        f"{self._place} must not write to {record.topic}/{partition}: add it "
                        "to writes_to",
                    )
                builder = producer.create_batch()
                newest[where] = builder
                batches.append((builder, record.topic, partition))
        return batches

    async def _abort_attempt(
        self,
        producer: AIOKafkaProducer,
        attempt: asyncio.Task[None],
    ) -> BaseException | None:
        """Abort the transaction if the broker answers, and return why the attempt failed.

        None: it took too long.

        A process that was frozen past its deadline may learn only here that it was fenced.
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
            except (errors.KafkaError, AssertionError, TimeoutError) as abort_error:
                if is_fenced(producer, abort_error):
                    return abort_error
        return error

    def _drop(self, attempt: asyncio.Task[None] | None = None) -> None:
        """Drop the producer. Its connections are closed in the background."""
        producer = self._producer
        self._producer = None
        if producer is not None:
            ending = asyncio.create_task(end(producer, attempt, self._limits.abort_s))
            self._closing.add(ending)
            ending.add_done_callback(self._closing.discard)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


async def commit(producer: AIOKafkaProducer, batches: Sequence[Batch]) -> None:
    """Begin, send all, commit, and wait until the end is visible in all partitions.

    Where the transaction is still open, an abort of the next one would undo it.

    Raises:
        KafkaError: A step failed. It is unknown whether the transaction is committed.
    """
    await producer.begin_transaction()
    sent: dict[asyncio.Future[Any], str] = {}
    for builder, topic, partition in batches:
        try:
            future = await producer.send_batch(builder, topic, partition=partition)
        except errors.UnknownTopicOrPartitionError as unknown:  # It names no topic.
            raise errors.KafkaError(f"{topic}/{partition} {NO_LEADER}") from unknown
        future.add_done_callback(retrieve)
        sent[future] = f"{topic}/{partition}"
    # aiokafka commits a transaction even if some of its batches failed. Only these futures show the
    # failure.
    done, _ = await asyncio.wait(sent, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        if (error := future.exception()) is not None:
            raise errors.KafkaError(f"{sent[future]} did not take it: {error!r}") from error
    await producer.commit_transaction()
    await ended(producer.client, producer._txn_manager.producer_id, places(batches))


def places(batches: Iterable[Batch]) -> set[TopicPartition]:
    """Return the partitions of the batches."""
    return {TopicPartition(topic, partition) for _, topic, partition in batches}


def is_fenced(producer: AIOKafkaProducer, error: BaseException | None) -> bool:
    """Return True if an error means that a later producer has this id.

    It is `error`, or the failure of the producer's sender. The sender is asked too, because
    aiokafka hands out copies of its failure that have lost their cause. An unknown producer id
    counts as fenced: the id has expired, so another producer may have taken it.
    """
    return any(
        isinstance(cause, _FENCED)
        for start in (error, _died_of(producer))
        for cause in causes(start)
    )


def describe_failure(producer: AIOKafkaProducer, error: BaseException) -> str:
    """Describe an error for a person.

    The sender's own failure comes first: aiokafka hides its cause elsewhere.
    """
    died_of = _died_of(producer)
    if died_of is not None:
        why = died_of.__cause__ or died_of
        return f"aiokafka's producer ended with {why!r}: look at the brokers, and at their logs"
    return str(error) if isinstance(error, errors.KafkaError) else repr(error)


def _died_of(producer: AIOKafkaProducer) -> BaseException | None:
    sender = producer._sender.sender_task
    return (
        sender.exception()
        if sender is not None and sender.done() and not sender.cancelled()
        else None
    )
