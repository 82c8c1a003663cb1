"""What the line writes about a lead: its row as it moves, the events of its steps, and the copies of its bytes."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.dead_letter.headers import pseudonymous_key
from stream_app.domain.dead_letter.replay import ReplayPolicy
from stream_app.domain.delivery.envelope import Disposition, Envelope, Way
from stream_app.domain.delivery.outcome import Outcome, Poison, Refused, Uncertain
from stream_app.domain.delivery.state_machine import Delivery, mark_key, step
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import Grant
from stream_app.domain.lead.lead import Unreadable
from stream_app.domain.lead.resolve import LeadRef, trace_of
from stream_app.domain.messages import Status, StatusEvent
from stream_app.domain.policy import Destination, Plan
from stream_app.domain.record import ConsumedRecord, Record

_json: Final = msgspec.json.Encoder()
Rows = list[tuple[bytes, bytes | None]]


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reason of a step: a stable code, words for people (scrubbed), Clay's status, when it goes on by itself.

    saved   credits that it would have cost at its estimate, where it was answered without Clay.
    excerpt  the beginning of what Clay answered, scrubbed.
    """

    reason: str = ""
    text: str = ""
    http_status: int | None = None
    due_at_ms: int | None = None
    saved: int | None = None
    excerpt: str = ""


NO_REASON: Final = Reason()


def failure(outcome: Refused | Uncertain | Poison, due_at_ms: int | None = None) -> Reason:
    """What did not go well with a POST, as the reason of a step."""
    return Reason(outcome.reason, outcome.text, outcome.http_status, due_at_ms, excerpt=outcome.excerpt)


class WriteBatch(msgspec.Struct, frozen=True):
    """What is committed at once: rows (key -> value, None deletes), records, and the events among them, for metrics.

    workspace   whose lane changed with it, '' if none.
    """

    rows: Rows
    records: list[Record]
    events: list[StatusEvent]
    workspace: str = ""


class Posted(msgspec.Struct, frozen=True, gc=False):
    """What a POST came to; `outcome` None: it has not been started. `row` was written ahead for it.

    While the lead's row is still this very one, nobody has told of it, and nobody has sent the lead since.
    """

    row: Delivery
    entry: Grant
    outcome: Outcome | None = None


class DeliveryRecorder:
    """One lead's row, moved step by step; events of steps not yet committed are kept for the next `step`.

    replaced  the ended row of an earlier story whose place this one takes: a mark keeps a redelivery from telling that
              one again.
    aliases   alias rows to write with the first step.
    """

    def __init__(
        self,
        plan: Plan,
        resolved: LeadRef,
        row: Delivery,
        replaced: Delivery | None = None,
        aliases: Rows | None = None,
    ) -> None:
        self.resolved = resolved
        self.row = row
        self._plan = plan
        self._events: list[StatusEvent] = []
        self._once: Rows = list(aliases or [])
        if replaced is not None:
            self._once.append((mark_key(replaced.origin), b"1"))
            self.row = msgspec.structs.replace(row, results=replaced.results)

    def go(
        self,
        state: Status,
        now_ms: int,
        why: Reason = NO_REASON,
        spent: Reservation | None = None,
        /,
        **changes: object,
    ) -> None:
        """One legal step on, with its event. `spent`: what was booked with it."""
        self.row = step(self.row, state, now_ms, **changes)
        self.tell(why, spent)

    def come_back(self, back: Envelope, now_ms: int, spent: Reservation | None = None) -> None:
        """It goes on behind a delay or an operator's word, with the counts of the copy that came back.

        spent  what was booked of an earlier send, where that was still reserved.
        """
        returns = {"replayed": self.row.returns + 1, "redriven": 1}.get(back.way, self.row.returns)
        counts = {"replay": back.replay, "epoch": back.epoch, "attempt": back.attempt, "returns": returns}
        self.go("replayed", now_ms, Reason(back.way), spent, **counts, **(self.freed(spent) if spent else {}))

    def freed(self, spent: Reservation | None = None) -> dict[str, Reservation | None]:
        """Changes to a row for which nothing is reserved any more; `spent`: what was booked instead, if anything."""
        held = self.row.reservation
        nothing = msgspec.structs.replace(held, credits=0, actions=0) if held else None
        return {"reservation": None, "booked": spent or self.row.booked or nothing}

    def too_often(self, policy: ReplayPolicy) -> Reason | None:
        """Why it is parked rather than sent once more, None while it may come back."""
        row = self.row
        if row.replay > policy.max_replays:
            return Reason("replay_cap", "it comes back more often than max_replays allows")
        if row.returns > policy.max_returns:
            text = f"it has come back {row.returns} times in {row.epoch} rewinds: find out why first"
            return Reason("loop_guard", text)
        return None

    def tell(self, why: Reason = NO_REASON, spent: Reservation | None = None) -> None:
        """The event of the row's present state."""
        row, resolved = self.row, self.resolved
        self._events.append(
            StatusEvent(
                id=f"{row.origin}#{row.seq}",
                lead_id=resolved.lead_id,
                status=row.state,
                seq=row.seq,
                at_ms=row.at_ms,
                origin=row.origin,
                workspace=resolved.destination.workspace,
                destination=resolved.destination.alias,
                attempt=row.attempt,
                replay=row.replay,
                epoch=row.epoch,
                reason=why.reason,
                text=why.text,
                http_status=why.http_status,
                due_at_ms=why.due_at_ms,
                credits=spent.credits if spent else None,
                trace_id=row.trace_id,
                app=self._plan.app,
                actions=spent.actions if spent else None,
                day=spent.day if spent else "",
                month=spent.month if spent else "",
                saved=why.saved,
            )
        )

    def step(self, *records: Record) -> WriteBatch:
        """The row as it is now, its events so far and `records`, to commit as one; the first time its aliases."""
        events, self._events = self._events, []
        once, self._once = self._once, []
        rows: Rows = [(self.resolved.key, _json.encode(self.row)), *once]
        told = [event_record(self._plan, event) for event in events]
        workspace = self.resolved.destination.workspace
        return WriteBatch(rows, [*told, *records], events, workspace if workspace in self._plan.workspaces else "")

    def copy(self, topic: str, now_ms: int, why: Reason, *, way: Way = "", disposition: Disposition = "") -> Record:
        """The raw bytes, all about them in headers: a dead letter (`disposition`), or one that comes back (`way`)."""
        row, resolved = self.row, self.resolved
        envelope = Envelope(
            origin=row.origin,
            origin_ms=resolved.envelope.origin_ms,
            seq=row.seq,
            way=way,
            lead_id=resolved.lead_id,
            destination=resolved.destination.alias,
            disposition=disposition,
            reason=why.reason,
            text=why.text,
            http_status=why.http_status or 0,
            excerpt=why.excerpt,
            attempt=row.attempt,
            replay=row.replay,
            epoch=row.epoch,
            returns=row.returns,
            hops=resolved.envelope.hops,
            first_failure_ms=row.failed_at_ms or (now_ms if disposition else 0),
            last_failure_ms=now_ms if disposition else 0,
            not_before_ms=why.due_at_ms or 0,
            letter=resolved.envelope.letter,
            trace_id=row.trace_id,
            app=self._plan.app,
        )
        headers = envelope.to_headers(self._plan.topics.worker_app)
        return Record(topic, resolved.destination.workspace.encode(), resolved.consumed.value, headers)


