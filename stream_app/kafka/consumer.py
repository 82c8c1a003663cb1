"""aiokafka's consumer, with batches that cannot be read kept to their own partition.

A fetch brings batches of records. A batch may be damaged (its checksum does not match, its
compressed bytes are broken), or written in a way that this version cannot decode. aiokafka raises
there, and drops sound records of other partitions that it had just decoded
(docs/reference/upstream/sound-records-are-dropped.md). This consumer returns all sound records
before such a batch, stops its partition, and reads the others on. It tries the batch again now and
then: another replica may have a sound copy. Before that it asks whether an operator has given the
batch up, with `stream-app skip` (`skipped_group`).

A broker may not yet know a topic that was just created. aiokafka asks again after five minutes, and
until then its group assigns no partition of that topic
(docs/reference/upstream/a-new-topic-is-not-assigned.md). This consumer asks again after a second.

Its records take half of the CPU of a fetch, and keep the garbage collector busy. This consumer
returns `PlainRecord` instead, and bounds what the bytes of a producer can make of it: the records
of a batch (batches.py), and those of a poll, which end after `MAX_POLLED_BYTES`.

aiokafka asks for the committed offset of one partition after the other. This consumer asks once for
all, because a worker may have 256 partitions of each of seven topics.

Relies on the insides of aiokafka 0.14.0's fetcher, which tests/unit/kafka/test_faust_pins.py pins.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest

from stream_app.domain.model.errors import UnreadableBatch
from stream_app.kafka import codecs
from stream_app.kafka.batches import PlainRecord, Unpacked, unpack
from stream_app.kafka.bounded_client import bind

log = logging.getLogger(__name__)

_TRY_AGAIN_S: Final = 30.0
_LOOKS: Final = 6
"""How often it asks whether a batch was given up before it tries the batch again."""
_ASK_AGAIN_S: Final = 1.0
MAX_POLLED_BYTES: Final = 8_388_608
"""A poll returns no further record once those that it has take this many bytes of memory."""
_MAGIC_AT: Final = 16
_LAST_DELTA_AT: Final = 23
_HEADER_BYTES: Final = 61
_CORRUPT: Final = CorruptRecordException.errno


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka ships no types
    """An AIOKafkaConsumer on a `BoundedClient`.

    `getmany` raises UnreadableBatch when it has nothing else to return.

    It reads committed records from the beginning, and commits no offsets by itself, where its
    options do not differ. The consumer of a group logs the error, and continues with its other
    partitions. `inputs`: the topics to which producers write (batches.py).
    """

    on_skipped: Callable[[UnreadableBatch], None] | None = None
    """Called, in the consumer's thread, when a batch was passed that an operator gave up."""

    def __init__(self, *topics: str, inputs: frozenset[str] = frozenset(), **options: Any) -> None:
        committed = {
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "enable_auto_commit": False,
        }
        codecs.install()
        super().__init__(*topics, **committed | options)
        self._inputs = inputs
        self._unpacked = Unpacked()
        self._room_bytes = MAX_POLLED_BYTES
        self._raw: dict[TopicPartition, bytes] = {}
        self._stopped: dict[TopicPartition, tuple[UnreadableBatch, Any]] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        bind(self._client)

    async def start(self) -> None:
        if self._group_id is not None:
            self._client.cluster.add_listener(self._ask_again_if_unknown)
        await super().start()
        self._send = self._client.send
        self._client.send = self._watched_send
        self._fetcher._records = _Fetched(self._guard)
        fetched_records = self._fetcher.fetched_records

        async def bounded(*args: Any, **options: Any) -> dict[TopicPartition, list[PlainRecord]]:
            self._room_bytes = MAX_POLLED_BYTES
            polled: dict[TopicPartition, list[PlainRecord]] = await fetched_records(
                *args,
                **options,
            )
            return polled

        self._fetcher.fetched_records = bounded

    async def stop(self) -> None:
        for task in self._waiting:
            task.cancel()
        await super().stop()

    def _ask_again_if_unknown(self, cluster: Any) -> None:
        if any(cluster.partitions_for_topic(topic) is None for topic in self._client._topics):
            asyncio.get_running_loop().call_later(_ASK_AGAIN_S, self._client.force_metadata_update)

    async def seek_to_committed(self) -> dict[TopicPartition, int | None]:
        """Seek to the committed offsets.

        Returns them for each assigned partition, None where there is none.
        """
        assigned = self.assignment()
        committed = await self._coordinator.fetch_committed_offsets(assigned)
        for tp in committed.keys() & self.assignment():  # it may have changed meanwhile
            self.seek(tp, committed[tp].offset)
        return {tp: committed[tp].offset if tp in committed else None for tp in assigned}

    @property
    def unreadable(self) -> dict[TopicPartition, UnreadableBatch]:
        """The assigned partitions that have stopped before a batch."""
        return {
            tp: batch
            for tp, (batch, assignment) in list(self._stopped.items())
            if assignment.active
        }

    async def getmany(
        self,
        *partitions: TopicPartition,
        **options: Any,
    ) -> dict[TopicPartition, list[Any]]:
        """See aiokafka.

        Raises UnreadableBatch where no more can be read of one of these partitions.
        """
        polled: dict[TopicPartition, list[Any]] = await super().getmany(*partitions, **options)
        if not polled:
            for tp, batch in self.unreadable.items():
                if not partitions or tp in partitions:
                    raise batch
        return polled

    def skip(self, batch: UnreadableBatch) -> None:
        tp = TopicPartition(batch.topic, batch.partition)
        self._stopped.pop(tp, None)
        self.seek(tp, batch.last + 1)
        self.resume(tp)

    async def _pass_if_given_up(self, batch: UnreadableBatch) -> bool:
        """Pass the batch if an operator has given up exactly it. Returns True if so."""
        request = OffsetFetchRequest(
            skipped_group(self._group_id),
            [(batch.topic, [batch.partition])],
        )
        try:
            node = await self._client.coordinator_lookup(
                CoordinationType.GROUP,
                skipped_group(self._group_id),
            )
            answer = await self._client.send(node, request)
        except KafkaError as error:
            log.info("cannot ask whether %s is given up: %r", batch, error)
            return False
        offsets = [offset for _, partitions in answer.topics for _, offset, *_ in partitions]
        tp = TopicPartition(batch.topic, batch.partition)
        if offsets != [batch.last + 1] or tp not in self.assignment():
            return False
        log.warning(
            "%s/%d: offsets %d to %d are skipped",
            batch.topic,
            batch.partition,
            batch.first,
            batch.last,
        )
        self.skip(batch)
        if self.on_skipped is not None:
            self.on_skipped(batch)
        return True

    async def _watched_send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Keep the fetched bytes, which aiokafka does not show.

        A broker may also report a damaged log.
        """
        answer = await self._send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            for topic, partitions in answer.topics:
                for number, code, *_, raw in partitions:
                    tp = TopicPartition(topic, number)
                    if code == _CORRUPT:
                        self._refused(tp)
                    else:
                        self._raw[tp] = raw or b""
        return answer

    def _refused(self, tp: TopicPartition) -> None:
        subscription = self._subscription.subscription
        assignment = subscription and subscription.assignment
        if (
            assignment is not None
            and tp in assignment.tps
            and assignment.state_value(tp).has_valid_position
        ):
            at = assignment.state_value(tp).position
            cause = "its broker says that its log is damaged there"
            self._stop(UnreadableBatch(tp.topic, tp.partition, at, at, cause), assignment)

    def _guard(self, tp: TopicPartition, result: Any) -> None:
        """Make the decoding of a fetch stop before a batch that cannot be read."""
        records = result._partition_records
        raw = self._raw.pop(tp, b"")
        decoding = unpack(tp, records, raw, self._inputs, self._unpacked)
        records._records_iterator = self._guarded(tp, records, decoding, raw, result._assignment)
        result.getall = partial(self._take, result)

    def _take(self, result: Any, max_records: int | None = None) -> list[PlainRecord]:
        """Return the next records of a fetch, as many as the poll has room for.

        It replaces `FetchResult.getall` of aiokafka.
        """
        tp = result._topic_partition
        if self._room_bytes <= 0 or not result.check_assignment(tp) or not result.has_more():
            return []
        taken: list[PlainRecord] = []
        for record in result._partition_records._records_iterator:
            taken.append(record)
            self._room_bytes -= record.memory_bytes
            if self._room_bytes <= 0 or len(taken) == max_records:
                result._update_position()
                return taken
        result._update_position()
        result._partition_records = None
        return taken

    def _guarded(
        self,
        tp: TopicPartition,
        records: Any,
        decoding: Iterator[Any],
        raw: bytes,
        assignment: Any,
    ) -> Iterator[Any]:
        try:
            yield from decoding
        except Exception as error:  # noqa: BLE001 - decoders raise errors of all kinds
            self._stop(_unreadable(tp, records.next_fetch_offset, raw, error), assignment)
        else:
            if self._stopped.pop(tp, None) is not None and self._group_id is not None:
                log.warning("%s/%d can be read again", *tp)

    def _stop(self, batch: UnreadableBatch, assignment: Any) -> None:
        tp = TopicPartition(batch.topic, batch.partition)
        if not assignment.active or tp not in assignment.tps:
            return
        before = self._stopped.get(tp)
        if self._group_id is not None and (before is None or before[0].first != batch.first):
            log.error("%s", batch)
        self._stopped[tp] = (batch, assignment)
        assignment.state_value(tp).pause()
        waiting = asyncio.create_task(self._try_again(tp, assignment))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    async def _try_again(self, tp: TopicPartition, assignment: Any) -> None:
        for _ in range(_LOOKS):
            await asyncio.sleep(_TRY_AGAIN_S / _LOOKS)
            stopped = self._stopped.get(tp)
            if stopped is None or stopped[1] is not assignment or not assignment.active:
                return
            if self._group_id is not None and await self._pass_if_given_up(stopped[0]):
                return
        if assignment.active:  # it may have ended during the question
            assignment.state_value(tp).resume()


def skipped_group(group: str) -> str:
    """Return the group whose committed offsets say which batches another group passes over.

    Each of these offsets is the end of such a batch. A group with members takes offsets from them
    only, so an operator needs another place to write to.
    """
    return f"{group}-skipped"


class _Fetched(OrderedDict[TopicPartition, Any]):
    """The fetcher's results by partition. `guard` gets each of them first."""

    def __init__(self, guard: Callable[[TopicPartition, FetchResult], None]) -> None:
        super().__init__()
        self._guard = guard

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            self._guard(tp, result)
        super().__setitem__(tp, result)


def _unreadable(tp: TopicPartition, first: int, raw: bytes, error: Exception) -> UnreadableBatch:
    try:
        last = _last_of_batch(raw, first)
    except (LookupError, struct.error):
        last = first
    if isinstance(error, CorruptRecordException) and "CRC" in str(error):
        cause = "its checksum does not match"
    else:
        is_ours = isinstance(error, codecs.BatchTooLarge | codecs.BrokenBatch)
        cause = str(error) if is_ours else f"{type(error).__name__}: {error}"
    return UnreadableBatch(tp.topic, tp.partition, first, last, cause)


def _last_of_batch(raw: bytes, offset: int) -> int:
    """Return the last offset of the batch with that offset. Raises LookupError, struct.error."""
    at = 0
    while at + _HEADER_BYTES <= len(raw):
        base, length = struct.unpack_from(">qi", raw, at)
        if length <= 0 or raw[at + _MAGIC_AT] != 2:
            break
        (delta,) = struct.unpack_from(">i", raw, at + _LAST_DELTA_AT)
        last: int = base + delta
        if base <= offset <= last:
            return last
        at += 12 + length
    raise LookupError(f"no batch with offset {offset} was fetched")
