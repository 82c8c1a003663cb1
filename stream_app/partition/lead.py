"""What happens to one lead, from its bytes to its conclusion, top to bottom.

    bytes -> decode -> resolve -> home partition? -> lock -> duplicate? -> cached? -> suppressed?
          -> admit (or expire) + write ahead -> POST -> act on its outcome -> conclude

The decisions are pure functions of `domain/`, and this file carries them out. Each write is one
step: rows, events, dead letter and lane are committed together or not at all. A POST starts only
after the row `sending` is committed. So a crash at any point leaves either proof that nothing was
sent, or a row that says that the send is uncertain. When `LeadPipeline.process` returns, the record
is concluded and may be acked.
"""

from functools import partial
from typing import Final

from attrs import define
from msgspec.structs import replace

from stream_app.clock import Clock
from stream_app.domain.delivery.envelope import Envelope, lead_envelope
from stream_app.domain.delivery.recorder import AdmittedPost, CommitStep, DeliveryRecorder, failure
from stream_app.domain.delivery.resolve import ResolvedLead, dedup, find_lead_ref, resolve_lead
from stream_app.domain.delivery.state_machine import (
    Delivery,
    Reason,
    Verdict,
    begin,
    classify_record,
)
from stream_app.domain.delivery.suppression import is_unwanted
from stream_app.domain.delivery.without_row import rejection
from stream_app.domain.lane.admission import ASK_AGAIN, AdmissionRequest, Grant, Held
from stream_app.domain.lane.lane import LANE_BUSY
from stream_app.domain.lead.identity import person_of, pointed
from stream_app.domain.lead.read import Unreadable, read_lead, what_is_left_out
from stream_app.domain.model.messages import BOTH_METERS, RESEND, Lead
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
    WebhookOut,
)
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Commits
from stream_app.partition.conclusions import Conclusions
from stream_app.partition.fallback import Fallback
from stream_app.partition.given_up import GivenUp
from stream_app.partition.in_flight import InFlight
from stream_app.partition.intake import Intake
from stream_app.partition.key_locks import KeyLocks
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Clay
from stream_app.partition.rows import Rows

LeadRecorder = DeliveryRecorder[ResolvedLead]

SendAgainAt = int | None
"""The earliest time of a lead's next attempt (epoch ms; 0: at once); None if its record is
concluded.
"""

_PROBES_FOR_MS: Final = 600_000
"""How long a lead stays ready as the probe of its lane. Its record is not acked meanwhile."""
_WORKER_DIED: Final = Reason(
    "worker_died",
    "its worker ended between the write-ahead and the outcome",
)


