"""What happens to one lead, from its bytes to its conclusion, top to bottom.

    bytes -> decode -> resolve -> home partition? -> lock -> seen before? -> cached? -> suppressed?
          -> admit (or expire) + write ahead -> POST -> act on its outcome -> conclude

The decisions are pure functions of `domain/`; this file carries them out. Each write is one step:
rows, events,
dead letter and lane are committed together or not at all. A POST starts only after the `sending`
row is committed. So a crash at any point leaves either proof that nothing was sent, or a row that
says that the send is uncertain. When `LeadPipeline.process` returns, the lead is concluded and its
record may be acked.
"""

import asyncio
from functools import partial
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from stream_app.domain.dead_letter.replay import replay_due_ms, tier_s
from stream_app.domain.delivery.envelope import Disposition, Envelope, Way, lead_envelope
from stream_app.domain.delivery.recorder import (
    NO_REASON,
    Attempt,
    DeliveryRecorder,
    WriteBatch,
    brief,
    failure,
    rejection,
    strayed,
    without_value,
)
from stream_app.domain.delivery.resolve import (
    LeadRef,
    ResolvedLead,
    dedup,
    find_lead_ref,
    resolve_lead,
)
from stream_app.domain.delivery.state_machine import (
    Delivery,
    Reason,
    Verdict,
    begin,
    classify_record,
)
from stream_app.domain.delivery.suppression import is_unwanted
from stream_app.domain.lane.admission import ASK_AGAIN, AdmissionRequest, Grant, Held
from stream_app.domain.lane.lane import LANE_BUSY
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.lead.identity import person_of, pointed
from stream_app.domain.lead.read import Unreadable, read_lead, what_is_left_out
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.messages import RESEND, Lead, Status
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Gone,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
)
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Destination
from stream_app.partition.fallback import Fallback
from stream_app.partition.given_up import GivenUp
from stream_app.partition.in_flight import EmptyRun, InFlight
from stream_app.partition.state import PartitionState, StateUser, WorkerParts

LeadRecorder = DeliveryRecorder[ResolvedLead]

NextAttempt = int | None
"""The earliest time of a lead's next attempt (epoch ms; 0: at once), or None if the lead is
concluded.
"""

_PROBES_FOR_MS: Final = 600_000
"""How long a lead stays ready as the probe of its lane. Its record is not acked meanwhile."""
_GATHER_S: Final = 0.1
"""How long the first records of a run without a value wait for the others."""
_WORKER_DIED: Final = Reason(
    "worker_died",
    "its worker ended between the write-ahead and the outcome",
)


