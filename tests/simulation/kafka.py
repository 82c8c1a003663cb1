"""Kafka in memory, as far as the line can tell: logs, transactions with markers and fencing, groups with generations.

It answers at once and never fails; what lies between it and a process (delay, loss, a frozen client) is the caller's.
Readers see what `read_committed` shows: nothing at or behind the first open transaction, nothing aborted, no markers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stream_app.core.record import Record, Taken


class ProducerFenced(Exception):
    """The request carries an older epoch than the transactional id has."""


class StaleGeneration(Exception):
    """The member is not (or no longer) in this generation of the group."""


class Transaction:
    __slots__ = ("logs", "records", "state")

    def __init__(self) -> None:
        self.state = "open"
        self.logs: dict[Log, None] = {}
        self.records: list[Taken] = []


class Stored(NamedTuple):
    taken: Taken | None  # None: a marker
    transaction: Transaction | None


class Log:
    """One partition of one topic."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.entries: list[Stored] = []
        self.open: dict[Transaction, int] = {}
        self.readers: list[Callable[[], None]] = []

    @property
    def end(self) -> int:
        return len(self.entries)

    @property
    def last_stable(self) -> int:
        return next(iter(self.open.values())) if self.open else len(self.entries)

    def peek(self, record: Record, timestamp_ms: int) -> Taken:
        """The record as it would be if it were appended now."""
        return Taken(
            self.topic, self.partition, len(self.entries), record.key, record.value, record.headers, timestamp_ms
        )

    def append(self, record: Record, timestamp_ms: int, transaction: Transaction | None) -> Taken:
        taken = self.peek(record, timestamp_ms)
        self.entries.append(Stored(taken, transaction))
        if transaction is not None:
            self.open.setdefault(transaction, taken.offset)
        return taken

    def read(self, position: int) -> Taken | None:
        """The first visible record at or after `position`."""
        stable = self.last_stable
        while position < stable:
            taken, transaction = self.entries[position]
            if taken is not None and (transaction is None or transaction.state == "committed"):
                return taken
            position += 1
        return None

    def committed(self) -> list[Taken]:
        """All that a `read_committed` consumer can read."""
        return [
            taken
            for taken, transaction in self.entries[: self.last_stable]
            if taken is not None and (transaction is None or transaction.state == "committed")
        ]

    def changed(self) -> None:
        readers, self.readers = self.readers, []
        for wake in readers:
            wake()


class _Producer:
    __slots__ = ("epoch", "transaction")

    def __init__(self) -> None:
        self.epoch = 0
        self.transaction: Transaction | None = None


class MemoryKafka:
    """`now_ms`: append time. `on_commit` is told the records of each transaction, and each single record written."""

    def __init__(self, now_ms: Callable[[], int] = lambda: 0) -> None:
        self._now_ms = now_ms
        self._logs: dict[tuple[str, int], Log] = {}
        self._producers: defaultdict[str, _Producer] = defaultdict(_Producer)
        self._offsets: dict[tuple[str, str, int], int] = {}
        self._generations: defaultdict[str, int] = defaultdict(int)
        self.on_fence: Callable[[str], None] = lambda transactional_id: None
        self.on_commit: Callable[[Sequence[Taken]], None] = lambda records: None
        self.on_offset: Callable[[str, Log, int, int], None] = lambda group, log, before, after: None

    def log(self, topic: str, partition: int) -> Log:
        log = self._logs.get((topic, partition))
        if log is None:
            log = self._logs[topic, partition] = Log(topic, partition)
        return log

    # ------------------------------------------------------------------------------------------------- producers

    def produce(self, partition: int, record: Record) -> Taken:
        """One record without a transaction."""
        log = self.log(record.topic, partition if record.partition is None else record.partition)
        taken = log.append(record, self._now_ms(), None)
        self.on_commit([taken])
        log.changed()
        return taken

    def init_producer(self, transactional_id: str) -> int:
        """Fence all earlier holders of the id, abort what they left open; returns the new epoch."""
        producer = self._producers[transactional_id]
        producer.epoch += 1
        self.on_fence(transactional_id)
        self._end(producer, "aborted")
        return producer.epoch

    def send(self, transactional_id: str, epoch: int, partition: int, records: Sequence[Record]) -> list[Taken]:
        """Append records to the producer's transaction, which begins with them if none is open."""
        producer = self._checked(transactional_id, epoch)
        if producer.transaction is None:
            producer.transaction = Transaction()
        transaction = producer.transaction
        sent: list[Taken] = []
        for record in records:
            log = self.log(record.topic, partition if record.partition is None else record.partition)
            sent.append(log.append(record, self._now_ms(), transaction))
            transaction.logs[log] = None
        transaction.records.extend(sent)
        return sent

    @property
    def open_transactions(self) -> list[str]:
        return [name for name, producer in self._producers.items() if producer.transaction is not None]

    def end(self, transactional_id: str, epoch: int, commit: bool) -> None:
        """Write the commit or abort markers."""
        self._end(self._checked(transactional_id, epoch), "committed" if commit else "aborted")

    def _checked(self, transactional_id: str, epoch: int) -> _Producer:
        producer = self._producers[transactional_id]
        if producer.epoch != epoch:
            raise ProducerFenced(transactional_id)
        return producer

    def _end(self, producer: _Producer, state: str) -> None:
        transaction, producer.transaction = producer.transaction, None
        if transaction is None:
            return
        transaction.state = state
        for log in transaction.logs:
            log.entries.append(Stored(None, None))
            del log.open[transaction]
        if state == "committed":
            self.on_commit(transaction.records)
        for log in transaction.logs:
            log.changed()

    # ---------------------------------------------------------------------------------------------------- groups

    def generation(self, group: str) -> int:
        return self._generations[group]

    def next_generation(self, group: str) -> int:
        self._generations[group] += 1
        return self._generations[group]

    def offset(self, group: str, topic: str, partition: int) -> int | None:
        """The group's committed offset: where whoever owns the partition next begins."""
        return self._offsets.get((group, topic, partition))

    def commit_offset(self, group: str, generation: int, topic: str, partition: int, offset: int) -> None:
        if generation != self._generations[group]:
            raise StaleGeneration(group)
        before = self._offsets.get((group, topic, partition), 0)
        self._offsets[group, topic, partition] = offset
        self.on_offset(group, self.log(topic, partition), before, offset)
