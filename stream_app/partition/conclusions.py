"""The last step of a lead's record, for each way in which it ends. Nothing in this file sends."""

import asyncio
from operator import attrgetter
from typing import Final

from attrs import define
from msgspec.structs import replace

from stream_app.clock import Clock
from stream_app.domain.dead_letter.replay import replay_due_ms, tier_s
from stream_app.domain.delivery.envelope import Disposition, Way
from stream_app.domain.delivery.recorder import NO_REASON, DeliveryRecorder
from stream_app.domain.delivery.resolve import LeadRef, ResolvedLead
from stream_app.domain.delivery.state_machine import Reason
from stream_app.domain.delivery.without_row import rerouted_copy, step_without_row, without_value
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.messages import Status
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Plan
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import EmptyRun, InFlight
from stream_app.partition.lanes import Lanes
from stream_app.partition.rows import Rows

_GATHER_S: Final = 0.1
"""How long the first records of a run without a value wait for the others, in seconds."""


@define(eq=False, repr=False, kw_only=True)
class Conclusions:
    """Commits the last step of a lead's record.

    A lead with a row ends as final, open until its callback, uncertain, dead-lettered or parked. A
    record that gets no row (an invalid one, one of another partition, a duplicate) gets one event
    and a marker, so that a redelivery repeats nothing.

    The methods for a record with a row may follow a change of the lane that has to be written with
    the row. So none of them awaits anything before it submits its step.
    """

    _plan: Plan
    _clock: Clock
    _rows: Rows
    _lanes: Lanes
    _commits: Commits

    # ----------------------------------------------------------------------------------- with a row

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
        **changes: object,
    ) -> None:
        """Commit the last step of the record.

        A row that is not `final` stays open until Clay calls back. `changes` are other fields of
        the row that change.
        """
        in_flight.release_next()
        now_ms = self._clock.now_ms()
        recorder.go(
            state,
            now_ms,
            why,
            spent,
            final=final,
            **(recorder.freed(spent) if final else {}),
            **changes,
        )
        copies = (
            [self._copy(recorder, self._plan.topics.dlq, why, disposition=dead_letter)]
            if dead_letter
            else []
        )
        await self._commits.commit_last(in_flight, recorder.step(*copies))

    async def uncertain(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder[LeadRef],
        why: Reason,
    ) -> None:
        """Commit that the lead may be at Clay.

        A copy of its record waits in a delay tier until the grace of the send ends. If the
        destination has neither callbacks nor announcements of runs and its policy is to park, the
        lead is parked at once, because nothing could ever show whether it arrived.
        """
        now_ms = self._clock.now_ms()
        replay = self._plan.replay
        destination = recorder.resolved.destination
        grace_ms = int(destination.uncertain_grace_s * 1000)
        why = replace(why, due_at_ms=now_ms + grace_ms)
        first_ms = recorder.row.failed_at_ms or now_ms
        recorder.go(
            "send_uncertain",
            now_ms,
            why,
            failed_at_ms=first_ms,
            sends=recorder.row.sends + 1,
        )
        if destination.uncertain == "park" and not destination.can_confirm:
            text = (
                f"it may have reached Clay ({why.reason}); its destination has no callbacks to "
                "confirm it"
            )
            if destination.kind == "routine":
                text = (
                    f"it may have reached Clay ({why.reason}); without run_webhook nothing can "
                    "show that, and its run cannot be found: look for it in Clay"
                )
            why = replace(why, reason="uncertain", text=text, due_at_ms=None)
            await self.park(in_flight, recorder, why)
            return
        topic = self._plan.topics.wait(tier_s(replay, grace_ms) or replay.tiers_s[0])
        await self._commits.commit_last(
            in_flight,
            recorder.step(self._copy(recorder, topic, why, way="uncertain")),
        )

    async def dead_letter(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder[LeadRef],
        why: Reason,
        **changes: object,
    ) -> None:
        """Conclude with a dead letter that is replayed later, or park if no replay is left."""
        now_ms = self._clock.now_ms()
        replay = self._plan.replay
        state: Status = "parked"
        topic = self._plan.topics.parked
        replays = recorder.row.replay
        if replays < replay.max_replays:
            state = "dead_lettered"
            topic = self._plan.topics.dlq
            due_ms = replay_due_ms(replay, why.reason, replays + 1, now_ms, self._clock.rand())
            why = replace(why, due_at_ms=due_ms)
        recorder.go(state, now_ms, why, **recorder.freed(), **changes)
        dead_letter = self._copy(recorder, topic, why, disposition="failed")
        await self._commits.commit_last(in_flight, recorder.step(dead_letter))

    async def park(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder[LeadRef],
        why: Reason,
    ) -> None:
        """Conclude as parked: an operator has to decide.

        What is still reserved is booked as spent.
        """
        in_flight.release_next()
        now_ms = self._clock.now_ms()
        spent = self._lanes.charge(
            recorder.resolved.destination.workspace,
            recorder.row.reservation,
        )
        recorder.go("parked", now_ms, why, spent, **(recorder.freed(spent) if spent else {}))
        dead_letter = self._copy(recorder, self._plan.topics.parked, why, disposition="failed")
        await self._commits.commit_last(in_flight, recorder.step(dead_letter))

    def _copy(
        self,
        recorder: DeliveryRecorder[LeadRef],
        topic: str,
        why: Reason,
        *,
        way: Way = "",
        disposition: Disposition = "",
    ) -> Record:
        """Return a copy of the lead's record, without its value if the lead was erased."""
        lead = recorder.resolved
        row = recorder.row
        copy = recorder.copy(topic, row.at_ms, why, way=way, disposition=disposition)
        is_erased = self._rows.is_erased(lead.destination.workspace, lead.lead_id, row.first_at_ms)
        return replace(copy, value=None) if is_erased else copy

    # -------------------------------------------------------------------------------- without a row

    async def without_value(self, in_flight: InFlight, run: EmptyRun) -> None:
        """Conclude an input record without a value, with those of its run that came meanwhile.

        There is one event for all of them. They get no dead letter, because they hold nothing that
        anyone could want back.
        """
        consumed = in_flight.consumed
        run.waiting[consumed.offset] = consumed
        in_flight.release_next()
        try:
            # It gives its place up, so that the rest of the run is read.
            with in_flight.limiter.released():
                await run.turn.acquire()
            try:
                # Second look: the step of an earlier record may have concluded this one during the
                # wait.
                if consumed.offset not in run.waiting:
                    return
                with in_flight.limiter.released():
                    await asyncio.sleep(_GATHER_S)
                # After the sleep: the step is for all records that wait by now.
                taken = sorted(run.waiting.values(), key=attrgetter("offset"))
                markers = [self._rows.marker(one.record_id) for one in taken]
                # Leaves out the records that were concluded before a crash.
                left = [one for one, marker in zip(taken, markers, strict=True) if marker is None]
                # There is a commit in either case, because a process that no longer owns the
                # partition must not ack them.
                if left:
                    step = without_value(self._plan, left, self._clock.now_ms())
                    await self._commits.commit_last(in_flight, step)
                elif (marker := markers[-1]) is not None:
                    await self._commits.commit_unchanged(in_flight, marker)
                # Only those of the step are removed: more records of the run may have come during
                # the commit, and they wait for the next turn.
                for one in taken:
                    run.waiting.pop(one.offset, None)
            finally:
                run.turn.release()
        finally:
            run.waiting.pop(consumed.offset, None)

    async def reroute(self, in_flight: InFlight, lead: LeadRef) -> None:
        """Publish a lead to the home partition of its workspace. A second miss parks it."""
        home = self._plan.home_of(lead.destination.workspace)
        lost = lead.envelope.hops > 0
        text = (
            f"its workspace lives in partition {home}: check the pins and the key of the producer"
        )
        why = Reason("wrong_partition", text)
        onward = rerouted_copy(self._plan, lead, home, lost, self._clock.now_ms(), why)
        await self.without_row(in_flight, lead, "parked" if lost else "rerouted", why, onward)

    async def without_row(
        self,
        in_flight: InFlight,
        lead: LeadRef,
        status: Status,
        why: Reason,
        *records: Record,
    ) -> None:
        """Commit one event for the lead, with these records.

        Nothing is written if the record is concluded already.
        """
        in_flight.release_next()
        if await self._commits.end_if_concluded(in_flight, lead.envelope.origin):
            return
        step = step_without_row(
            self._plan,
            in_flight.consumed,
            lead.envelope,
            status,
            self._clock.now_ms(),
            why,
            lead.lead_id,
            *records,
            destination=lead.destination,
            lead=lead.lead if isinstance(lead, ResolvedLead) else None,
        )
        await self._commits.commit_last(in_flight, step)
