"""The line: what happens to one lead, from its bytes to its conclusion, top to bottom.

    bytes -> decode -> identify -> home? -> seen? -> cached? -> suppressed? -> admit (or expired) + write ahead -> POST
          -> settle -> conclude

Stations decide as pure functions of core/; this file acts on what they say. Whatever it writes goes through
`PartitionState.commit` as one step: rows, events, dead letter and the lane's row are committed together or not at all.
A POST happens only after the `sending` row is committed, so a crash anywhere leaves either proof that nothing was sent
or a row that says it is uncertain. When `take` returns, the lead is concluded and may be acked.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from stream_app.domain.dead_letter.replay import replay_due_ms, tier_s
from stream_app.domain.delivery.dedup import seen
from stream_app.domain.delivery.envelope import Disposition, Envelope, lead_envelope
from stream_app.domain.delivery.outcome import Accepted, Denied, Gone, Poison, RateLimited, Refused, Uncertain
from stream_app.domain.delivery.recorder import NO_REASON, DeliveryRecorder, Posted, Reason, WriteBatch, failure
from stream_app.domain.delivery.state_machine import begin, judge
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import ASK_AGAIN, AdmissionRequest, Grant, Held
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.lane.view import may_end_ms
from stream_app.domain.lead.lead import Unreadable, home_partition, read_lead
from stream_app.domain.lead.person import claimed, linked, person_of
from stream_app.domain.lead.resolve import LeadRef, ResolvedLead, case_of, whose
from stream_app.domain.lead.suppression import is_unwanted, why_not
from stream_app.domain.messages import RESEND, Lead, Status
from stream_app.domain.policy import Plan
from stream_app.pipeline.fallback import NOTHING_KNOWN, Fallback, Known
from stream_app.pipeline.ports import Clay, Clock, InFlight, PartitionState
from stream_app.pipeline.reject import Rejects

_DIED: Final = Reason("worker_died", "its worker ended between the write-ahead and the outcome")


class LeadPipeline:
    """Takes the leads of one partition to Clay, one `take` a record, many at a time."""

    def __init__(
        self, plan: Plan, partition: PartitionState, clay: Clay, clock: Clock, known: Known = NOTHING_KNOWN
    ) -> None:
        self._plan = plan
        self._partition = partition
        self._clay = clay
        self._clock = clock
        self._fallback = Fallback(plan, partition, clock, known)
        self._rejects = Rejects(plan, partition, clock)
        self._inputs = plan.topics.inputs
        self._freshness_ms = int(plan.line.freshness_days * 86_400_000)

    async def process(self, in_flight: InFlight) -> None:
        """One record, from its bytes to its conclusion. Returns when everything about it is committed."""
        consumed = in_flight.consumed
        envelope = lead_envelope(consumed, self._inputs)
        lead = read_lead(consumed.value, consumed.key, self._plan.line.max_lead_bytes)
        known = self._partition.find, self._partition.row
        resolved = lead if isinstance(lead, Unreadable) else case_of(self._plan, consumed, envelope, lead, *known)
        if isinstance(resolved, Unreadable):
            await self._unsendable(in_flight, envelope, lead, resolved)
            return
        home = home_partition(resolved.destination.workspace, self._plan.partitions, self._plan.pins)
        if home != consumed.partition:
            await self._rejects.reroute(in_flight, resolved, home)
            return
        async with self._partition.lock(in_flight, partial(self._keys, resolved)):
            await self._seen(in_flight, resolved)

    def _keys(self, resolved: ResolvedLead) -> tuple[bytes, ...]:
        """What a lead is decided by: its row, and the aliases of all that its person is known by."""
        return (resolved.key, *person_of(resolved.aliases, self._partition.row).aliases)

    async def _unsendable(
        self, in_flight: InFlight, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable
    ) -> None:
        """No lead, or none that can be sent as things are: rejected, unless it belongs to a story that goes on."""
        who = whose(self._plan, in_flight.consumed, envelope, lead, self._partition.find)
        if who is None:
            await self._rejects.reject(in_flight, envelope, lead, bad)
            return
        async with self._partition.lock(in_flight, lambda: (who.key,)):
            await self._stuck(in_flight, who, bad)

    # ---------------------------------------------------------------------------------------------------- seen?

    async def _seen(self, in_flight: InFlight, resolved: ResolvedLead) -> None:
        if await self._rejects.is_concluded(in_flight, resolved.envelope):
            return
        now_ms = self._clock.now_ms()
        person = person_of(resolved.aliases, self._partition.row)
        row, verdict, why = seen(resolved, person.rows, self._partition.find, now_ms, self._freshness_ms)
        resolved = resolved.of(person)
        if verdict == "done":
            in_flight.release_next()
            await self._partition.conclude_unchanged(in_flight, resolved.key)
            return
        if verdict == "duplicate":
            links = linked(person, self._partition.row)
            if why.reason != "same_person" or not await self._fallback.serve_same_person(
                in_flight, resolved, row, links
            ):
                await self._rejects.conclude_with_event(in_flight, resolved, "duplicate", why, rows=links)
            return
        if row is None or verdict == "fresh":
            aliases = [] if resolved.lead.force else claimed(person, resolved.aliases, resolved.key)
            recorder = DeliveryRecorder(self._plan, resolved, resolved.begin(now_ms), replaced=row, aliases=aliases)
            if verdict == "fresh":
                recorder.tell()
        else:
            recorder = DeliveryRecorder(self._plan, resolved, row)
        due_ms = 0
        if verdict == "uncertain":
            posted = in_flight.posted
            if posted is None or posted.row != row:
                await self._uncertain(in_flight, recorder, _DIED)
                return
            # It was this process, which knows the outcome: only the step that told of it was lost.
            next_ms = await self._settle(in_flight, recorder, posted, has_slot=False)
            if next_ms is None:
                return
            due_ms = next_ms
        if verdict == "decide" and not await self._decide(in_flight, recorder):
            return
        if verdict == "return":
            spent = self._charge(recorder)
            recorder.come_back(resolved.envelope, now_ms, spent)
            if spent is not None:  # its row has to say so before the lane is committed with another lead's step
                await self._partition.commit(recorder.step())
        if (enough := recorder.too_often(self._plan.replay)) is not None:
            await self._park(in_flight, recorder, enough)
            return
        await self._deliver(in_flight, resolved, recorder, due_ms)

    async def _stuck(self, in_flight: InFlight, who: LeadRef, bad: Unreadable) -> None:
        """Its story is at the point where it would be sent, and it cannot be: a human has to look."""
        if await self._rejects.is_concluded(in_flight, who.envelope):
            return
        now_ms, row = self._clock.now_ms(), self._partition.find(who.key)
        verdict = judge(row, who.envelope, now_ms, self._freshness_ms)
        if verdict == "done":
            await self._partition.conclude_unchanged(in_flight, who.key)
            return
        row = row or begin(who.envelope, now_ms)
        if self._partition.has_suppressions and is_unwanted(
            who, row.first_at_ms, self._partition.suppression, self._partition.row
        ):
            who = msgspec.structs.replace(who, consumed=msgspec.structs.replace(who.consumed, value=None))
        recorder = DeliveryRecorder(self._plan, who, row)
        if verdict == "uncertain":
            await self._uncertain(in_flight, recorder, _DIED)
            return
        if verdict == "fresh":
            recorder.tell()
        elif verdict == "return":
            recorder.come_back(who.envelope, now_ms)
        await self._park(in_flight, recorder, Reason(bad.reason, bad.text))

    # -------------------------------------------------------------------------- admit, write ahead, POST, settle

    async def _deliver(
        self, in_flight: InFlight, resolved: ResolvedLead, recorder: DeliveryRecorder, not_before_ms: int
    ) -> None:
        if await self._fallback.serve_cached_first(in_flight, resolved, recorder):
            return
        while True:
            # Whenever it asks for its turn: an operator may say so while it waits.
            if self._partition.has_suppressions and (why := why_not(resolved, self._partition.suppression)) is not None:
                await self._conclude(in_flight, recorder, "suppressed", why)
                return
            patient = recorder.row.state.startswith("held_")
            destination = self._plan.destinations[resolved.destination.alias]  # as it is now: webhooks are added live
            ask = AdmissionRequest(destination, not_before_ms, resolved.lead.not_after_ms, patient, resolved.bulk)
            entry = await self._partition.admit(
                in_flight, ask, lambda entry: self._write_ahead(in_flight, recorder, entry)
            )
            if isinstance(entry, Held):
                if entry is not ASK_AGAIN and not await self._hold(in_flight, resolved, recorder, entry):
                    return
                continue
            next_ms = await self._settle(in_flight, recorder, await self._post(in_flight, resolved), has_slot=True)
            if next_ms is None:
                return
            not_before_ms = next_ms

    def _write_ahead(self, in_flight: InFlight, recorder: DeliveryRecorder, entry: Grant) -> WriteBatch:
        held = {"reservation": entry.reservation, "webhook_id": entry.webhook_id}
        recorder.go("sending", self._clock.now_ms(), **held, probe=entry.probe.since_ms if entry.probe else 0)
        in_flight.posted = Posted(recorder.row, entry)
        return recorder.step()

    async def _post(self, in_flight: InFlight, resolved: ResolvedLead) -> Posted:
        """Not started when it is too late: this worker may have been frozen, and its successor may be at work."""
        posted = in_flight.posted
        assert posted is not None  # _write_ahead has just put it there
        entry = posted.entry
        if self._clock.boot_ms() - entry.at_boot_ms > self._plan.line.start_within_s * 1000:
            return posted
        in_flight.posted = None
        outcome = await self._clay.send(resolved.destination.alias, entry.webhook_id, resolved.body)
        in_flight.posted = posted = Posted(posted.row, entry, outcome)
        return posted

    async def _settle(
        self, in_flight: InFlight, recorder: DeliveryRecorder, posted: Posted, *, has_slot: bool
    ) -> int | None:
        """Commit what the POST came to. Returns the earliest time of another try, or None when that was the end."""
        entry, outcome = posted.entry, posted.outcome
        report = self._partition.settle(entry, outcome, has_slot=has_slot)
        match outcome:
            case Accepted():
                why = Reason(http_status=outcome.http_status)
                final = not entry.destination.callbacks
                await self._conclude(in_flight, recorder, "accepted", why, report.spent, final=final)
                return None
            case Uncertain():
                await self._uncertain(in_flight, recorder, failure(outcome))
                return None
            case Poison():
                await self._conclude(in_flight, recorder, "rejected_invalid", failure(outcome), letter="poison")
                return None
            case Refused():
                return await self._refused(in_flight, recorder, entry, outcome, report)
            case RateLimited() | Denied() | Gone():
                why = Reason(outcome.reason, report.text, outcome.http_status, report.wait_until_ms)
            case None:
                why = Reason("started_too_late", "not sent: its turn was too long ago", due_at_ms=report.wait_until_ms)
        return await self._refuse(recorder, why, report.wait_until_ms)

    async def _refused(
        self, in_flight: InFlight, recorder: DeliveryRecorder, entry: Grant, outcome: Refused, report: Settlement
    ) -> int | None:
        """Clay provably did not take it: another try, or a dead letter. A failure of the whole lane is no attempt."""
        now_ms, policy = self._clock.now_ms(), self._plan.line
        attempt = report.attempts(recorder.row.attempt)
        first_ms = recorder.row.failed_at_ms or now_ms
        if attempt >= policy.max_attempts:
            self._partition.record_dead_letter(entry, outcome.reason)
            await self._fail(in_flight, recorder, failure(outcome), attempt=attempt, failed_at_ms=first_ms)
            return None
        delay_s = min(policy.retry_cap_s, policy.retry_base_s * 2**attempt) * self._clock.rand()
        due_ms = max(report.wait_until_ms, now_ms + int(delay_s * 1000))
        return await self._refuse(recorder, failure(outcome, due_ms), due_ms, attempt=attempt, failed_at_ms=first_ms)

    async def _refuse(self, recorder: DeliveryRecorder, why: Reason, due_ms: int, **changes: object) -> int:
        """Written before any wait: a crash from here on finds proof that nothing is at Clay."""
        recorder.go("refused", self._clock.now_ms(), why, **recorder.freed(), **changes)
        await self._partition.commit(recorder.step())
        return due_ms

    # ------------------------------------------------------------------------------------------------- conclude

    async def _hold(self, in_flight: InFlight, resolved: ResolvedLead, recorder: DeliveryRecorder, held: Held) -> bool:
        """The lane did not take it. True: it waits here (told once). False: answered, deferred, or it is too old."""
        now_ms = self._clock.now_ms()
        if held.status == "expired":
            await self._conclude(in_flight, recorder, "expired", Reason(held.reason, held.text))
            return False
        if not held.defer:
            recorder.go(
                held.status or "held_paused", now_ms, Reason(held.reason, held.text, due_at_ms=may_end_ms(held) or None)
            )
            await self._partition.commit(recorder.step())
            return True
        in_flight.release_next()
        meanwhile = await self._fallback.serve_while_held(in_flight, resolved, recorder)
        if meanwhile is None:
            return False
        now_ms = self._clock.now_ms()
        due_ms = max(held.back_ms or held.until_ms, now_ms + int(self._plan.line.patience_s * 1000))
        why = Reason(held.reason, held.text, due_at_ms=due_ms)
        recorder.go("deferred", now_ms, why)
        copy = recorder.copy(self._plan.topics.deferred, now_ms, why, way="deferred")
        await self._partition.conclude(in_flight, recorder.step(copy, *meanwhile))
        return False

    async def _uncertain(self, in_flight: InFlight, recorder: DeliveryRecorder, why: Reason) -> None:
        """It may be at Clay. Its bytes wait for the callback's grace; without callbacks nothing could ever show it."""
        now_ms, replay = self._clock.now_ms(), self._plan.replay
        destination = recorder.resolved.destination
        grace_ms = int(destination.uncertain_grace_s * 1000)
        why = msgspec.structs.replace(why, due_at_ms=now_ms + grace_ms)
        first_ms = recorder.row.failed_at_ms or now_ms
        recorder.go("send_uncertain", now_ms, why, failed_at_ms=first_ms, sends=recorder.row.sends + 1)
        if destination.uncertain == "park" and not destination.callbacks:
            told = f"it may have reached Clay ({why.reason}); no callback can tell"
            await self._park(
                in_flight, recorder, msgspec.structs.replace(why, reason="uncertain", text=told, due_at_ms=None)
            )
            return
        topic = self._plan.topics.wait(tier_s(replay, grace_ms) or replay.tiers_s[0])
        await self._partition.conclude(in_flight, recorder.step(recorder.copy(topic, now_ms, why, way="uncertain")))

    async def _decide(self, in_flight: InFlight, recorder: DeliveryRecorder) -> bool:
        """The grace of an uncertain send is over and no callback came. True: policy says that it is sent again."""
        if recorder.resolved.destination.uncertain == "park" or recorder.row.sends > self._plan.replay.max_replays:
            told = "it may have reached Clay, and no callback told so in time"
            await self._park(
                in_flight, recorder, Reason("uncertain", told, recorder.resolved.envelope.http_status or None)
            )
            return False
        spent = self._charge(recorder)
        why = Reason(RESEND, "sent again by policy though it may have reached Clay: a possible double spend")
        recorder.go("replayed", self._clock.now_ms(), why, spent, **recorder.freed(spent))
        await self._partition.commit(recorder.step())
        return True

    async def _fail(self, in_flight: InFlight, recorder: DeliveryRecorder, why: Reason, **changes: object) -> None:
        """A dead letter that is replayed, or parked at once when its replays are used up."""
        now_ms, replay = self._clock.now_ms(), self._plan.replay
        row, topics = recorder.row, self._plan.topics
        if row.replay >= replay.max_replays:
            recorder.go("parked", now_ms, why, **recorder.freed(), **changes)
            letter = recorder.copy(topics.parked, now_ms, why, disposition="failed")
        else:
            due_ms = replay_due_ms(replay, why.reason, row.replay + 1, now_ms, self._clock.rand())
            why = msgspec.structs.replace(why, due_at_ms=due_ms)
            recorder.go("dead_lettered", now_ms, why, **recorder.freed(), **changes)
            letter = recorder.copy(topics.dlq, now_ms, why, disposition="failed")
        await self._partition.conclude(in_flight, recorder.step(letter))

    async def _park(self, in_flight: InFlight, recorder: DeliveryRecorder, why: Reason) -> None:
        """It waits for a human. What it may have cost is booked as spent."""
        in_flight.release_next()
        now_ms = self._clock.now_ms()
        spent = self._charge(recorder)
        recorder.go("parked", now_ms, why, spent, **(recorder.freed(spent) if spent else {}))
        letter = recorder.copy(self._plan.topics.parked, now_ms, why, disposition="failed")
        await self._partition.conclude(in_flight, recorder.step(letter))

    def _charge(self, recorder: DeliveryRecorder) -> Reservation | None:
        """Book what is still reserved for it: nothing says that it cost less. None: nothing is, or its lane is gone."""
        held, workspace = recorder.row.reservation, recorder.resolved.destination.workspace
        if held is None or workspace not in self._plan.workspaces:
            return None
        self._partition.charge(workspace, held)
        return held

    async def _conclude(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder,
        state: Status,
        why: Reason = NO_REASON,
        spent: Reservation | None = None,
        *,
        final: bool = True,
        letter: Disposition = "",
    ) -> None:
        """The last step here: final, or (accepted, with callbacks) open until Clay calls back."""
        in_flight.release_next()
        now_ms = self._clock.now_ms()
        recorder.go(state, now_ms, why, spent, final=final, **(recorder.freed(spent) if final else {}))
        letters = [recorder.copy(self._plan.topics.dlq, now_ms, why, disposition=letter)] if letter else []
        await self._partition.conclude(in_flight, recorder.step(*letters))
