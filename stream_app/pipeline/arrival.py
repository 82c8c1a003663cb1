"""What happens to one record of a lane that moves here, top to bottom (docs/decisions/09-moving-a-lane.md).

    bytes -> decode -> taken in before? -> its rows -> (the last record: its lane) -> commit -> ack

The rows, the marker of the record and its deletion from the topic are one step, so each record is taken in once. The
records of a partition are processed one after the other. The lane starts with the last one.
"""

from __future__ import annotations

from stream_app.domain.delivery.recorder import Rows, WriteBatch
from stream_app.domain.delivery.state_machine import CONCLUDED, lane_key, mark_key
from stream_app.domain.lane.move import (
    HandOver,
    Residence,
    decode_hand_over,
    encode_residence,
    hand_over_key,
    residence_key,
)
from stream_app.domain.policy import Plan
from stream_app.domain.record import Record
from stream_app.pipeline.follow import is_concluded
from stream_app.pipeline.ports import InFlight, PartitionState


class ArrivalPipeline:
    """Takes lanes in that move to one partition."""

    def __init__(self, plan: Plan, partition: PartitionState) -> None:
        self._plan = plan
        self._partition = partition

    async def process(self, in_flight: InFlight) -> None:
        """Process one record. Returns when everything about it is committed."""
        consumed = in_flight.consumed
        if consumed.value is None:  # written when the record before it was taken in
            return
        if await is_concluded(self._partition, in_flight):
            return
        part = decode_hand_over(consumed.value)
        await self._check(part, consumed.record_id)
        # No await from here to the commit: the rows stay as they are read here.
        name, is_last = part.workspace, bool(part.lane)
        residence = Residence(
            "here" if is_last else "arriving", part.source, part.home, part.moves, 0 if is_last else part.chunk + 1
        )
        rows: Rows = [
            (mark_key(consumed.record_id), CONCLUDED),
            *part.rows,
            (residence_key(name), encode_residence(residence)),
        ]
        gone = Record(self._plan.topics.moves, hand_over_key(part), None)
        if not is_last:
            await self._partition.conclude(in_flight, WriteBatch(rows, [gone], []))
            return
        self._partition.arrive(name, part.source, part.lane)
        if name not in self._plan.workspaces:  # it was removed from the configuration: its lane is kept as it is
            rows.append((lane_key(name), part.lane))
            name = ""
        await self._partition.conclude(in_flight, WriteBatch(rows, [gone], [], name))
        await self._partition.load_deadlines(part.workspace)

    async def _check(self, part: HandOver, record_id: str) -> None:
        """Raise ValueError unless this is the next record of its move: rows of the lane would be missing.

        Raises:
            StateStoreError: Another owner has taken in the records before. This process does not know it yet.
        """
        known = self._partition.residence(part.workspace)
        expected = known.chunks if known is not None and known.moves == part.moves else 0
        if part.chunk != expected:
            await self._partition.submit(WriteBatch([(mark_key(record_id), None)], [], []))  # fails unless it owns this
            raise ValueError(f"{record_id} is part {part.chunk} of a move, part {expected} should come: a bug")
