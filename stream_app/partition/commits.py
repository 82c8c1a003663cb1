"""Group commit: all steps that were submitted during a transaction are committed by the next one.

A step applies to memory at once and is written by the next transaction, in the order of submission.
The first transaction of a partition begins with the row that says what its namespace began with
(domain/model/system.py). A step is never split over two transactions. The lanes' rows are a
snapshot of the moment at which the steps are collected, and rows that nobody needs any more are
deleted at that moment. If a transaction fails, none of it is committed, and every step in it and
after it fails. Memory is then ahead of Kafka, until `PartitionState.load` replaces it.
"""

import asyncio
from typing import Final

from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.model.errors import StateStoreError
from stream_app.domain.model.records import Record, RowChanges
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.in_flight import LEAD_SOURCES, InFlight
from stream_app.partition.intake import Intake
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer, RecordStream, StateStore
from stream_app.partition.rows import Rows

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 10.0


@define(eq=False, repr=False)
class Commits:
    """The only writer of one partition.

    A change of a lane belongs to the step of its workspace that is submitted next. If no await lies
    between the two, one transaction writes both. `spacing_s` is the shortest time from the end of a
    transaction to the start of the next one.

    Attributes:
        failures: How many transactions have failed since the last one that succeeded.
        opening: The record that the partition begins with; None once it is committed.
        streams: The streams of the partition by topic. Markers that their committed offsets have
            passed are deleted.
    """

    _store: StateStore
    _state_topic: str
    _spacing_s: float
    _rows: Rows
    _lanes: Lanes
    _intake: Intake
    _deadlines: DeadlineQueue
    _clock: Clock
    _observer: Observer
    _waiting: list[tuple[CommitStep, asyncio.Future[None]]] = field(init=False, factory=list)
    _submitted: asyncio.Event = field(init=False, factory=asyncio.Event)
    streams: dict[str, RecordStream] = field(init=False, factory=dict)
    opening: Record | None = field(init=False, default=None)
    failures: int = field(init=False, default=0)
    # Kept, because each lead has several steps, and each look-up of the loop is a system call.
    _loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.get_running_loop)
    _batches: int = field(init=False, default=0)
    _busy: bool = field(init=False, default=False)

    def submit(self, step: CommitStep, in_flight: InFlight | None = None) -> asyncio.Future[None]:
        """Apply a step in memory, and write it with the next transaction.

        Steps are committed in the order of these calls. `in_flight`: the record that this step
        takes.

        Returns:
            A future that is done when the step is committed, and raises what made it fail.
        """
        if in_flight is not None:
            self._intake.take(in_flight)
        self._rows.apply(step.rows)
        if step.events:
            self._deadlines.note(step)
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((step, future))
        self._submitted.set()
        return future

    async def commit_last(self, in_flight: InFlight, step: CommitStep) -> None:
        """Commit the last step of a record. Its lock is released as soon as the step is in memory.

        A copy of the lead then decides by the new rows. Its step is committed with this one or
        after it, or both fail.
        """
        committed = self.submit(step, in_flight)
        in_flight.lock.release()
        await committed

    async def commit_unchanged(self, in_flight: InFlight, key: bytes) -> None:
        """Commit this row unchanged.

        The commit proves that this process owns the partition, so the ack after it is safe.
        """
        await self.commit_last(in_flight, CommitStep([(key, self._rows.get(key))], [], []))

    async def end_if_concluded(self, in_flight: InFlight, origin: str = "") -> bool:
        """Return True if this record is concluded, and may be acked.

        If its marker shows that, the marker is committed again, as in `commit_unchanged`. Call it
        right before a step, after any other await. If it returns False, it has not suspended, so
        what was read before the call still holds.
        """
        marker = self._rows.marker(in_flight.consumed.record_id, origin)
        if marker is not None:
            await self.commit_unchanged(in_flight, marker)
            return True
        # The bootstrap of a take-over reads callbacks and commands, too. If the group's offset has
        # passed such a record since then, an ack of it changes nothing, so no commit need prove
        # that this process still owns the partition.
        return in_flight.source not in LEAD_SOURCES and self._rows.is_passed(in_flight.consumed)

    def forget(self) -> None:
        """Drop the steps that were submitted after a failure.

        Their records start again from the rows that were loaded.
        """
        self._intake.lose()
        self._waiting.clear()
        self._submitted.clear()

    @property
    def under_way(self) -> int | None:
        """None if there is nothing to commit, else the number of transactions so far."""
        return self._batches if self._waiting or self._busy else None

    @property
    def pause_s(self) -> float:
        """How long to wait before the partition is taken over again, in seconds.

        It is 0 after the first failed transaction, and longer after each further one.
        """
        return (
            0.0
            if self.failures < 2
            else min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - 2, 10))
        )

    async def run(self) -> None:
        """Commit until a transaction fails or the task is cancelled.

        Raises:
            Aborted: A transaction failed. All steps in it and after it have failed, too.
            Fenced: Another process owns the partition.
        """
        now = self._loop.time
        ended = now() - self._spacing_s
        while True:
            await self._submitted.wait()
            # A transaction costs as much as two leads, so transactions are spaced under load, while
            # a lone step does not wait. The space begins at the end of the last transaction: leads
            # that it let go and that are answered meanwhile share the next one.
            await asyncio.sleep(max(0.0, ended + self._spacing_s - now()))
            # After the sleep, so that what was submitted meanwhile goes into this transaction. What
            # is submitted during the transaction goes into the next one, or fails with this one.
            batch, records = self._collect()
            self._busy = True
            began = now()
            try:
                await self._store.transact(records)
            except StateStoreError as error:
                self._busy = False
                self._fail(batch, error)
                raise
            ended = now()
            self.failures = 0
            self._busy = False
            self.opening = None
            self._batches += 1
            self._lanes.committed()
            self._intake.committed()
            for _, future in batch:
                if not future.done():
                    future.set_result(None)
            self._observer.committed([step for step, _ in batch], len(records), ended - began)

    def _group_offset(self, topic: str) -> int | None:
        """The group's committed offset of a topic, if known."""
        stream = self.streams.get(topic)
        return stream.committed() if stream else None

    def _collect(self) -> tuple[list[tuple[CommitStep, asyncio.Future[None]]], list[Record]]:
        """Collect all waiting steps, and the rows of their lanes."""
        # No await from here to the rows of the lanes, so that these contain the changes of these
        # steps only, and none of a later transaction.
        batch = self._waiting
        self._waiting = []
        self._submitted.clear()
        self._intake.begin_transaction()
        records = [self.opening] if self.opening is not None else []
        changes: RowChanges = []
        lanes: set[str] = set()
        for step, _ in batch:
            changes += step.rows
            records += step.records
            if step.workspace:
                lanes.add(step.workspace)
        # After the rows of the steps: memory, which says what is old, has the steps already.
        changes += self._drop_old_rows(len(batch))
        records.extend(Record(self._state_topic, key, value) for key, value in changes)
        records.extend(self._lanes.records(lanes))
        return batch, records

    def _drop_old_rows(self, steps: int) -> RowChanges:
        """Delete markers that were passed, and rows that have expired, in memory.

        Returns:
            The changes, which the transaction of these steps is to write.
        """
        changes = self._rows.drop_passed(self._group_offset)
        self._rows.apply(changes)
        changes += self._rows.expire(self._clock.now_ms(), steps)
        return changes

    def _fail(
        self,
        batch: list[tuple[CommitStep, asyncio.Future[None]]],
        error: StateStoreError,
    ) -> None:
        self.failures += 1
        self._intake.lose()
        # The steps after it fail, too: they were decided by rows that are not on Kafka.
        for _, future in [*batch, *self._waiting]:
            if not future.done():
                future.set_exception(error)
                # Marks it as retrieved, because the task that waits for it may have been cancelled.
                future.exception()
        self._waiting.clear()