def brief(
    plan: Plan,
    consumed: ConsumedRecord,
    envelope: Envelope,
    status: Status,
    now_ms: int,
    why: Reason,
    lead_id: str,
    *records: Record,
    there: Destination | None = None,
    rows: Rows | None = None,
) -> WriteBatch:
    """The one event of a record that gets no row; a mark by its place keeps a redelivery from telling it twice.

    there   where its lead goes, if that is to be told. rows: other rows that change with it.
    """
    event = StatusEvent(
        id=f"{envelope.origin}#{envelope.seq + 1}",
        lead_id=lead_id or f"record:{envelope.origin}",
        status=status,
        seq=envelope.seq + 1,
        at_ms=now_ms,
        origin=envelope.origin,
        workspace=there.workspace if there else "",
        destination=there.alias if there else "",
        replay=envelope.replay,
        epoch=envelope.epoch,
        reason=why.reason,
        text=why.text,
        trace_id=envelope.trace_id or trace_of(envelope.origin),
        app=plan.app,
    )
    return WriteBatch([(mark_key(consumed.place), b"1"), *(rows or [])], [event_record(plan, event), *records], [event])


def rejected(plan: Plan, consumed: ConsumedRecord, envelope: Envelope, bad: Unreadable, now_ms: int) -> Record:
    """The dead letter of what is no lead, or not one that this configuration knows."""
    value, most = consumed.value, plan.line.max_letter_bytes
    # A compressed batch may hold more than the dead letters' topic takes.
    cut_bytes = max(0, len(value or b"") - most)
    letter = envelope.onward(
        way="",
        cut_bytes=cut_bytes,
        seq=envelope.seq + 1,
        disposition="policy" if bad.reason.startswith("unknown_") else "poison",
        reason=bad.reason,
        text=bad.text,
        first_failure_ms=envelope.first_failure_ms or now_ms,
        last_failure_ms=now_ms,
        app=plan.app,
    )
    headers = letter.to_headers(plan.topics.worker_app)
    key = pseudonymous_key(consumed.key, plan.workspaces)
    return Record(plan.topics.dlq, key, value[:most] if value and cut_bytes else value, headers)


def strayed(plan: Plan, resolved: LeadRef, home: int, lost: bool, now_ms: int, why: Reason) -> Record:
    """The record as it goes to its workspace's partition or, when it is lost, to those that wait for a human.

    It goes by `leads.retry`: no headers are believed on the topic of an input.
    """
    failed_ms = now_ms if lost else 0
    onward = resolved.envelope.onward(
        way=resolved.envelope.way or "rerouted",
        seq=resolved.envelope.seq + 1,
        hops=resolved.envelope.hops + 1,
        disposition="policy" if lost else "",
        reason=why.reason,
        text=why.text,
        first_failure_ms=resolved.envelope.first_failure_ms or failed_ms,
        last_failure_ms=failed_ms or resolved.envelope.last_failure_ms,
        app=plan.app,
    )
    topic, partition = (plan.topics.parked, None) if lost else (plan.topics.retry, home)
    headers = onward.to_headers(plan.topics.worker_app)
    return Record(topic, resolved.destination.workspace.encode(), resolved.consumed.value, headers, partition)


def event_record(plan: Plan, event: StatusEvent) -> Record:
    """The event as it goes to `leads.status`, keyed by its lead."""
    return Record(plan.topics.status, event.lead_id.encode(), _json.encode(event))
