"""Whether a record is concluded already, and how it is sent after its workspace, which has moved elsewhere."""

from __future__ import annotations

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.delivery.state_machine import FOLLOWED, mark_key
from stream_app.domain.lane.move import Residence, followed
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.pipeline.ports import InFlight, PartitionState


def after(consumed: ConsumedRecord, moved: Residence) -> Record:
    """Return the copy of a callback or a command, for its topic in the workspace's partition."""
    return Record(consumed.topic, consumed.key, consumed.value, followed(moved.moves), moved.other)


async def is_concluded(partition: PartitionState, in_flight: InFlight) -> bool:
    """True if a callback, command or part of a move is concluded. Check it right before a step, after any await."""
    mark = partition.find_marker(in_flight.consumed.record_id)
    if mark is not None:
        await partition.conclude_unchanged(in_flight, mark)
    return mark is not None or partition.is_passed(in_flight.consumed)  # passed since it was read at the take-over


async def follow(partition: PartitionState, in_flight: InFlight, copy: Record) -> None:
    """Write the copy of a record, and mark the record as concluded here, in one step.

    It must not be concluded already, and no await may lie between that check and this call.
    """
    mark = mark_key(in_flight.consumed.record_id)
    await partition.conclude(in_flight, WriteBatch([(mark, FOLLOWED)], [copy], []))
