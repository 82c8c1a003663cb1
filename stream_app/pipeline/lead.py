"""The line: what happens to one lead, from its bytes to its conclusion, top to bottom.

    bytes -> decode -> identify -> home? -> seen? -> cached? -> suppressed? -> admit (or expired) + write ahead -> POST
          -> settle -> conclude

Stations decide as pure functions of core/; this file acts on what they say. Whatever it writes goes through
`Desk.commit` as one step: rows, events, dead letter and the lane's row are committed together or not at all. A POST
happens only after the `sending` row is committed, so a crash anywhere leaves either proof that nothing was sent or a
row that says it is uncertain. When `take` returns, the lead is concluded and may be acked.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from stream_app.domain.dead_letter.replay import replay_due_ms, tier_s
from stream_app.domain.delivery.dedup import seen
from stream_app.domain.delivery.envelope import Disposition, Envelope, lead_envelope
from stream_app.domain.delivery.outcome import Accepted, Denied, Gone, Poison, RateLimited, Refused, Uncertain
from stream_app.domain.delivery.recorder import NO_REASON, Posted, Step, Story, Why, failure
from stream_app.domain.delivery.state_machine import begin, judge
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import ASK_AGAIN, Ask, Entry, Held
from stream_app.domain.lane.settlement import Report
from stream_app.domain.lane.view import may_end_ms
from stream_app.domain.lead.lead import Unreadable, home_partition, read_lead
from stream_app.domain.lead.person import claimed, linked, person_of
from stream_app.domain.lead.resolve import Case, Subject, case_of, whose
from stream_app.domain.lead.suppression import is_unwanted, why_not
from stream_app.domain.messages import RESEND, Lead, Status
from stream_app.domain.policy import Plan
from stream_app.pipeline.fallback import NOTHING_KNOWN, Fallback, Known
from stream_app.pipeline.ports import Clay, Clock, Desk, Walk
from stream_app.pipeline.reject import Aside

_DIED: Final = Why("worker_died", "its worker ended between the write-ahead and the outcome")


class Line:
    """Takes the leads of one partition to Clay, one `take` a record, many at a time."""

    def __init__(self, plan: Plan, desk: Desk, clay: Clay, clock: Clock, known: Known = NOTHING_KNOWN) -> None:
        self._plan = plan
        self._desk = desk
        self._clay = clay
        self._clock = clock
        self._fallback = Fallback(plan, desk, clock, known)
        self._aside = Aside(plan, desk, clock)
        self._inputs = plan.topics.inputs
        self._freshness_ms = int(plan.line.freshness_days * 86_400_000)

    async def take(self, walk: Walk) -> None:
        """One record, from its bytes to its conclusion. Returns when everything about it is committed."""
        taken = walk.taken
        envelope = lead_envelope(taken, self._inputs)
        lead = read_lead(taken.value, taken.key, self._plan.line.max_lead_bytes)
        known = self._desk.find, self._desk.alias
        case = lead if isinstance(lead, Unreadable) else case_of(self._plan, taken, envelope, lead, *known)
        if isinstance(case, Unreadable):
            await self._unsendable(walk, envelope, lead, case)
            return
        home = home_partition(case.destination.workspace, self._plan.partitions, self._plan.pins)
        if home != taken.partition:
            await self._aside.reroute(walk, case, home)
            return
        async with self._desk.alone(walk, partial(self._keys, case)):
            await self._seen(walk, case)

    def _keys(self, case: Case) -> tuple[bytes, ...]:
        """What a lead is decided by: its row, and the aliases of all that its person is known by."""
        return (case.key, *person_of(case.aliases, self._desk.alias).aliases)

    async def _unsendable(self, walk: Walk, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable) -> None:
        """No lead, or none that can be sent as things are: rejected, unless it belongs to a story that goes on."""
        who = whose(self._plan, walk.taken, envelope, lead, self._desk.find)
        if who is None:
            await self._aside.reject(walk, envelope, lead, bad)
            return
        async with self._desk.alone(walk, lambda: (who.key,)):
            await self._stuck(walk, who, bad)

    # ---------------------------------------------------------------------------------------------------- seen?

    async def _seen(self, walk: Walk, case: Case) -> None:
        if await self._aside.is_concluded(walk, case.envelope):
            return
        now_ms = self._clock.now_ms()
        person = person_of(case.aliases, self._desk.alias)
        row, verdict, why = seen(case, person.rows, self._desk.find, now_ms, self._freshness_ms)
        case = case.of(person)
        if verdict == "done":
            walk.let_next()
            await self._desk.confirm(walk, case.key)
            return
        if verdict == "duplicate":
            links = linked(person, self._desk.alias)
            if why.reason != "same_person" or not await self._fallback.again(walk, case, row, links):
                await self._aside.tell(walk, case, "duplicate", why, rows=links)
            return
        if row is None or verdict == "fresh":
            aliases = [] if case.lead.force else claimed(person, case.aliases, case.key)
            story = Story(self._plan, case, case.begin(now_ms), replaced=row, aliases=aliases)
            if verdict == "fresh":
                story.tell()
        else:
            story = Story(self._plan, case, row)
        due_ms = 0
        if verdict == "uncertain":
            posted = walk.posted
            if posted is None or posted.row != row:
                await self._uncertain(walk, story, _DIED)
                return
            # It was this process, which knows the outcome: only the step that told of it was lost.
            next_ms = await self._settle(walk, story, posted, has_slot=False)
            if next_ms is None:
                return
            due_ms = next_ms
        if verdict == "decide" and not await self._decide(walk, story):
            return
        if verdict == "return":
            spent = self._charge(story)
            story.come_back(case.envelope, now_ms, spent)
            if spent is not None:  # its row has to say so before the lane is committed with another lead's step
                await self._desk.commit(story.step())
        if (enough := story.too_often(self._plan.replay)) is not None:
            await self._park(walk, story, enough)
            return
        await self._deliver(walk, case, story, due_ms)

    async def _stuck(self, walk: Walk, who: Subject, bad: Unreadable) -> None:
        """Its story is at the point where it would be sent, and it cannot be: a human has to look."""
        if await self._aside.is_concluded(walk, who.envelope):
            return
        now_ms, row = self._clock.now_ms(), self._desk.find(who.key)
        verdict = judge(row, who.envelope, now_ms, self._freshness_ms)
        if verdict == "done":
            await self._desk.confirm(walk, who.key)
            return
        row = row or begin(who.envelope, now_ms)
        if self._desk.suppressing and is_unwanted(who, row.first_at_ms, self._desk.suppression, self._desk.alias):
            who = msgspec.structs.replace(who, taken=msgspec.structs.replace(who.taken, value=None))
        story = Story(self._plan, who, row)
        if verdict == "uncertain":
            await self._uncertain(walk, story, _DIED)
            return
        if verdict == "fresh":
            story.tell()
        elif verdict == "return":
            story.come_back(who.envelope, now_ms)
        await self._park(walk, story, Why(bad.reason, bad.text))

    # -------------------------------------------------------------------------- admit, write ahead, POST, settle

    async def _deliver(self, walk: Walk, case: Case, story: Story, not_before_ms: int) -> None:
        if await self._fallback.first(walk, case, story):
            return
        while True:
            # Whenever it asks for its turn: an operator may say so while it waits.
            if self._desk.suppressing and (why := why_not(case, self._desk.suppression)) is not None:
                await self._conclude(walk, story, "suppressed", why)
                return
            patient = story.row.state.startswith("held_")
            destination = self._plan.destinations[case.destination.alias]  # as it is now: webhooks are added live
            ask = Ask(destination, not_before_ms, case.lead.not_after_ms, patient, case.bulk)
            entry = await self._desk.admit(walk, ask, lambda entry: self._write_ahead(walk, story, entry))
            if isinstance(entry, Held):
                if entry is not ASK_AGAIN and not await self._hold(walk, case, story, entry):
                    return
                continue
            next_ms = await self._settle(walk, story, await self._post(walk, case), has_slot=True)
            if next_ms is None:
                return
            not_before_ms = next_ms

    def _write_ahead(self, walk: Walk, story: Story, entry: Entry) -> Step:
        held = {"reservation": entry.reservation, "webhook_id": entry.webhook_id}
        story.go("sending", self._clock.now_ms(), **held, probe=entry.probe.since_ms if entry.probe else 0)
        walk.posted = Posted(story.row, entry)
        return story.step()

    async def _post(self, walk: Walk, case: Case) -> Posted:
        """Not started when it is too late: this worker may have been frozen, and its successor may be at work."""
        posted = walk.posted
        assert posted is not None  # _write_ahead has just put it there
        entry = posted.entry
        if self._clock.boot_ms() - entry.at_boot_ms > self._plan.line.start_within_s * 1000:
            return posted
        walk.posted = None
        outcome = await self._clay.send(case.destination.alias, entry.webhook_id, case.body)
        walk.posted = posted = Posted(posted.row, entry, outcome)
        return posted

    async def _settle(self, walk: Walk, story: Story, posted: Posted, *, has_slot: bool) -> int | None:
        """Commit what the POST came to. Returns the earliest time of another try, or None when that was the end."""
        entry, outcome = posted.entry, posted.outcome
        report = self._desk.settle(entry, outcome, has_slot=has_slot)
        match outcome:
            case Accepted():
                why = Why(http_status=outcome.http_status)
                final = not entry.destination.callbacks
                await self._conclude(walk, story, "accepted", why, report.spent, final=final)
                return None
            case Uncertain():
                await self._uncertain(walk, story, failure(outcome))
                return None
            case Poison():
                await self._conclude(walk, story, "rejected_invalid", failure(outcome), letter="poison")
                return None
            case Refused():
                return await self._refused(walk, story, entry, outcome, report)
            case RateLimited() | Denied() | Gone():
                why = Why(outcome.reason, report.text, outcome.http_status, report.wait_until_ms)
            case None:
                why = Why("started_too_late", "not sent: its turn was too long ago", due_at_ms=report.wait_until_ms)
        return await self._refuse(story, why, report.wait_until_ms)

    async def _refused(self, walk: Walk, story: Story, entry: Entry, outcome: Refused, report: Report) -> int | None:
        """Clay provably did not take it: another try, or a dead letter. A failure of the whole lane is no attempt."""
        now_ms, policy = self._clock.now_ms(), self._plan.line
        attempt = report.attempts(story.row.attempt)
        first_ms = story.row.failed_at_ms or now_ms
        if attempt >= policy.max_attempts:
            self._desk.letter(entry, outcome.reason)
            await self._fail(walk, story, failure(outcome), attempt=attempt, failed_at_ms=first_ms)
            return None
        delay_s = min(policy.retry_cap_s, policy.retry_base_s * 2**attempt) * self._clock.rand()
        due_ms = max(report.wait_until_ms, now_ms + int(delay_s * 1000))
        return await self._refuse(story, failure(outcome, due_ms), due_ms, attempt=attempt, failed_at_ms=first_ms)

    async def _refuse(self, story: Story, why: Why, due_ms: int, **changes: object) -> int:
        """Written before any wait: a crash from here on finds proof that nothing is at Clay."""
        story.go("refused", self._clock.now_ms(), why, **story.freed(), **changes)
        await self._desk.commit(story.step())
        return due_ms

    # ------------------------------------------------------------------------------------------------- conclude

    async def _hold(self, walk: Walk, case: Case, story: Story, held: Held) -> bool:
        """The lane did not take it. True: it waits here (told once). False: answered, deferred, or it is too old."""
        now_ms = self._clock.now_ms()
        if held.status == "expired":
            await self._conclude(walk, story, "expired", Why(held.reason, held.text))
            return False
        if not held.defer:
            story.go(
                held.status or "held_paused", now_ms, Why(held.reason, held.text, due_at_ms=may_end_ms(held) or None)
            )
            await self._desk.commit(story.step())
            return True
        walk.let_next()
        meanwhile = await self._fallback.meanwhile(walk, case, story)
        if meanwhile is None:
            return False
        now_ms = self._clock.now_ms()
        due_ms = max(held.back_ms or held.until_ms, now_ms + int(self._plan.line.patience_s * 1000))
        why = Why(held.reason, held.text, due_at_ms=due_ms)
        story.go("deferred", now_ms, why)
        copy = story.copy(self._plan.topics.deferred, now_ms, why, way="deferred")
        await self._desk.conclude(walk, story.step(copy, *meanwhile))
        return False

    async def _uncertain(self, walk: Walk, story: Story, why: Why) -> None:
        """It may be at Clay. Its bytes wait for the callback's grace; without callbacks nothing could ever show it."""
        now_ms, replay = self._clock.now_ms(), self._plan.replay
        destination = story.case.destination
        grace_ms = int(destination.uncertain_grace_s * 1000)
        why = msgspec.structs.replace(why, due_at_ms=now_ms + grace_ms)
        first_ms = story.row.failed_at_ms or now_ms
        story.go("send_uncertain", now_ms, why, failed_at_ms=first_ms, sends=story.row.sends + 1)
        if destination.uncertain == "park" and not destination.callbacks:
            told = f"it may have reached Clay ({why.reason}); no callback can tell"
            await self._park(walk, story, msgspec.structs.replace(why, reason="uncertain", text=told, due_at_ms=None))
            return
        topic = self._plan.topics.wait(tier_s(replay, grace_ms) or replay.tiers_s[0])
        await self._desk.conclude(walk, story.step(story.copy(topic, now_ms, why, way="uncertain")))

    async def _decide(self, walk: Walk, story: Story) -> bool:
        """The grace of an uncertain send is over and no callback came. True: policy says that it is sent again."""
        if story.case.destination.uncertain == "park" or story.row.sends > self._plan.replay.max_replays:
            told = "it may have reached Clay, and no callback told so in time"
            await self._park(walk, story, Why("uncertain", told, story.case.envelope.http_status or None))
            return False
        spent = self._charge(story)
        why = Why(RESEND, "sent again by policy though it may have reached Clay: a possible double spend")
        story.go("replayed", self._clock.now_ms(), why, spent, **story.freed(spent))
        await self._desk.commit(story.step())
        return True

    async def _fail(self, walk: Walk, story: Story, why: Why, **changes: object) -> None:
        """A dead letter that is replayed, or parked at once when its replays are used up."""
        now_ms, replay = self._clock.now_ms(), self._plan.replay
        row, topics = story.row, self._plan.topics
        if row.replay >= replay.max_replays:
            story.go("parked", now_ms, why, **story.freed(), **changes)
            letter = story.copy(topics.parked, now_ms, why, disposition="failed")
        else:
            due_ms = replay_due_ms(replay, why.reason, row.replay + 1, now_ms, self._clock.rand())
            why = msgspec.structs.replace(why, due_at_ms=due_ms)
            story.go("dead_lettered", now_ms, why, **story.freed(), **changes)
            letter = story.copy(topics.dlq, now_ms, why, disposition="failed")
        await self._desk.conclude(walk, story.step(letter))

    async def _park(self, walk: Walk, story: Story, why: Why) -> None:
        """It waits for a human. What it may have cost is booked as spent."""
        walk.let_next()
        now_ms = self._clock.now_ms()
        spent = self._charge(story)
        story.go("parked", now_ms, why, spent, **(story.freed(spent) if spent else {}))
        letter = story.copy(self._plan.topics.parked, now_ms, why, disposition="failed")
        await self._desk.conclude(walk, story.step(letter))

    def _charge(self, story: Story) -> Reservation | None:
        """Book what is still reserved for it: nothing says that it cost less. None: nothing is, or its lane is gone."""
        held, workspace = story.row.reservation, story.case.destination.workspace
        if held is None or workspace not in self._plan.workspaces:
            return None
        self._desk.charge(workspace, held)
        return held

    async def _conclude(
        self,
        walk: Walk,
        story: Story,
        state: Status,
        why: Why = NO_REASON,
        spent: Reservation | None = None,
        *,
        final: bool = True,
        letter: Disposition = "",
    ) -> None:
        """The last step here: final, or (accepted, with callbacks) open until Clay calls back."""
        walk.let_next()
        now_ms = self._clock.now_ms()
        story.go(state, now_ms, why, spent, final=final, **(story.freed(spent) if final else {}))
        letters = [story.copy(self._plan.topics.dlq, now_ms, why, disposition=letter)] if letter else []
        await self._desk.conclude(walk, story.step(*letters))
