"""Fixes that keep a record from being held up or passed over, from its fetch to its commit."""

from __future__ import annotations

import asyncio
import logging
import types
from collections import defaultdict
from collections.abc import Coroutine, Generator, Mapping
from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import TP
from mode.utils.futures import notify

from stream_app.domain.model.errors import UnreadableBatch
from stream_app.kafka.consumer import Consumer as KafkaConsumer

log = logging.getLogger(__name__)
_COMMIT_S = 5.0


class FairFetch(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Fix: partitions take turns, because one moves behind the others after each poll.

    Upstream: all records of one partition's fetch, up to 1 MB, are delivered before the first
    record of the next partition.

    Report: docs/reference/upstream/one-partition-first.md.

    Tests: tests/integration/test_faust_app.py
        (test_a_blocked_handler_delays_no_other_partition_or_topic).

    Remove it when aiokafka returns records of all fetched partitions in turn.
    """

    async def _fetch_records(self, consumer: KafkaConsumer, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        waiting = consumer._fetcher._records
        for tp in records:
            if tp in waiting:
                waiting.move_to_end(tp)
        return records


class DirectHandover(Consumer):  # type: ignore[misc]  # faust ships no types
    """Fix: hand a record to its stream without tasks, as far as that is possible without waiting.

    The coroutines run until one of them must wait, and only then become tasks.

    Upstream: `Consumer.wait_first` creates four tasks for each record. They cost more than the
    record itself.

    Report: docs/reference/upstream/four-tasks-a-record.md.

    Tests: benchmarks/line.py measures the CPU a lead; `mode.services.Service.wait_first` is pinned
    in tests/unit/kafka/test_faust_pins.py.

    Remove it when upstream hands over without a task a record.
    """

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:  # noqa: ASYNC109  # upstream's signature
        if timeout is not None or len(coros) != 2:
            return await super().wait_first(*coros, timeout=timeout)
        handing_over, suspended = coros
        try:
            waits_for = handing_over.send(None)
        except StopIteration:
            suspended.close()
            return None
        return await super().wait_first(_rest_of(handing_over, waits_for), suspended)


async def _rest_of(started: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """Run a started coroutine to its end. `waits_for` is what its last `send` returned."""
    return await _go_on(started, waits_for)


@types.coroutine
def _go_on(started: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    try:
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001  # the coroutine handles it, whatever it is
                waits_for = started.throw(error)
            else:
                waits_for = started.send(value)
    except StopIteration as done:
        return done.value


class ExactOffsets(Consumer):  # type: ignore[misc]  # faust ships no types
    """Fix: commits stay below the first offset in flight.

    No commit passes a record that was delivered and is not acked.

    Upstream: https://github.com/faust-streaming/faust/issues/606. `Consumer._new_offset` skips one
    record in flight at the committed offset, and checks nothing before the first commit. A crash
    then loses that record. `_commit_offsets` also counts offsets as committed that the group has
    refused.

    Report: docs/reference/upstream/commit-over-a-record-in-flight.md.

    Tests: tests/upstream/test_stock_faust.py (test_606_commits_over_an_event_in_flight),
    tests/upstream/test_fixes.py (test_606_commit_stops_at_an_event_in_flight),
    tests/unit/faust_app/test_faust_bookkeeping.py.

    Remove it when the upstream test shows that stock Faust commits offset 10 and not 20.

    Attributes:
        in_flight: For each topic-partition, the delivered offsets that are not acked, in order of
            delivery. An offset that was given up stays, so that nothing after it is committed
            before it has been delivered again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.in_flight: dict[Any, dict[int, None]] = defaultdict(dict)
        super().__init__(*args, **kwargs)

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        in_flight = self.in_flight[tp]
        floor = next(iter(in_flight)) if in_flight else None
        done = acked if floor is None else [offset for offset in acked if offset < floor]
        if not done:
            return None
        position: int = max(done) + 1
        self._acked_index[tp].difference_update(done)
        self._acked[tp] = [] if floor is None else [offset for offset in acked if offset >= floor]
        return position

    async def _commit_offsets(
        self,
        offsets: Mapping[Any, int],
        start_new_transaction: bool = True,
    ) -> bool:
        """Keep the previous committed offset where the group refused the new one.

        A successor starts at the previous one.
        """
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed = bool(await super()._commit_offsets(offsets, start_new_transaction))
        refused = before.keys() - (self.assignment() if committed else set())
        self._committed_offset.update({tp: before[tp] for tp in refused})
        return committed

    def pass_batch(self, batch: UnreadableBatch) -> None:
        """Commit past a batch that an operator gave up, if everything before it is committed.

        Otherwise the next record that is acked commits past it: records that wait in a queue are
            not in flight yet.
        """
        tp = TP(batch.topic, batch.partition)
        committed = self._committed_offset[tp]
        delivered = self._read_offset[tp]
        if (
            self.in_flight[tp]
            or self._acked[tp]
            or (delivered is not None and delivered >= (committed or 0))
        ):
            return
        self._acked[tp].append(batch.last)
        self._acked_index[tp].add(batch.last)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Do nothing, because `in_flight` needs no gaps.

        Upstream would count the record after a gap as acked.
        """

    def give_up(self, message: Any) -> None:
        """Stop waiting for an ack.

        The message is not committed; it comes again after the next rebalance or start.
        """
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)


class CommitBeforeRevoke(Consumer):  # type: ignore[misc]  # faust ships no types
    """Fix: a rebalance commits all acks before Faust forgets them.

    It waits for the records in flight first. It needs `ExactOffsets` and `IdleFetcher`.

    Upstream: https://github.com/faust-streaming/faust/issues/502. A rebalance drops acked offsets
    that are not committed, and skips its last commit while another commit runs. The records are
    delivered again.

    Reports: docs/reference/upstream/acks-forgotten-by-a-rebalance.md,
    docs/reference/upstream/the-last-commit-is-skipped.md.

    Tests: tests/upstream/test_stock_faust.py (test_502_a_rebalance_forgets_pending_acks,
    test_the_last_commit_before_a_rebalance_is_left_out), tests/upstream/test_fixes.py
    (test_502_pending_acks_are_committed_before_a_rebalance,
    test_a_revoke_waits_for_a_running_commit_and_commits_the_rest).

    Remove it when stock Faust delivers none of the acked records again in both tests.

    Attributes:
        member_id: The id of the member that got the last assignment.
        was_evicted: True if the group had evicted this process before the last assignment, which
            was then made to a new member. Another process may have owned the partitions in between.
    """

    member_id = ""
    was_evicted = False

    async def on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        # Read here and not when partitions are revoked, because a process that is frozen while it
        # gives its leads up learns of its eviction only when it joins again.
        member_id = self._thread._consumer._coordinator.member_id
        self.was_evicted = member_id != self.member_id
        self.member_id = member_id
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        if not self.app.should_stop:
            try:
                await self.app.tables.recovery.interrupt()
                self.stop_flow()
                self.app.flow_control.suspend()
                self.app.flow_control.clear()
                await self.wait_empty()
            except Exception as error:  # noqa: BLE001  # leads may be in flight, so any error stops the app
                await self.app.crash(error)
        await super().on_partitions_revoked(revoked)
        self.in_flight.clear()
        self.resume_at.clear()

    async def wait_empty(self) -> None:
        """Wait until no delivered record is in flight and no commit is running, then commit.

        A record is in flight until it is acked or given up. After a crash this neither waits nor
        commits, because the consumer's thread has ended.
        """
        while self._unacked_messages and not self.should_stop:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        if self.crashed:
            return
        try:
            async with asyncio.timeout(_COMMIT_S):
                while await self.maybe_wait_for_commit_to_finish():
                    pass
                await self.commit()
        except TimeoutError:
            log.warning(
                "Kafka did not commit the offsets within %.0f s: some finished records will "
                "be delivered again",
                _COMMIT_S,
            )


class SeekToFirst(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Fix: a partition without a committed offset resumes at its beginning.

    Upstream: aiokafka's `seek_to_committed` does not move the position of a partition without a
    commit. After a rebalance before the first commit, the records that Faust has dropped are passed
    over and lost.

    Report: docs/reference/upstream/no-seek-without-a-commit.md.

    Tests: tests/upstream/test_stock_faust.py
    (test_a_rebalance_before_the_first_commit_loses_fetched_events), tests/upstream/test_fixes.py
    (test_fetched_events_come_again_after_a_rebalance_before_the_first_commit).

    Remove it when stock Faust delivers all records in that test.
    """

    async def seek_to_committed(self) -> Any:
        offsets = await super().seek_to_committed()
        changelogs = self.app.tables.changelog_topics
        fresh = [tp for tp, offset in offsets.items() if not offset and tp.topic not in changelogs]
        if fresh:
            await self.call_thread(self._consumer.seek_to_beginning, *fresh)
        return offsets