@define(eq=False, repr=False, kw_only=True)
class LeadPipeline:
    """Delivers the leads of one partition to Clay. Many records are under way at the same time."""

    _plan: Plan
    _clock: Clock
    _rows: Rows
    _lanes: Lanes
    _intake: Intake
    _locks: KeyLocks
    _commits: Commits
    _admission: AdmissionQueue
    _clay: Clay
    _conclusions: Conclusions
    _given_up: GivenUp
    _fallback: Fallback

    async def process(self, in_flight: InFlight) -> None:
        """Process one record. Returns when everything about it is committed."""
        consumed = in_flight.consumed
        if in_flight.empty_run is not None:
            await self._conclusions.without_value(in_flight, in_flight.empty_run)
            return
        envelope = lead_envelope(consumed, self._plan.topics.inputs)
        if envelope.way == "given_up":
            await self._given_up.process(in_flight, envelope)
            return
        # A record is not sent if the consumer left a part of it out. Its value may still say which
        # lead it is, unless the value is that part.
        left_out = what_is_left_out(consumed, self._plan.sizes.lead)
        lead: Lead | Unreadable
        if left_out is not None and left_out.reason in ("batch_too_large", "oversize"):
            lead = left_out
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
            # `resolved` follows from the record and the configuration, so it is the same after the
            # wait for the lock. Rows are read under the lock only: a copy of the lead, or a lead of
            # the same person, may have held it before and changed them.
            async with self._locks.lock(in_flight, partial(self._keys_of, resolved)):
                await self._process_locked(in_flight, resolved)

    def _keys_of(self, resolved: ResolvedLead) -> tuple[bytes, ...]:
        """The keys of all rows that decide about this lead: its own, and its person's aliases."""
        return (resolved.key, *person_of(resolved.aliases, self._rows.get).aliases)

    # --------------------------------------------------------------------------- what its rows say

    async def _process_locked(self, in_flight: InFlight, resolved: ResolvedLead) -> None:
        """Find out what the rows say about this lead, and deliver it if it is to be sent."""
        if await self._commits.end_if_concluded(in_flight, resolved.envelope.origin):
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
        resolved = resolved.with_person(person)
        if verdict == "duplicate":
            # A person who is known under another id may be answered from the cache.
            unwanted = self._rows.why_not_sent(resolved)
            if unwanted is not None and unwanted.reason == "suppressed":
                await self._conclusions.without_row(in_flight, resolved, "suppressed", unwanted)
            elif why.reason != "same_person" or not await self._fallback.answer_same_person(
                in_flight,
                resolved,
                row,
            ):
                await self._conclusions.without_row(in_flight, resolved, "duplicate", why)
            return
        if verdict in ("uncertain", "resume"):
            self._intake.take(in_flight)  # Its row shows an earlier step of this very record.
        recorder = self._recorder(resolved, row, verdict, now_ms)
        not_before_ms: SendAgainAt = 0
        match verdict:
            case "uncertain":
                # Its row says `sending`. If this process made that POST, it knows the outcome, and
                # only the step that recorded the outcome was lost. Otherwise the send is uncertain.
                in_flight.release_next()
                post = in_flight.post
                if post is None or post.row != recorder.row:
                    await self._conclusions.uncertain(in_flight, recorder, _WORKER_DIED)
                    return
                not_before_ms = await self._act_on(in_flight, recorder, post, has_slot=False)
            case "decide":
                # The replay process brought it back because the grace of its uncertain send ended.
                not_before_ms = await self._resend_or_park(in_flight, recorder)
            case "return":
                # The replay process brought it back. What is still reserved for an earlier POST is
                # booked as spent.
                workspace = resolved.destination.workspace
                spent = self._lanes.charge(workspace, recorder.row.reservation)
                recorder.come_back(resolved.envelope, now_ms, spent)
                # Submitted before any await: the step of another lead could otherwise commit the
                # lane that has booked the reservation without the row that no longer has it.
                if spent is not None:
                    await self._commits.submit(recorder.step(), in_flight)
        if not_before_ms is None:
            return
        if (limit := recorder.too_often(self._plan.replay)) is not None:
            await self._conclusions.park(in_flight, recorder, limit)
            return
        await self._deliver(in_flight, recorder, not_before_ms)

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

    async def _resend_or_park(self, in_flight: InFlight, recorder: LeadRecorder) -> SendAgainAt:
        """Send a lead again whose grace ended without a callback, or park it, as policy says."""
        resolved = recorder.resolved
        if (
            resolved.destination.uncertain == "park"
            or recorder.row.sends > self._plan.replay.max_replays
        ):
            destination = resolved.destination
            text = "it may have reached Clay, and no callback came in time"
            if destination.kind == "routine":
                text = "it may have reached Clay, and no run of it was announced in time"
            why = Reason("uncertain", text, resolved.envelope.http_status or None)
            await self._conclusions.park(in_flight, recorder, why)
            return None
        spent = self._lanes.charge(resolved.destination.workspace, recorder.row.reservation)
        why = Reason(
            RESEND,
            "sent again by policy though it may have reached Clay: a possible double spend",
        )
        recorder.go("replayed", self._clock.now_ms(), why, spent, **recorder.freed(spent))
        # No await since `charge`: the lane that has booked the reservation and the row that no
        # longer has it are written together. The next attempt is decided by this row.
        await self._commits.submit(recorder.step(), in_flight)
        return 0

    # -------------------------------------------------------------- admit, POST, act on its outcome

    async def _deliver(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        not_before_ms: int,
    ) -> None:
        """Send the lead when its lane admits it, and again after each refusal, until it ends here.

        `not_before_ms`: the earliest time of its next attempt, epoch ms.
        """
        # Only a record that is processed again, after a recovery or by a new owner, has a row
        # `refused` here. Later records may start while it waits for its next attempt.
        if recorder.row.state == "refused":
            in_flight.release_next()
            await self._fallback.answer_refused(recorder)
        if await self._fallback.answer_cached_first(in_flight, recorder):
            return

        def step_ahead(grant: Grant, now_ms: int) -> CommitStep:
            """Return the step that makes the row `sending`."""
            step = recorder.write_ahead(grant, now_ms, self._rows.get)
            # Set before the commit: if the commit fails or this task is cancelled, a recovery may
            # find the row `sending`, and knows by this that its POST was never started.
            in_flight.post = AdmittedPost(recorder.row, grant)
            return step

        was_probe = False
        probes_until_ms = self._clock.now_ms() + _PROBES_FOR_MS
        while True:
            # Checked before each attempt: an operator may have suppressed the lead while it waited.
            if (why := self._rows.why_not_sent(recorder.resolved)) is not None:
                await self._conclusions.conclude(in_flight, recorder, "suppressed", why)
                return
            resolved = recorder.resolved
            request = AdmissionRequest(
                # Read before each attempt: a reload may have added webhooks while the lead waited.
                self._plan.destinations[resolved.destination.alias],
                not_before_ms,
                resolved.lead.not_after_ms,
                patient=was_probe or recorder.row.state.startswith("held_"),
                bulk=resolved.bulk,
                was_probe=was_probe and self._clock.now_ms() < probes_until_ms,
            )
            answer = await self._admission.admit(in_flight, request, step_ahead)
            if isinstance(answer, Grant):
                # From the write-ahead on, a suppression comes too late: the row says `sending`, and
                # the lane has given a slot and credits for this POST.
                post = await self._post(in_flight, recorder, answer)
                retry_ms = await self._act_on(in_flight, recorder, post, has_slot=True)
                if retry_ms is None:
                    return
                if self._is_felt(post.outcome, retry_ms):
                    await self._fallback.answer_refused(recorder)
                not_before_ms = retry_ms
                was_probe = answer.is_probe
            elif answer is not ASK_AGAIN and not await self._hold_or_defer(
                in_flight,
                recorder,
                answer,
            ):
                return

    async def _post(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        grant: Grant,
    ) -> AdmittedPost:
        """Send the lead to Clay, unless its grant is too old.

        This worker may have been frozen since the grant, and another worker may own the partition
        by now.
        """
        age_ms = self._clock.boot_ms() - grant.at_boot_ms
        if age_ms > self._plan.delivery.max_request_start_age_s * 1000:
            return AdmittedPost(recorder.row, grant)
        # Cleared before the POST and set right after it: if this task is cancelled in between,
        # nobody knows the outcome, and the lead whose row says `sending` becomes uncertain.
        in_flight.post = None
        resolved = recorder.resolved
        outcome = await self._clay.send(
            resolved.destination.alias,
            grant.webhook_id,
            resolved.body,
            recorder.row.trace_id,
        )
        post = AdmittedPost(recorder.row, grant, outcome)
        in_flight.post = post
        return post

    async def _act_on(
        self,
        in_flight: InFlight,
        recorder: LeadRecorder,
        post: AdmittedPost,
        *,
        has_slot: bool,
    ) -> SendAgainAt:
        """Apply the outcome of a POST to the lane and the lead, and commit both.

        `has_slot`: as in `AdmissionQueue.settle`.
        """
        grant = post.grant
        outcome = post.outcome
        # No await from here to the step that each case submits: the lane with this settlement and
        # the row are written together.
        settlement = self._admission.settle(grant, outcome, has_slot=has_slot)
        now_ms = self._clock.now_ms()
        due_ms = settlement.wait_until_ms
        counted: dict[str, object] = {}
        recorder.seen = None if outcome is None else outcome.seen  # only of a test lead
        match outcome:
            case Accepted():
                destination = grant.destination
                why = Reason(http_status=outcome.http_status)
                if destination.callbacks:
                    # With a deadline in its event, the lead waits in `DeadlineQueue`.
                    deadline_ms = int(destination.callback_deadline_s * 1000)
                    why = replace(why, due_at_ms=now_ms + deadline_ms)
                else:
                    recorder.estimated = BOTH_METERS
                await self._conclusions.conclude(
                    in_flight,
                    recorder,
                    "accepted",
                    why,
                    settlement.spent,
                    final=not destination.callbacks,
                    run=outcome.run,
                )
                return None
            case Uncertain():
                await self._conclusions.uncertain(in_flight, recorder, failure(outcome))
                return None
            case Poison():
                await self._conclusions.conclude(
                    in_flight,
                    recorder,
                    "rejected_invalid",
                    failure(outcome),
                    dead_letter="poison",
                )
                return None
            case Refused():
                # The lead is sent again until its attempts are used up. A failure of the whole lane
                # does not count as one of them.
                policy = self._plan.delivery
                attempts = settlement.attempts(recorder.row.attempt)
                counted = {
                    "attempt": attempts,
                    "failed_at_ms": recorder.row.failed_at_ms or now_ms,
                }
                if attempts >= policy.max_attempts:
                    self._lanes.count_dead_letter(grant, outcome.reason)
                    why = failure(outcome)
                    await self._conclusions.dead_letter(in_flight, recorder, why, **counted)
                    return None
                longest_s = min(policy.retry_cap_s, policy.retry_base_s * 2**attempts)
                due_ms = max(due_ms, now_ms + int(longest_s * self._clock.rand() * 1000))
                why = failure(outcome, due_ms)
            case RateLimited() | Denied() | WebhookOut():
                why = Reason(outcome.reason, settlement.text, outcome.http_status, due_ms)
            case None:
                text = "not sent: its turn was too long ago"
                why = Reason("started_too_late", text, due_at_ms=due_ms)
        # Committed before any wait for the next attempt: after a crash the row proves that Clay did
        # not take the lead.
        recorder.go("refused", now_ms, why, **recorder.freed(), **counted)
        await self._commits.submit(recorder.step())
        return due_ms

    def _is_felt(self, outcome: Outcome | None, retry_ms: int) -> bool:
        """Return True if a refusal is to be answered with a provisional result meanwhile.

        After a 429, a lead that waits no longer than `patience_s` needs none.
        """
        if isinstance(outcome, RateLimited):
            patience_ms = self._plan.delivery.patience_s * 1000
            return retry_ms - self._clock.now_ms() > patience_ms
        return isinstance(outcome, Refused)

    async def _hold_or_defer(self, in_flight: InFlight, recorder: LeadRecorder, held: Held) -> bool:
        """Record that the lane did not admit the lead.

        Returns:
            True if the lead asks for admission again. False if its record is concluded, because the
            lead was served or deferred, or has expired.
        """
        now_ms = self._clock.now_ms()
        if held.status == "expired":
            why = Reason(held.reason, held.text)
            await self._conclusions.conclude(in_flight, recorder, "expired", why)
            return False
        if not held.defer:
            why = Reason(held.reason, held.text, due_at_ms=held.may_end_ms or None)
            recorder.go(held.status or "held_paused", now_ms, why)
            await self._commits.submit(recorder.step(), in_flight)
            return True
        in_flight.release_next()
        provisional: list[Record] | None = []
        if held.reason != LANE_BUSY:
            provisional = await self._fallback.answer_while_held(in_flight, recorder)
        if provisional is None:
            return False
        # Second look: an operator may have suppressed the lead while the cache was asked. Then
        # `_deliver` concludes it.
        if self._rows.why_not_sent(recorder.resolved) is not None:
            return True
        now_ms = self._clock.now_ms()
        patience_ms = int(self._plan.delivery.patience_s * 1000)
        due_ms = max(held.back_ms or held.until_ms, now_ms + patience_ms)
        why = Reason(held.reason, held.text, due_at_ms=due_ms)
        recorder.go("deferred", now_ms, why)
        copy = recorder.copy(self._plan.topics.deferred, now_ms, why, way="deferred")
        await self._commits.commit_last(in_flight, recorder.step(copy, *provisional))
        return False

    # ------------------------------------------------------------------ records that cannot be sent

    async def _process_unsendable(
        self,
        in_flight: InFlight,
        envelope: Envelope,
        lead: Lead | Unreadable,
        bad: Unreadable,
    ) -> None:
        """Reject a record that cannot be sent.

        If it belongs to a lead that has a row and would be sent now, park that lead.
        """
        lead_ref = find_lead_ref(
            self._plan,
            in_flight.consumed,
            envelope,
            lead,
            self._rows.delivery,
        )
        if lead_ref is None:
            await self._reject(in_flight, envelope, lead, bad)
            return
        key = lead_ref.key
        # `lead_ref` names the row. The row is read under the lock only: the lead's own record may
        # be under way and change it.
        async with self._locks.lock(in_flight, lambda: (key,)):
            if await self._commits.end_if_concluded(in_flight, lead_ref.envelope.origin):
                return
            now_ms = self._clock.now_ms()
            row = self._rows.delivery(key)
            verdict = classify_record(row, lead_ref.envelope, now_ms, self._rows.freshness_ms)
            if verdict == "done":
                await self._commits.commit_unchanged(in_flight, key)
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

    async def _reject(
        self,
        in_flight: InFlight,
        envelope: Envelope,
        lead: Lead | Unreadable,
        bad: Unreadable,
    ) -> None:
        """Conclude a record that is no valid lead with a dead letter.

        The dead letter counts in the flood guard of its lane, and waits while that guard suspends
        the lane.

        Args:
            in_flight: The record.
            envelope: Its headers.
            lead: What could be read of it.
            bad: Why it is no valid lead.
        """
        consumed = in_flight.consumed
        name = lead.workspace or (consumed.key or b"").decode("utf-8", "replace")

        def step(now_ms: int) -> CommitStep:
            return rejection(self._plan, consumed, envelope, lead, bad, now_ms, self._rows.get)

        def step_ahead(grant: Grant, now_ms: int) -> CommitStep:
            last = step(now_ms)
            # A step without an event repeats the marker of a record that was counted before.
            if last.events:
                self._lanes.count_dead_letter(grant, bad.reason)
                last = replace(last, workspace=name)
            return last

        # This partition has no lane in which the dead letter could count.
        if name not in self._plan.residents(consumed.partition):
            in_flight.release_next()
            await self._commits.commit_last(in_flight, step(self._clock.now_ms()))
            return
        request = AdmissionRequest(Destination("", name, ()), patient=True, as_dead_letter=True)
        while await self._admission.admit(in_flight, request, step_ahead) is ASK_AGAIN:
            pass
