"""How a record is concluded in this partition.

A lead with a row ends as final, open until its callback, uncertain, dead-lettered or parked. A record that gets no row
(an invalid one, one of another partition, a duplicate) gets one event and a marker, so that a redelivery repeats
nothing.
"""

import msgspec

from stream_app.domain.dead_letter.replay import replay_due_ms, tier_s
from stream_app.domain.delivery.envelope import Disposition, Envelope
from stream_app.domain.delivery.recorder import NO_REASON, DeliveryRecorder, Rejection, brief, strayed
from stream_app.domain.delivery.resolve import LeadRef, ResolvedLead
from stream_app.domain.delivery.state_machine import Reason
from stream_app.domain.lane.admission import ASK_AGAIN, AdmissionRequest
from stream_app.domain.lead.read import Unreadable
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.messages import Lead, Status
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Destination
from stream_app.partition.in_flight import PRIORITY, InFlight
from stream_app.partition.state import PartitionState


class Conclusions:
    """Commits the last step of a record under way."""

    def __init__(self, state: PartitionState) -> None:
        self._plan = state.plan
        self._clock = state.clock
        self._rows = state.rows
        self._lanes = state.lanes
        self._admission = state.admission
        self._commits = state.commits

    # --------------------------------------------------------------------------------------------- with a row

    async def conclude(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder[LeadRef],
        state: Status,
        why: Reason = NO_REASON,
        spent: Reservation | None = None,
        *,
        final: bool = True,
        dead_letter: Disposition = "",
    ) -> None:
        """Commit the last step of the record. A row that is not `final` stays open until Clay calls back."""
        in_flight.release_next()
        now_ms = self._clock.now_ms()
        recorder.go(state, now_ms, why, spent, final=final, **(recorder.freed(spent) if final else {}))
        copies = [recorder.copy(self._plan.topics.dlq, now_ms, why, disposition=dead_letter)] if dead_letter else []
        await self._commits.commit_last(in_flight, recorder.step(*copies))

    async def uncertain(self, in_flight: InFlight, recorder: DeliveryRecorder[LeadRef], why: Reason) -> None:
        """Commit that the lead may be at Clay.

        Its record waits in a delay tier until the callback's grace ends. Without callbacks it is parked at once, if
        policy says so: nothing could ever show whether it arrived.
        """
        now_ms, replay = self._clock.now_ms(), self._plan.replay
        destination = recorder.resolved.destination
        grace_ms = int(destination.uncertain_grace_s * 1000)
        why = msgspec.structs.replace(why, due_at_ms=now_ms + grace_ms)
        first_ms = recorder.row.failed_at_ms or now_ms
        recorder.go("send_uncertain", now_ms, why, failed_at_ms=first_ms, sends=recorder.row.sends + 1)
        if destination.uncertain == "park" and not destination.callbacks:
            text = f"it may have reached Clay ({why.reason}); its destination has no callbacks to confirm it"
            why = msgspec.structs.replace(why, reason="uncertain", text=text, due_at_ms=None)
            await self.park(in_flight, recorder, why)
            return
        topic = self._plan.topics.wait(tier_s(replay, grace_ms) or replay.tiers_s[0])
        await self._commits.commit_last(in_flight, recorder.step(recorder.copy(topic, now_ms, why, way="uncertain")))

    async def dead_letter(
        self, in_flight: InFlight, recorder: DeliveryRecorder[LeadRef], why: Reason, **changes: object
    ) -> None:
        """Conclude with a dead letter: it is replayed later, or parked if its replays are used up."""
        now_ms, replay = self._clock.now_ms(), self._plan.replay
        state: Status = "parked"
        topic, replays = self._plan.topics.parked, recorder.row.replay
        if replays < replay.max_replays:
            state, topic = "dead_lettered", self._plan.topics.dlq
            due_ms = replay_due_ms(replay, why.reason, replays + 1, now_ms, self._clock.rand())
            why = msgspec.structs.replace(why, due_at_ms=due_ms)
        recorder.go(state, now_ms, why, **recorder.freed(), **changes)
        dead_letter = recorder.copy(topic, now_ms, why, disposition="failed")
        await self._commits.commit_last(in_flight, recorder.step(dead_letter))

    async def park(self, in_flight: InFlight, recorder: DeliveryRecorder[LeadRef], why: Reason) -> None:
        """Conclude as parked: an operator has to decide. What is still reserved is booked as spent."""
        in_flight.release_next()
        now_ms = self._clock.now_ms()
        spent = self.charge(recorder)
        recorder.go("parked", now_ms, why, spent, **(recorder.freed(spent) if spent else {}))
        dead_letter = recorder.copy(self._plan.topics.parked, now_ms, why, disposition="failed")
        await self._commits.commit_last(in_flight, recorder.step(dead_letter))

    def charge(self, recorder: DeliveryRecorder[LeadRef]) -> Reservation | None:
        """Book what is still reserved for the lead as spent.

        Returns:
            The reservation, or None if there is none or the workspace is not configured any more.
        """
        held, workspace = recorder.row.reservation, recorder.resolved.destination.workspace
        if held is None or workspace not in self._plan.workspaces:
            return None
        self._lanes.charge(workspace, held)
        return held

    # ------------------------------------------------------------------------------------------- without a row

    async def is_concluded(self, in_flight: InFlight, origin: str = "") -> bool:
        """True if a marker says that this record is concluded. Check it right before a step, after any await."""
        marker = self._rows.marker(in_flight.consumed.record_id, origin)
        if marker is not None:
            await self._commits.commit_unchanged(in_flight, marker)
            return True
        # A take-over reads callbacks and commands, too: the group's offset may have passed such a record since then.
        return in_flight.source not in PRIORITY and self._rows.is_passed(in_flight.consumed)

    async def reject(self, in_flight: InFlight, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable) -> None:
        """Conclude a record that is no valid lead with a dead letter. `lead` is what could be read of it.

        It counts in the flood guard of its lane, and waits while that guard suspends the lane.
        """
        rejection = Rejection(self._plan, in_flight.consumed, envelope, lead, bad)
        name = lead.workspace or (in_flight.consumed.key or b"").decode("utf-8", "replace")
        if name not in self._plan.residents(in_flight.consumed.partition):  # no lane of this partition to count it in
            in_flight.release_next()
            await self._commits.commit_last(in_flight, rejection.step(self._clock.now_ms(), self._rows.get))
            return
        request = AdmissionRequest(Destination("", name, ()), patient=True, as_dead_letter=True)
        while await self._admission.admit(in_flight, rejection, request) is ASK_AGAIN:
            pass

    async def reroute(self, in_flight: InFlight, lead: LeadRef) -> None:
        """Publish a lead to the home partition of its workspace. A second miss parks it."""
        home = self._plan.home_of(lead.destination.workspace)
        lost = lead.envelope.hops > 0
        text = f"its workspace lives in partition {home}: check the pins and the key of the producer"
        why = Reason("wrong_partition", text)
        onward = strayed(self._plan, lead, home, lost, self._clock.now_ms(), why)
        await self.without_row(in_flight, lead, "parked" if lost else "rerouted", why, onward)

    async def without_row(
        self, in_flight: InFlight, lead: LeadRef, status: Status, why: Reason, *records: Record
    ) -> None:
        """Commit one event for the lead, with these records, unless the record is concluded already."""
        in_flight.release_next()
        if await self.is_concluded(in_flight, lead.envelope.origin):
            return
        about = self._plan, in_flight.consumed, lead.envelope, status, self._clock.now_ms(), why, lead.lead_id
        read = lead.lead if isinstance(lead, ResolvedLead) else None
        step = brief(*about, *records, destination=lead.destination, lead=read)
        await self._commits.commit_last(in_flight, step)
