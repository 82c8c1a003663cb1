"""Sends a callback or a command after its workspace, which has moved to another partition."""

from __future__ import annotations

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.delivery.state_machine import FOLLOWED, mark_key
from stream_app.domain.lane.move import Residence, followed
from stream_app.domain.record import Record
from stream_app.pipeline.ports import InFlight, PartitionState


async def follow(partition: PartitionState, in_flight: InFlight, moved: Residence) -> None:
    """Copy a record to its topic in the workspace's partition, and mark it as concluded here, in one step.

    It must not be concluded already, and no await may lie between that check and this call.
    """
    consumed = in_flight.consumed
    record = Record(consumed.topic, consumed.key, consumed.value, followed(moved.moves), moved.other)
    await partition.conclude(in_flight, WriteBatch([(mark_key(consumed.record_id), FOLLOWED)], [record], []))
