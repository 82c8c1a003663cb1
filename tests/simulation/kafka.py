"""Kafka in memory, as far as the line can tell: logs, transactions with markers and fencing, groups
with generations.

It answers at once and never fails; what lies between it and a process (delay, loss, a frozen
client) is the caller's. Readers see what `read_committed` shows: nothing at or behind the first
open transaction, nothing aborted, no markers.

A transaction's coordinator has the states of Kafka's own. Like KRaft's it writes no end marker
where a partition has no leader, and calls the transaction complete; there the producer's next
marker decides over what is open.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.model.system import SYSTEM_KEY, system_row
from stream_app.domain.plan import Plan
from stream_app.kafka.takeover.steps import LastTransaction

ORDINARY_TIMEOUT_MS: Final = 60_000


class ProducerFenced(Exception):
    """The request carries an older epoch than the transactional id has."""


class StaleGeneration(Exception):
    """The member is not (or no longer) in this generation of the group."""


class ConcurrentTransactions(Exception):
    """The coordinator is still ending the last transaction: ask again."""


class InvalidState(Exception):
    """There is no transaction to end, or it ends in the other way."""


class NoLeader(Exception):
    """A partition has no leader."""


class Transaction:
    """One transaction as its coordinator sees it.

    `decided`: whether it was committed; None while it is ongoing.
    """

    __slots__ = ("decided", "logs", "records")

    def __init__(self) -> None:
        self.decided: bool | None = None
        self.logs: dict[Log, None] = {}
        self.records: list[ConsumedRecord] = []


class Stretch:
    """What a producer has open in one log up to its next marker: several transactions, where a
    marker was missed.
    """

    __slots__ = ("begins", "state", "transactions")

    def __init__(self, begins: int) -> None:
        self.begins = begins
        self.state = "open"
        self.transactions: dict[Transaction, None] = {}


class Stored(NamedTuple):
    consumed: ConsumedRecord | None  # None: a marker
    stretch: Stretch | None


class Log:
    """One partition of one topic."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.entries: list[Stored] = []
        self.open: dict[str, Stretch] = {}  # by transactional id
        self.readers: list[Callable[[], None]] = []

    @property
    def end(self) -> int:
        return len(self.entries)

    @property
    def last_stable(self) -> int:
        return min((stretch.begins for stretch in self.open.values()), default=len(self.entries))

    def peek(self, record: Record, timestamp_ms: int) -> ConsumedRecord:
        """The record as it would be if it were appended now."""
        return ConsumedRecord(
            self.topic,
            self.partition,
            len(self.entries),
            record.key,
            record.value,
            record.headers,
            timestamp_ms,
        )

    def append(
        self,
        record: Record,
        timestamp_ms: int,
        transactional_id: str | None,
    ) -> ConsumedRecord:
        consumed = self.peek(record, timestamp_ms)
        stretch = None
        if transactional_id is not None:
            stretch = self.open.setdefault(transactional_id, Stretch(consumed.offset))
        self.entries.append(Stored(consumed, stretch))
        return consumed

    def mark(self, transactional_id: str, committed: bool) -> Stretch | None:
        """The end marker of a producer, and what it has ended."""
        stretch = self.open.pop(transactional_id, None)
        self.entries.append(Stored(None, None))
        if stretch is not None:
            stretch.state = "committed" if committed else "aborted"
        return stretch

    def read(self, position: int) -> ConsumedRecord | None:
        """The first visible record at or after `position`."""
        stable = self.last_stable
        while position < stable:
            consumed, stretch = self.entries[position]
            if consumed is not None and (stretch is None or stretch.state == "committed"):
                return consumed
            position += 1
        return None

    def committed(self) -> list[ConsumedRecord]:
        """All that a `read_committed` consumer can read."""
        return [
            consumed
            for consumed, stretch in self.entries[: self.last_stable]
            if consumed is not None and (stretch is None or stretch.state == "committed")
        ]

    def changed(self) -> None:
        readers = self.readers
        self.readers = []
        for wake in readers:
            wake()


