"""What leaves the line without a story of a lead: what is no lead, strays, and records of which another one tells.

Each has one event, and a mark by its place: a redelivery repeats nothing.
"""

from __future__ import annotations

import msgspec

from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import Reason, Rows, WriteBatch, brief, rejected, strayed
from stream_app.domain.lane.lane import ASK_AGAIN, AdmissionRequest, Grant
from stream_app.domain.lead.lead import Unreadable, home_partition, identify
from stream_app.domain.lead.resolve import LeadRef
from stream_app.domain.messages import Lead, Status
from stream_app.domain.policy import Destination, Plan
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.pipeline.ports import Clock, InFlight, PartitionState


class Rejects:
    """Concludes records of one partition that get no row."""

    def __init__(self, plan: Plan, partition: PartitionState, clock: Clock) -> None:
        self._plan = plan
        self._partition = partition
        self._clock = clock

    async def reject(self, in_flight: InFlight, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable) -> None:
        """Not a lead, or not one that this configuration knows: one dead letter with the reason, and it is done.

        It counts in its lane's flood of dead letters, and waits while that stops the lane.
        """
        workspace = self._lane_of(in_flight.consumed, lead)
        if not workspace:
            in_flight.release_next()
            await self._partition.conclude(in_flight, self._rejection(in_flight, envelope, lead, bad, None))
            return
        ask = AdmissionRequest(Destination("", workspace, ()), patient=True, letter=True)
        while (
            await self._partition.admit(in_flight, ask, lambda by: self._rejection(in_flight, envelope, lead, bad, by))
            is ASK_AGAIN
        ):
            pass

    def _lane_of(self, consumed: ConsumedRecord, lead: Lead | Unreadable) -> str:
        """Whose lane it counts in, as far as anybody can tell; '' if none that lives here."""
        name = lead.workspace or (consumed.key or b"").decode("utf-8", "replace")
        if name not in self._plan.workspaces:
            return ""
        return name if home_partition(name, self._plan.partitions, self._plan.pins) == consumed.partition else ""

    def _rejection(
        self, in_flight: InFlight, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable, by: Grant | None
    ) -> WriteBatch:
        consumed, now_ms = in_flight.consumed, self._clock.now_ms()
        if (mark := self._partition.find_marker(consumed.place, envelope.origin)) is not None:
            return WriteBatch([(mark, b"1")], [], [])
        letter = rejected(self._plan, consumed, envelope, bad, now_ms)
        why = Reason(bad.reason, bad.text)
        step = brief(self._plan, consumed, envelope, "rejected_invalid", now_ms, why, _id_of(lead), letter)
        if by is None:
            return step
        self._partition.record_dead_letter(by, bad.reason)
        return msgspec.structs.replace(step, workspace=by.destination.workspace)

    async def reroute(self, in_flight: InFlight, stray: LeadRef, home: int) -> None:
        """It came in a partition that is not its workspace's: publish it there once; a second miss parks it."""
        lost = stray.envelope.hops > 0
        why = Reason(
            "wrong_partition", f"its workspace lives in partition {home}: check the pins and the producer's key"
        )
        onward = strayed(self._plan, stray, home, lost, self._clock.now_ms(), why)
        await self.conclude_with_event(in_flight, stray, "parked" if lost else "rerouted", why, onward)

    async def conclude_with_event(
        self, in_flight: InFlight, who: LeadRef, status: Status, why: Reason, *records: Record, rows: Rows | None = None
    ) -> None:
        """Its one event, with what is written for it; unless it is concluded."""
        in_flight.release_next()
        if await self.is_concluded(in_flight, who.envelope):
            return
        now_ms, there = self._clock.now_ms(), who.destination
        about = self._plan, in_flight.consumed, who.envelope, status
        told = brief(*about, now_ms, why, who.lead_id, *records, there=there, rows=rows)
        await self._partition.conclude(in_flight, told)

    async def is_concluded(self, in_flight: InFlight, envelope: Envelope) -> bool:
        """Whether a mark says that this record has told its story. To be asked right before a step, after any await."""
        mark = self._partition.find_marker(in_flight.consumed.place, envelope.origin)
        if mark is not None:
            await self._partition.conclude_unchanged(in_flight, mark)
        return mark is not None


def _id_of(lead: Lead | Unreadable) -> str:
    """By which its sender may look for it; '' where none can be read."""
    if isinstance(lead, Unreadable):
        return lead.lead_id
    who = identify(lead)
    return who.lead_id if who is not None else ""
