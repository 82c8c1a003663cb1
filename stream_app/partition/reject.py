"""Records that get no row in this partition: invalid records, records of another partition, and duplicates.

Each gets one event and a marker, so that a redelivery repeats nothing.
"""

from __future__ import annotations

import msgspec

from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import Reason, WriteBatch, brief, rejected, strayed
from stream_app.domain.delivery.state_machine import CONCLUDED
from stream_app.domain.lane.admission import ASK_AGAIN, AdmissionRequest, Grant
from stream_app.domain.lead.identity import identify_cleaned
from stream_app.domain.lead.lead import Unreadable
from stream_app.domain.lead.resolve import LeadRef
from stream_app.domain.messages import Lead, Status
from stream_app.domain.policy import Destination, Plan
from stream_app.domain.record import Record
from stream_app.partition.ports import Clock, InFlight, PartitionState


class Rejects:
    """Concludes the records of one partition that get no row."""

    def __init__(self, plan: Plan, partition: PartitionState, clock: Clock) -> None:
        self._plan = plan
        self._partition = partition
        self._clock = clock

    async def reject(self, in_flight: InFlight, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable) -> None:
        """Conclude a record that is no valid lead with a dead letter. `lead` is what could be read of it.

        It counts in the flood guard of its lane, and waits while that guard suspends the lane.
        """
        consumed = in_flight.consumed
        name = lead.workspace or (consumed.key or b"").decode("utf-8", "replace")
        if name not in self._plan.residents(consumed.partition):  # no lane of this partition to count it in
            in_flight.release_next()
            await self._partition.conclude(in_flight, self._rejection(in_flight, envelope, lead, bad, None))
            return
        request = AdmissionRequest(Destination("", name, ()), patient=True, as_dead_letter=True)

        def write_ahead(grant: Grant) -> WriteBatch:
            return self._rejection(in_flight, envelope, lead, bad, grant)

        while await self._partition.admit(in_flight, request, write_ahead) is ASK_AGAIN:
            pass

    def _rejection(
        self, in_flight: InFlight, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable, grant: Grant | None
    ) -> WriteBatch:
        consumed, now_ms = in_flight.consumed, self._clock.now_ms()
        if (mark := self._partition.find_marker(consumed.record_id, envelope.origin)) is not None:
            return WriteBatch([(mark, CONCLUDED)], [], [])
        dead_letter = rejected(self._plan, consumed, envelope, bad, now_ms)
        why = Reason(bad.reason, bad.text)
        step = brief(self._plan, consumed, envelope, "rejected_invalid", now_ms, why, _id_of(lead), dead_letter)
        if grant is None:
            return step
        self._partition.record_dead_letter(grant, bad.reason)
        return msgspec.structs.replace(step, workspace=grant.destination.workspace)

    async def reroute(self, in_flight: InFlight, lead: LeadRef, home: int) -> None:
        """Publish a lead to the home partition of its workspace. A second miss parks it."""
        lost = lead.envelope.hops > 0
        why = Reason(
            "wrong_partition", f"its workspace lives in partition {home}: check the pins and the key of the producer"
        )
        onward = strayed(self._plan, lead, home, lost, self._clock.now_ms(), why)
        await self.conclude_with_event(in_flight, lead, "parked" if lost else "rerouted", why, onward)

    async def conclude_with_event(
        self,
        in_flight: InFlight,
        lead: LeadRef,
        status: Status,
        why: Reason,
        *records: Record,
    ) -> None:
        """Commit one event for the lead, with these records, unless the record is concluded already."""
        in_flight.release_next()
        if await self.is_concluded(in_flight, lead.envelope):
            return
        about = self._plan, in_flight.consumed, lead.envelope, status
        now_ms = self._clock.now_ms()
        step = brief(*about, now_ms, why, lead.lead_id, *records, there=lead.destination, ref=lead)
        await self._partition.conclude(in_flight, step)

    async def is_concluded(self, in_flight: InFlight, envelope: Envelope) -> bool:
        """True if a marker says that this record is concluded. Check it right before a step, after any await."""
        mark = self._partition.find_marker(in_flight.consumed.record_id, envelope.origin)
        if mark is not None:
            await self._partition.conclude_unchanged(in_flight, mark)
        return mark is not None


def _id_of(lead: Lead | Unreadable) -> str:
    """The lead id by which its sender may search for it; '' if none can be read."""
    if isinstance(lead, Unreadable):
        return lead.lead_id
    identity = identify_cleaned(lead)
    return identity.lead_id if identity is not None else ""