class LeadPipeline(StateUser):
    """Delivers the leads of one partition to Clay. Many records are under way at the same time."""

    def __init__(self, state: PartitionState, parts: WorkerParts) -> None:
        super().__init__(state)
        self._clay = parts.clay
        self._conclusions = Conclusions(state)
        self._given_up = GivenUp(state)
        self._fallback = Fallback(state, parts)

    async def process(self, in_flight: InFlight) -> None:
        """Process one record. Returns when everything about it is committed."""
        consumed = in_flight.consumed
        if in_flight.run is not None:
            await self._conclusions.without_value(in_flight, in_flight.run)
            return
        envelope = lead_envelope(consumed, self._plan.topics.inputs)
        if envelope.way == "given_up":
            await self._given_up.process(in_flight, envelope)
            return
        left_out = what_is_left_out(consumed, self._plan.sizes.lead)
        if left_out is not None and left_out.reason in ("batch_too_large", "oversize"):
            lead: Lead | Unreadable = left_out  # the value is no lead, or only the beginning of one
        else:
            lead = read_lead(consumed.value, consumed.key, self._plan.sizes.lead)
        resolved: ResolvedLead | Unreadable
        if left_out is not None:
            resolved = left_out
        elif isinstance(lead, Unreadable):
            resolved = lead
        else:
            resolved = resolve_lead(self._plan, consumed, envelope, lead)
        if isinstance(resolved, Unreadable):
            await self._process_unsendable(in_flight, envelope, lead, resolved)
        elif not self._lanes.is_home(resolved.destination.workspace):
            await self._conclusions.reroute(in_flight, resolved)
        else:
            # `resolved` follows from the record and the configuration. Rows are read behind the
            # lock: a copy of the lead, or a lead of the same person, may have had it before.
            async with self._locks.lock(in_flight, partial(self._keys_of, resolved)):
                await self._process_locked(in_flight, resolved)

    def _keys_of(self, resolved: ResolvedLead) -> tuple[bytes, ...]:
        """The keys of all rows that decide about this lead.

        They are that of its own row, and the aliases of its person.
        """
        return (resolved.key, *person_of(resolved.aliases, self._rows.get).aliases)

    async def _process_locked(self, in_flight: InFlight, resolved: ResolvedLead) -> None:
        """Find out what the rows say about this lead, and deliver it if it is to be sent."""
        if await self._commits.is_concluded(in_flight, resolved.envelope.origin):
            return
        now_ms = self._clock.now_ms()
        person = person_of(resolved.aliases, self._rows.get)
        row, verdict, why = dedup(
            resolved,
            person.rows,
            self._rows.delivery,
            now_ms,
            self._rows.freshness_ms,
        )
        if verdict == "done":
            in_flight.release_next()
            await self._commits.commit_unchanged(in_flight, resolved.key)
            return
        resolved = resolved.of(person)
        if verdict == "duplicate":
            await self._conclude_duplicate(in_flight, resolved, row, why)
            return
        if verdict in ("uncertain", "resume"):
            self._intake.take(in_flight)  # its row shows an earlier step of this very record
        recorder = self._recorder(resolved, row, verdict, now_ms)
        not_before_ms: NextAttempt = 0
        match verdict:
            case "uncertain":
                not_before_ms = await self._resume_sent(in_flight, recorder)
            case "decide":
                not_before_ms = await self._resend_or_park(in_flight, recorder)
            case "return":
                await self._return_from_replay(in_flight, recorder, now_ms)
        if not_before_ms is None:
            return
        if (limit := recorder.too_often(self._plan.replay)) is not None:
            await self._conclusions.park(in_flight, recorder, limit)
            return
        await self._deliver(in_flight, recorder, not_before_ms)

    async def _conclude_duplicate(
        self,
        in_flight: InFlight,
        resolved: ResolvedLead,
        row: Delivery | None,
        why: Reason,
    ) -> None:
        """Conclude a lead that was accepted before. A known person may be served."""
        unwanted = self._rows.why_not_sent(resolved)
        if unwanted is not None and unwanted.reason == "suppressed":
            await self._conclusions.without_row(in_flight, resolved, "suppressed", unwanted)
        elif why.reason != "same_person" or not await self._fallback.serve_same_person(
            in_flight,
            resolved,
            row,
        ):
            await self._conclusions.without_row(in_flight, resolved, "duplicate", why)

    def _recorder(
        self,
        resolved: ResolvedLead,
        row: Delivery | None,
        verdict: Verdict,
        now_ms: int,
    ) -> LeadRecorder:
        """Begin a history, or continue the one in the row."""
        if row is not None and verdict != "fresh":
            return DeliveryRecorder(self._plan, resolved, row)
        aliases = (
            [] if resolved.lead.force else pointed(resolved.aliases, resolved.key, self._rows.get)
        )
        recorder = DeliveryRecorder(
            self._plan,
            resolved,
            resolved.begin(now_ms),
            replaced=row,
            aliases=aliases,
        )
        if verdict == "fresh":
            recorder.emit()
        return recorder

    # --------------------------------------------------------------------- leads with a row already

    async def _resume_sent(self, in_flight: InFlight, recorder: LeadRecorder) -> NextAttempt:
        """Continue a lead whose row says `sending`.

        If this process sent it, it knows the outcome: only the step that recorded it was lost. Else
        the send is uncertain.
        """
        in_flight.release_next()
        attempt = in_flight.attempt
        if attempt is None or attempt.row != recorder.row:
            await self._conclusions.uncertain(in_flight, recorder, _WORKER_DIED)
            return None
        return await self._act_on(in_flight, recorder, attempt, has_slot=False)

    async def _resend_or_park(self, in_flight: InFlight, recorder: LeadRecorder) -> NextAttempt:
        """Send a lead again whose grace ended without a callback, or park it, as policy says."""
        if (
            recorder.resolved.destination.uncertain == "park"
            or recorder.row.sends > self._plan.replay.max_replays
        ):
            text = "it may have reached Clay, and no callback came in time"
            http_status = recorder.resolved.envelope.http_status or None
            await self._conclusions.park(
                in_flight,
                recorder,
                Reason("uncertain", text, http_status),
            )
            return None
        spent = self._lanes.charge(
            recorder.resolved.destination.workspace,
            recorder.row.reservation,
        )
        why = Reason(
            RESEND,
            "sent again by policy though it may have reached Clay: a possible double spend",
        )
        recorder.go("replayed", self._clock.now_ms(), why, spent, **recorder.freed(spent))
        # No await since `charge`: the lane that has booked the reservation and the row that no
        # longer has it are written together. The next attempt is decided by this row.
        await self._commits.submit(recorder.step(), in_flight)
        return 0

    async def _return_from_replay(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        now_ms: int,
    ) -> None:
        """Record that the lead has come back from a replay topic."""
        spent = self._lanes.charge(
            recorder.resolved.destination.workspace,
            recorder.row.reservation,
        )
        recorder.come_back(recorder.resolved.envelope, now_ms, spent)
        # another lead's step may commit the lane first: the row must be committed with it
        if spent is not None:
            await self._commits.submit(recorder.step(), in_flight)

    # -------------------------------------------------------------------------- leads without a row

    async def _process_unsendable(
        self,
        in_flight: InFlight,
        envelope: Envelope,
        lead: Lead | Unreadable,
        bad: Unreadable,
    ) -> None:
        """Reject a record that cannot be sent.

        If it belongs to a lead that has a row, park that lead.
        """
        lead_ref = find_lead_ref(
            self._plan,
            in_flight.consumed,
            envelope,
            lead,
            self._rows.delivery,
        )
        if lead_ref is None:
            await self._conclusions.reject(in_flight, envelope, lead, bad)
            return
        # `lead_ref` names the row. Its content is read behind the lock: the lead's own record may
        # be under way, and moves it.
        async with self._locks.lock(in_flight, lambda: (lead_ref.key,)):
            await self._park_unsendable(in_flight, lead_ref, bad)

    async def _park_unsendable(
        self,
        in_flight: InFlight,
        lead_ref: LeadRef,
        bad: Unreadable,
    ) -> None:
        """Park a known lead that would be sent now and cannot be."""
        if await self._commits.is_concluded(in_flight, lead_ref.envelope.origin):
            return
        now_ms = self._clock.now_ms()
        row = self._rows.delivery(lead_ref.key)
        verdict = classify_record(row, lead_ref.envelope, now_ms, self._rows.freshness_ms)
        if verdict == "done":
            await self._commits.commit_unchanged(in_flight, lead_ref.key)
            return
        row = row or begin(lead_ref.envelope, now_ms)
        if self._rows.suppressing and is_unwanted(
            lead_ref,
            row.first_at_ms,
            self._rows.suppression,
            self._rows.get,
        ):
            # The dead letter must not carry the fields of an erased person.
            lead_ref = replace(lead_ref, consumed=replace(lead_ref.consumed, value=None))
        recorder = DeliveryRecorder(self._plan, lead_ref, row)
        if verdict == "uncertain":
            await self._conclusions.uncertain(in_flight, recorder, _WORKER_DIED)
            return
        if verdict == "fresh":
            recorder.emit()
        elif verdict == "return":
            recorder.come_back(lead_ref.envelope, now_ms)
        await self._conclusions.park(in_flight, recorder, Reason(bad.reason, bad.text))

    # -------------------------------------------------------------- admit, POST, act on its outcome

    async def _deliver(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        not_before_ms: int,
    ) -> None:
        """Send the lead when its lane admits it, until it is concluded.

        It goes from `not_before_ms` on (epoch ms).
        """
        # after a recovery: others may go while it waits for its next attempt
        if recorder.row.state == "refused":
            in_flight.release_next()
        if await self._fallback.serve_cached_first(in_flight, recorder):
            return
        was_probe = False
        probes_until_ms = self._clock.now_ms() + _PROBES_FOR_MS
        while True:
            # Checked before each attempt: an operator may suppress the lead while it waits.
            if (why := self._rows.why_not_sent(recorder.resolved)) is not None:
                await self._conclusions.conclude(in_flight, recorder, "suppressed", why)
                return
            resolved = recorder.resolved
            request = AdmissionRequest(
                # read again: webhooks are added live
                self._plan.destinations[resolved.destination.alias],
                not_before_ms,
                resolved.lead.not_after_ms,
                patient=was_probe or recorder.row.state.startswith("held_"),
                bulk=resolved.bulk,
                probe=was_probe and self._clock.now_ms() < probes_until_ms,
            )
            answer = await self._admission.admit(
                in_flight,
                request,
                partial(self._write_ahead, in_flight, recorder),
            )
            if isinstance(answer, Grant):
                attempt = await self._post(in_flight, recorder, answer)
                retry_ms = await self._act_on(in_flight, recorder, attempt, has_slot=True)
                if retry_ms is None:
                    return
                not_before_ms = retry_ms
                was_probe = answer.permit.lease is not None
            elif answer is not ASK_AGAIN and not await self._hold_or_defer(
                in_flight,
                recorder,
                answer,
            ):
                return

    def _write_ahead(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        grant: Grant,
        now_ms: int,
    ) -> WriteBatch:
        """Return the step that makes the row `sending`.

        From here on the record knows that no POST of this grant was started: a recovery that finds
        the row does not take it for uncertain.
        """
        step = recorder.write_ahead(grant, now_ms, self._rows.get)
        in_flight.attempt = Attempt(recorder.row, grant)
        return step

    async def _post(self, in_flight: InFlight, recorder: LeadRecorder, grant: Grant) -> Attempt:
        """Send the row. A POST that would start too late is not started.

        This worker may have been frozen since the grant, and another worker may own the partition
        by now.
        """
        resolved = recorder.resolved
        attempt = Attempt(recorder.row, grant)
        if (
            self._clock.boot_ms() - grant.at_boot_ms
            > self._plan.delivery.max_request_start_age_s * 1000
        ):
            return attempt
        # Cleared before the POST and set right behind it: if this task is cancelled in between,
        # nobody knows the outcome, and the row `sending` ends as uncertain.
        in_flight.attempt = None
        alias = resolved.destination.alias
        trace_id = recorder.row.trace_id
        outcome = await self._clay.send(alias, grant.webhook_id, resolved.body, trace_id)
        in_flight.attempt = attempt = Attempt(attempt.row, grant, outcome)
        return attempt

    async def _act_on(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        attempt: Attempt,
        *,
        has_slot: bool,
    ) -> NextAttempt:
        """Commit the outcome of a POST."""
        grant = attempt.grant
        outcome = attempt.outcome
        # No await from here to the step that each case submits: the lane with this settlement and
        # the row are written together.
        settlement = self._admission.settle(grant, outcome, has_slot=has_slot)
        wait_until_ms = settlement.wait_until_ms
        match outcome:
            case Accepted():
                destination = grant.destination
                due_ms = None
                if destination.callbacks:
                    due_ms = self._clock.now_ms() + int(destination.callback_deadline_s * 1000)
                why = Reason(http_status=outcome.http_status, due_at_ms=due_ms)
                final = not destination.callbacks
                await self._conclusions.conclude(
                    in_flight,
                    recorder,
                    "accepted",
                    why,
                    settlement.spent,
                    final=final,
                )
                return None
            case Uncertain():
                await self._conclusions.uncertain(in_flight, recorder, failure(outcome))
                return None
            case Poison():
                why = failure(outcome)
                await self._conclusions.conclude(
                    in_flight,
                    recorder,
                    "rejected_invalid",
                    why,
                    dead_letter="poison",
                )
                return None
            case Refused():
                return await self._retry_or_dead_letter(
                    in_flight,
                    recorder,
                    grant,
                    outcome,
                    settlement,
                )
            case RateLimited() | Denied() | Gone():
                why = Reason(outcome.reason, settlement.text, outcome.http_status, wait_until_ms)
            case None:
                why = Reason(
                    "started_too_late",
                    "not sent: its turn was too long ago",
                    due_at_ms=wait_until_ms,
                )
        return await self._record_refusal(recorder, why, wait_until_ms)

    async def _retry_or_dead_letter(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        grant: Grant,
        outcome: Refused,
        settlement: Settlement,
    ) -> NextAttempt:
        """Retry a lead that Clay did not take, until its attempts are used up.

        A failure of the whole lane does not count as an attempt of the lead.
        """
        now_ms = self._clock.now_ms()
        policy = self._plan.delivery
        attempt = settlement.attempts(recorder.row.attempt)
        first_ms = recorder.row.failed_at_ms or now_ms
        if attempt >= policy.max_attempts:
            self._lanes.count_dead_letter(grant, outcome.reason)
            why = failure(outcome)
            await self._conclusions.dead_letter(
                in_flight,
                recorder,
                why,
                attempt=attempt,
                failed_at_ms=first_ms,
            )
            return None
        delay_s = min(policy.retry_cap_s, policy.retry_base_s * 2**attempt) * self._clock.rand()
        due_ms = max(settlement.wait_until_ms, now_ms + int(delay_s * 1000))
        why = failure(outcome, due_ms)
        return await self._record_refusal(
            recorder,
            why,
            due_ms,
            attempt=attempt,
            failed_at_ms=first_ms,
        )

    async def _record_refusal(
        self,
        recorder: LeadRecorder,
        why: Reason,
        due_ms: int,
        **changes: object,
    ) -> int:
        """Commit that Clay did not take the lead.

        This comes before any wait for the next attempt: after a crash the row proves it.
        """
        recorder.go("refused", self._clock.now_ms(), why, **recorder.freed(), **changes)
        await self._commits.submit(recorder.step())
        return due_ms

    # ----------------------------------------------------------------------------------------- held

    async def _hold_or_defer(self, in_flight: InFlight, recorder: LeadRecorder, held: Held) -> bool:
        """Record that the lane did not admit the lead.

        False: it is concluded, as served, deferred or expired.
        """
        now_ms = self._clock.now_ms()
        if held.status == "expired":
            await self._conclusions.conclude(
                in_flight,
                recorder,
                "expired",
                Reason(held.reason, held.text),
            )
            return False
        if not held.defer:
            why = Reason(held.reason, held.text, due_at_ms=held.may_end_ms or None)
            recorder.go(held.status or "held_paused", now_ms, why)
            await self._commits.submit(recorder.step(), in_flight)
            return True
        in_flight.release_next()
        provisional: list[Record] | None = []
        if held.reason != LANE_BUSY:
            provisional = await self._fallback.serve_while_held(in_flight, recorder)
        if provisional is None:
            return False
        # Second look: an operator may have suppressed the lead while the cache was asked. Then
        # `_deliver` concludes it.
        if self._rows.why_not_sent(recorder.resolved) is not None:
            return True
        now_ms = self._clock.now_ms()
        due_ms = max(
            held.back_ms or held.until_ms,
            now_ms + int(self._plan.delivery.patience_s * 1000),
        )
        why = Reason(held.reason, held.text, due_at_ms=due_ms)
        recorder.go("deferred", now_ms, why)
        copy = recorder.copy(self._plan.topics.deferred, now_ms, why, way="deferred")
        await self._commits.commit_last(in_flight, recorder.step(copy, *provisional))
        return False


