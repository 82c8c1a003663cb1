"""What happens to a lead that Clay accepted and does not call back about, top to bottom.

    accepted -> (its deadline) callback_overdue -> (its grace) parked

The lead is not sent again by itself, because that would pay twice. If no callbacks of a destination
come at all any more, its lane is suspended with the likely causes. The event of the suspension is
that of the lead whose deadline proved it.

No await lies between the look at a row in one of these states and the next step of that row, here,
in `callback.py` and in `results.py`. So the steps made here need no lock.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.callback.interpret import (
    OVERDUE,
    WAITING,
    overdue,
    suspend_silent,
    unanswered,
    why_missing,
)
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import CommitStep, DeliveryRecorder
from stream_app.domain.delivery.resolve import LeadRef
from stream_app.domain.delivery.state_machine import Reason, lead_of
from stream_app.domain.limits.callback_health import NO_CALLBACKS
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.messages import Status
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Plan
from stream_app.partition.commits import Commits
from stream_app.partition.deadlines import DeadlineQueue, LeadWithDeadline
from stream_app.partition.endings import Endings, empty_record
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer, StateStore

_BATCH: Final = 200  # Leads that are moved on together.
_MAX_SLEEP_S: Final = 60.0  # The wall clock may step while the loop's clock does not.
_LISTENED_EVERY_MS: Final = 60_000
_RETRY_AFTER_S: Final = 5.0


@define(eq=False, repr=False, kw_only=True)
class TimeoutPipeline:
    """Moves leads on when they are due, for as long as this process owns the partition.

    A lead that was settled meanwhile is skipped.
    """

    _number: int
    _plan: Plan
    _clock: Clock
    _observer: Observer
    _store: StateStore
    _lanes: Lanes
    _deadlines: DeadlineQueue
    _commits: Commits
    _endings: Endings
    _listened_ms: int = field(init=False, default=0)

    async def run(self) -> None:
        """Move leads on at their deadlines, until a commit fails."""
        deadlines = self._deadlines
        await deadlines.load()
        while True:
            now_ms = self._clock.now_ms()
            due = deadlines.pop_due(now_ms, _BATCH)
            if due:
                await self._move(due)
            else:
                self._record_listening(now_ms)
                await deadlines.wait(now_ms, _MAX_SLEEP_S)

    async def _move(self, keys: list[bytes]) -> None:
        """Move these leads on. Each step is committed with those of the others."""
        try:
            # The deadline of these has passed, and each of them is reported once.
            await asyncio.gather(*map(self._report, self._still_due(keys, WAITING)))
            # The grace of these has passed.
            origins = [lead.row.origin for lead in self._still_due(keys, OVERDUE)]
            records = await self._store.fetch(origins)
            # Second look: a callback may have settled some of them while their records were
            # fetched.
            overdue_leads = self._still_due(keys, OVERDUE)
            await asyncio.gather(
                *(self._park(lead, records.get(lead.row.origin)) for lead in overdue_leads),
            )
        except BrokerUnavailable as error:
            self._observer.recovering(self._number, error)
            await asyncio.sleep(_RETRY_AFTER_S)
        # Only leads whose records could not be read are still due. A lead that was reported above
        # is due again when its grace ends, in the other queue.
        self._deadlines.put_back(keys, self._clock.now_ms())

    def _record_listening(self, now_ms: int) -> None:
        """Write from time to time that a worker listens for callbacks.

        A successor does not count the time in which no worker did.
        """
        if now_ms - self._listened_ms >= _LISTENED_EVERY_MS:
            self._listened_ms = now_ms
            for name in self._deadlines.workspaces():
                self._commits.submit(CommitStep([], [], [], name))

    def _report(self, lead: LeadWithDeadline) -> asyncio.Future[None]:
        """Report the lead as overdue, and suspend its lane if no callbacks come at all any more."""
        key, row, destination, _ = lead
        now_ms = self._clock.now_ms()
        policy = self._lanes.policy(destination.workspace)
        subject = LeadRef(
            empty_record(row),
            Envelope(origin=row.origin),
            lead_of(key)[2],
            destination,
            key,
        )
        recorder = DeliveryRecorder(self._plan, subject, row)
        text = unanswered(row, destination, f"{destination.callback_deadline_s:g} s")
        grace_ends_ms = now_ms + int(destination.callback_grace_s * 1000)
        recorder.go(
            "callback_overdue",
            now_ms,
            Reason("no_callback", text, due_at_ms=grace_ends_ms),
        )
        lane, is_silent = overdue(
            policy,
            self._lanes[destination.workspace],
            destination.alias,
            row.at_ms,
        )
        if is_silent:
            why = why_missing(policy, lane, destination, now_ms)
            lane = suspend_silent(policy, lane, destination, why, now_ms)
            recorder.go("credits_exhausted_suspected", now_ms, Reason(NO_CALLBACKS, why))
        self._lanes[destination.workspace] = lane
        return self._commits.submit(recorder.step())

    def _park(
        self,
        lead: LeadWithDeadline,
        consumed: ConsumedRecord | None,
    ) -> asyncio.Future[None]:
        """Park the lead, and book what it may have cost as spent."""
        key, row, destination, _ = lead
        within = f"{destination.callback_grace_s:g} s after its deadline"
        why = Reason("no_callback", unanswered(row, destination, within))
        return self._commits.submit(self._endings.park(key, row, destination, consumed, why))

    def _still_due(
        self,
        keys: Sequence[bytes],
        states: Collection[Status],
    ) -> list[LeadWithDeadline]:
        """The leads among these that are in one of the states and due now."""
        now_ms = self._clock.now_ms()
        leads = filter(None, map(self._deadlines.find, keys))
        return [lead for lead in leads if lead.row.state in states and lead.due_ms <= now_ms]