class _Producer:
    """What the coordinator knows of a transactional id."""

    __slots__ = ("epoch", "state", "timeout_ms", "transaction")

    def __init__(self) -> None:
        self.epoch = 0
        self.state = ""
        self.timeout_ms = 0
        self.transaction: Transaction | None = None


class MemoryKafka:
    """`now_ms`: append time.

    `on_commit` receives the records of each transaction, and each single record written.

    leaderless     partitions that have no leader now.
    on_end         called when the end of a transaction was decided, before its markers are written.
    write_markers  when the markers are written: it calls what it is given, at once or later.
    on_betrayal    called when a partition of a transaction ends in another way than was decided.
    """

    def __init__(self, now_ms: Callable[[], int] = lambda: 0) -> None:
        self._now_ms = now_ms
        self._logs: dict[tuple[str, int], Log] = {}
        self._producers: defaultdict[str, _Producer] = defaultdict(_Producer)
        self._offsets: dict[tuple[str, str, int], int] = {}
        self._generations: defaultdict[str, int] = defaultdict(int)
        self.leaderless: set[tuple[str, int]] = set()
        self.on_end: Callable[[str], None] = lambda transactional_id: None
        self.write_markers: Callable[[Callable[[], None]], object] = lambda write: write()
        self.on_betrayal: Callable[[str], None] = lambda text: None
        self.on_fence: Callable[[str], None] = lambda transactional_id: None
        self.on_commit: Callable[[Sequence[ConsumedRecord]], None] = lambda records: None
        self.on_offset: Callable[[str, Log, int, int], None] = lambda group, log, before, after: (
            None
        )

    def log(self, topic: str, partition: int) -> Log:
        log = self._logs.get((topic, partition))
        if log is None:
            log = Log(topic, partition)
            self._logs[topic, partition] = log
        return log

    @property
    def logs(self) -> list[Log]:
        return list(self._logs.values())

    # ------------------------------------------------------------------------------------ producers

    def produce(self, partition: int, record: Record) -> ConsumedRecord:
        """One record without a transaction."""
        log = self.log(record.topic, partition if record.partition is None else record.partition)
        consumed = log.append(record, self._now_ms(), None)
        self.on_commit([consumed])
        log.changed()
        return consumed

    def init_producer(self, transactional_id: str, timeout_ms: int = ORDINARY_TIMEOUT_MS) -> int:
        """Fence all earlier holders of the id; returns the new epoch.

        Aborts an ongoing transaction: then ask again.
        """
        producer = self._producers[transactional_id]
        if producer.state.startswith("Prepare"):
            raise ConcurrentTransactions
        self.on_fence(transactional_id)
        if producer.state == "Ongoing":
            producer.epoch += 1
            self._end(transactional_id, producer, committed=False)
            raise ConcurrentTransactions
        producer.epoch += 1
        producer.state = "Empty"
        producer.timeout_ms = timeout_ms
        return producer.epoch

    def send(
        self,
        transactional_id: str,
        epoch: int,
        partition: int,
        records: Sequence[Record],
    ) -> list[ConsumedRecord]:
        """Append records to the producer's transaction, which begins with them if none is open."""
        logs = [
            self.log(record.topic, partition if record.partition is None else record.partition)
            for record in records
        ]
        transaction = self.add(transactional_id, epoch, logs)
        self._refuse_leaderless(logs)
        sent: list[ConsumedRecord] = []
        for record, log in zip(records, logs, strict=True):
            sent.append(log.append(record, self._now_ms(), transactional_id))
            log.open[transactional_id].transactions[transaction] = None
        transaction.records.extend(sent)
        return sent

    def add(self, transactional_id: str, epoch: int, logs: Iterable[Log]) -> Transaction:
        """Add partitions to the producer's transaction, which begins with them if none is open."""
        producer = self._checked(transactional_id, epoch)
        if producer.transaction is None:
            producer.transaction = Transaction()
        producer.state = "Ongoing"
        for log in logs:
            producer.transaction.logs[log] = None
        return producer.transaction

    def describe(self, transactional_id: str) -> LastTransaction:
        """What the coordinator knows of the last transaction.

        The producer's id and its start are left out.
        """
        if transactional_id not in self._producers:
            return LastTransaction()
        producer = self._producers[transactional_id]
        return LastTransaction(producer.state, 1, producer.epoch, producer.timeout_ms)

    def open_places(self, transactional_id: str) -> dict[tuple[str, int], int]:
        """Where the producer has something open, and from which offset on."""
        self._refuse_leaderless(self._logs.values())
        return {
            place: log.open[transactional_id].begins
            for place, log in self._logs.items()
            if transactional_id in log.open
        }

    @property
    def open_transactions(self) -> list[str]:
        return sorted({name for log in self._logs.values() for name in log.open})

    def end(self, transactional_id: str, epoch: int, commit: bool) -> None:
        """Decide how the transaction ends, and write its markers."""
        producer = self._checked(transactional_id, epoch)
        if producer.state == "Ongoing":
            self._end(transactional_id, producer, commit)
        elif producer.state != ("CompleteCommit" if commit else "CompleteAbort"):
            raise InvalidState(transactional_id)

    def _checked(self, transactional_id: str, epoch: int) -> _Producer:
        producer = self._producers[transactional_id]
        if producer.epoch != epoch:
            raise ProducerFenced(transactional_id)
        if producer.state.startswith("Prepare"):
            raise ConcurrentTransactions
        return producer

    def _refuse_leaderless(self, logs: Iterable[Log]) -> None:
        if lost := self.leaderless & {(log.topic, log.partition) for log in logs}:
            raise NoLeader(", ".join(f"{topic}/{partition}" for topic, partition in sorted(lost)))

    def _end(self, transactional_id: str, producer: _Producer, committed: bool) -> None:
        transaction = producer.transaction
        producer.transaction = None
        assert transaction is not None
        transaction.decided = committed
        producer.state = "PrepareCommit" if committed else "PrepareAbort"
        self.on_end(transactional_id)
        if committed and transaction.records:
            self.on_commit(transaction.records)
        self.write_markers(lambda: self._complete(transactional_id, producer, transaction))

    def _complete(
        self,
        transactional_id: str,
        producer: _Producer,
        transaction: Transaction,
    ) -> None:
        producer.state = "CompleteCommit" if transaction.decided else "CompleteAbort"
        marked = [
            log for log in transaction.logs if (log.topic, log.partition) not in self.leaderless
        ]
        for log in marked:
            stretch = log.mark(transactional_id, bool(transaction.decided))
            if stretch is None:
                continue
            for other in stretch.transactions:
                if other.decided is not transaction.decided:
                    was = "committed" if other.decided else "aborted"
                    self.on_betrayal(
                        f"a transaction of {transactional_id} that was {was} is "
                        f"{stretch.state} in {log.topic}",
                    )
        for log in marked:
            log.changed()

    # --------------------------------------------------------------------------------------- groups

    def generation(self, group: str) -> int:
        return self._generations[group]

    def next_generation(self, group: str) -> int:
        self._generations[group] += 1
        return self._generations[group]

    def offset(self, group: str, topic: str, partition: int) -> int | None:
        """The group's committed offset: where the partition's next owner begins."""
        return self._offsets.get((group, topic, partition))

    def commit_offset(
        self,
        group: str,
        generation: int,
        topic: str,
        partition: int,
        offset: int,
    ) -> None:
        if generation != self._generations[group]:
            raise StaleGeneration(group)
        before = self._offsets.get((group, topic, partition), 0)
        self._offsets[group, topic, partition] = offset
        self.on_offset(group, self.log(topic, partition), before, offset)


def begin_system(kafka: MemoryKafka, plan: Plan) -> None:
    """Let each partition have what its first owner writes, so that a test may add rows."""
    for number in range(plan.partitions):
        kafka.produce(number, Record(plan.topics.state, SYSTEM_KEY, system_row(plan.partitions)))