class Conclusions(StateUser):
    """Commits the last step of a lead's record.

    A lead with a row ends as final, open until its callback, uncertain, dead-lettered or parked. A
    record that gets no row (an invalid one, one of another partition, a duplicate) gets one event
    and a marker, so that a redelivery repeats nothing.
    """

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
    ) -> None:
        """Commit the last step of the record.

        A row that is not `final` stays open until Clay calls back.
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

        Its record waits in a delay tier until the callback's grace ends. Without callbacks it is
        parked at once, if policy says so: nothing could ever show whether it arrived.
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
        if destination.uncertain == "park" and not destination.callbacks:
            text = (
                f"it may have reached Clay ({why.reason}); its destination has no callbacks to "
                "confirm it"
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
        """Conclude with a dead letter.

        It is replayed later, or parked if its replays are used up.
        """
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
        """Return a copy of the lead's record, without its fields if the lead was erased."""
        lead = recorder.resolved
        row = recorder.row
        copy = recorder.copy(topic, row.at_ms, why, way=way, disposition=disposition)
        is_erased = self._rows.is_erased(lead.destination.workspace, lead.lead_id, row.first_at_ms)
        return replace(copy, value=None) if is_erased else copy

    # -------------------------------------------------------------------------------- without a row

    async def reject(
        self,
        in_flight: InFlight,
        envelope: Envelope,
        lead: Lead | Unreadable,
        bad: Unreadable,
    ) -> None:
        """Conclude a record that is no valid lead with a dead letter.

        `lead` is what could be read of it.

        It counts in the flood guard of its lane, and waits while that guard suspends the lane.
        """
        consumed = in_flight.consumed
        name = lead.workspace or (consumed.key or b"").decode("utf-8", "replace")

        def step(now_ms: int) -> WriteBatch:
            return rejection(self._plan, consumed, envelope, lead, bad, now_ms, self._rows.get)

        def write_ahead(grant: Grant, now_ms: int) -> WriteBatch:
            concluding = step(now_ms)
            if concluding.events:
                self._lanes.count_dead_letter(grant, bad.reason)
                concluding = replace(concluding, workspace=name)
            return concluding

        # no lane of this partition to count it in
        if name not in self._plan.residents(consumed.partition):
            in_flight.release_next()
            await self._commits.commit_last(in_flight, step(self._clock.now_ms()))
            return
        request = AdmissionRequest(Destination("", name, ()), patient=True, as_dead_letter=True)
        while await self._admission.admit(in_flight, request, write_ahead) is ASK_AGAIN:
            pass

    async def without_value(self, in_flight: InFlight, run: EmptyRun) -> None:
        """Conclude an input record without a value, with those of its run that came meanwhile.

        There is one event for all. The record gets no dead letter: there is nothing in it that
        anyone could want back.
        """
        consumed = in_flight.consumed
        run.waiting[consumed.offset] = consumed
        in_flight.release_next()
        try:
            with in_flight.limiter.released():  # so that the rest of the run is taken
                await run.turn.acquire()
            try:
                # Second look behind the turn: the step of an earlier record may have concluded this
                # one, too.
                if consumed.offset in run.waiting:
                    with in_flight.limiter.released():
                        await asyncio.sleep(_GATHER_S)
                    await self._conclude_run(in_flight, run)
            finally:
                run.turn.release()
        finally:
            run.waiting.pop(consumed.offset, None)

    async def _conclude_run(self, in_flight: InFlight, run: EmptyRun) -> None:
        """Conclude all records of the run that wait, but those that were concluded before a crash.

        A process that does not own the partition any more must not ack them either, so there is a
        commit in each case.
        """
        taken = sorted(run.waiting.values(), key=attrgetter("offset"))
        markers = {consumed.offset: self._rows.marker(consumed.record_id) for consumed in taken}
        left = [consumed for consumed in taken if markers[consumed.offset] is None]
        if left:
            await self._commits.commit_last(
                in_flight,
                without_value(self._plan, left, self._clock.now_ms()),
            )
        elif (marker := markers[taken[-1].offset]) is not None:
            await self._commits.commit_unchanged(in_flight, marker)
        # Those of the step only: more records of the run have come during the commit, and they wait
        # for the next turn.
        for consumed in taken:
            run.waiting.pop(consumed.offset, None)

    async def reroute(self, in_flight: InFlight, lead: LeadRef) -> None:
        """Publish a lead to the home partition of its workspace. A second miss parks it."""
        home = self._plan.home_of(lead.destination.workspace)
        lost = lead.envelope.hops > 0
        text = (
            f"its workspace lives in partition {home}: check the pins and the key of the producer"
        )
        why = Reason("wrong_partition", text)
        onward = strayed(self._plan, lead, home, lost, self._clock.now_ms(), why)
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
        if await self._commits.is_concluded(in_flight, lead.envelope.origin):
            return
        about = (
            self._plan,
            in_flight.consumed,
            lead.envelope,
            status,
            self._clock.now_ms(),
            why,
            lead.lead_id,
        )
        read = lead.lead if isinstance(lead, ResolvedLead) else None
        step = brief(*about, *records, destination=lead.destination, lead=read)
        await self._commits.commit_last(in_flight, step)
