"""Fix: the committed offset never passes a record that was delivered and not acked.

Upstream: https://github.com/faust-streaming/faust/issues/606. `Consumer._new_offset` skips one record in flight at the
committed offset, and checks nothing before the first commit. A crash then loses that record. `_commit_offsets` also
takes offsets for committed that the group has refused; this is not reported upstream.

Tests: tests/upstream/test_stock_faust.py (test_606_commits_over_an_event_in_flight),
tests/upstream/test_fixes.py (test_606_commit_stops_at_an_event_in_flight),
tests/unit/faust_app/test_faust_bookkeeping.py.

Remove it when the upstream test shows that stock Faust commits offset 10 and not 20.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP
from mode.utils.futures import notify

from stream_app.domain.errors import UnreadableBatch


class ExactOffsets(Consumer):  # type: ignore[misc]  # faust ships no types
    """Commits only below the first offset in flight.

    Attributes:
        in_flight: for each topic-partition, the delivered offsets that are not acked, in order of delivery. An offset
            that was given up stays, so that nothing after it is committed before it has been delivered again.
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

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        """Keep the previous committed offset where the group refused the new one: a successor starts there."""
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed = bool(await super()._commit_offsets(offsets, start_new_transaction))
        refused = before.keys() - (self.assignment() if committed else set())
        self._committed_offset.update({tp: before[tp] for tp in refused})
        return committed

    def pass_batch(self, batch: UnreadableBatch) -> None:
        """Commit behind a batch that an operator gave up, if everything before it is committed.

        Else the next record that is acked commits behind it: records that wait in a queue are not in flight yet.
        """
        tp = TP(batch.topic, batch.partition)
        committed, delivered = self._committed_offset[tp], self._read_offset[tp]
        if self.in_flight[tp] or self._acked[tp] or (delivered is not None and delivered >= (committed or 0)):
            return
        self._acked[tp].append(batch.last)
        self._acked_index[tp].add(batch.last)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Do nothing: `in_flight` needs no gaps, and upstream counts the record after a gap as acked."""

    def give_up(self, message: Any) -> None:
        """Stop waiting for an ack. The message is not committed; it comes again after the next rebalance or start."""
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)
