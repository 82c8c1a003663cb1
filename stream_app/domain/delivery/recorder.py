"""What the pipeline writes about a lead: its row, the events of its steps, and copies.

without_row.py has what it writes about a record that gets no row. The value of a copy is that of
the record, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, Generic, Literal, TypeVar

import msgspec

from stream_app.domain.delivery.envelope import Disposition, Envelope, Way
from stream_app.domain.delivery.resolve import LeadRef, ResolvedLead
from stream_app.domain.delivery.state_machine import (
    CALLBACK,
    CONCLUDED,
    NEXT,
    Delivery,
    Read,
    Reason,
    forced_key,
    mark_key,
    may_be_at_clay,
    moved,
    next_version,
    set_apart,
    unreported,
)
from stream_app.domain.lane.admission import Grant
from stream_app.domain.lead.identity import linked
from stream_app.domain.lead.read import import_of
from stream_app.domain.limits.budget import NO_COST, Reservation
from stream_app.domain.model.messages import (
    RESEND_ORDERED,
    AnsweredColumns,
    Meter,
    Status,
    StatusEvent,
)
from stream_app.domain.model.outcome import Outcome, Poison, Refused, Uncertain
from stream_app.domain.model.records import Record, RowChanges
from stream_app.domain.model.seen import Seen
from stream_app.domain.model.text import count
from stream_app.domain.plan import MAX_RETURNS, Plan, ReplayPolicy

_json: Final = msgspec.json.Encoder()
Aliases = Iterable[tuple[bytes, bytes | None]]  # the keys of alias rows with their new values
LeadT_co = TypeVar("LeadT_co", bound=LeadRef, covariant=True)
NO_REASON: Final = Reason()
_WORTH_NOTING_MS: Final = 1_000
NO_IMPORT: Final = ("", None)
_NO_YIELD: Final = AnsweredColumns()


def failure(outcome: Refused | Uncertain | Poison, due_at_ms: int | None = None) -> Reason:
    """Return the failure of a POST as the reason of a step."""
    return Reason(
        outcome.reason,
        outcome.text,
        outcome.http_status,
        due_at_ms,
        excerpt=outcome.excerpt,
    )


def _list_of(resolved: ResolvedLead) -> int:
    """Return the list with whose answers the lead's answer is compared (limits/yield_health.py)."""
    if not resolved.destination.yield_:
        return 0
    import_id, _ = import_of(resolved.lead)
    if not import_id:
        return 0
    return int.from_bytes(blake2b(import_id.encode(), digest_size=4).digest(), "big")


class Duration(msgspec.Struct, frozen=True, gc=False):
    """How long a lead took, for metrics.

    Attributes:
        until: What ended the time: `callback`, which began with the acceptance by Clay, or `done`,
            which began with the first event.
        destination: The alias of the lead's destination.
        ms: The time over all retries and replays, in ms.
    """

    until: Literal["callback", "done"]
    destination: str
    ms: int


class CommitStep(msgspec.Struct, frozen=True, gc=False):
    """One step: what must be committed together. A transaction commits many steps, each as a whole.

    Attributes:
        rows: The changed rows by key; None deletes a row. In a step that moves a lead, its own row
            is the first one.
        records: All other records.
        events: The status events among the records, for metrics.
        workspace: The workspace whose lane changed; '' if none did.
        durations: How long the lead took, if this step shows it, for metrics.
    """

    rows: RowChanges
    records: list[Record]
    events: list[StatusEvent]
    workspace: str = ""
    durations: tuple[Duration, ...] = ()


class AdmittedPost(msgspec.Struct, frozen=True, gc=False):
    """An admitted lead whose row was written ahead, and then the outcome of its POST.

    While the lead's current row is this one, its outcome has not been recorded and the lead was not
    sent again. `outcome` is None if the POST was not started.
    """

    row: Delivery
    grant: Grant
    outcome: Outcome | None = None


class DeliveryRecorder(Generic[LeadT_co]):
    """Moves one lead's row, and keeps the events of each move until the next `step`.

    `replaced` is the row of the lead's earlier history. If it is a dead letter, the first step
    ends it, so that copies of it that come back are not sent. A marker keeps a redelivery from
    repeating the events of that history. The alias rows `aliases` are written with the first step,
    too.

    Attributes:
        resolved: What the record is about.
        row: The lead's row as it is now.
        seen: What Clay sent about a test lead of `doctor`, for the next event.
        estimated: The meters whose cost the answer does not say, for the next event.
        booked_estimate: What is booked for a last answer that does not say its cost.
        yields: What the answer has of the columns that count, for the next event.
    """

    def __init__(
        self,
        plan: Plan,
        resolved: LeadT_co,
        row: Delivery,
        replaced: Delivery | None = None,
        aliases: Aliases = (),
    ) -> None:
        self.resolved = resolved
        self.row = row
        self.seen: Seen | None = None
        self.yields = _NO_YIELD
        self.estimated: tuple[Meter, ...] = ()
        self.booked_estimate = NO_COST
        self._plan = plan
        self._events: list[StatusEvent] = []
        self._durations: tuple[Duration, ...] = ()
        self._once = dict(aliases)
        if replaced is not None:
            self._once[mark_key(replaced.origin)] = CONCLUDED
            if "replaced" in NEXT.get(replaced.state, ()):
                self.row = replaced
                self.go(
                    "replaced",
                    row.at_ms,
                    Reason("published_again", f"its lead was published again: {row.origin}"),
                )
            self.row = msgspec.structs.replace(row, results=replaced.results)

    def write_ahead(
        self: DeliveryRecorder[ResolvedLead],
        grant: Grant,
        now_ms: int,
        read: Read,
    ) -> CommitStep:
        """Return the step that must be committed before the POST.

        It also links the identifiers of the lead's person. `read` returns the row of a key as it is
        now, because other records may have changed rows while the lead waited.
        """
        resolved = self.resolved
        results = self.row.results
        # What is read now replaces the alias rows that were given for this step.
        if resolved.lead.force:
            # From now on a correction finds this delivery, so its row continues the versions of the
            # delivery before.
            place = resolved.destination.workspace, resolved.destination.alias, resolved.lead_id
            results = next_version(place, self.row, read) - 1
            self._once[forced_key(*place)] = resolved.key
        else:
            self._once.update(linked(resolved.aliases, resolved.key, read))
        self.go(
            "sending",
            now_ms,
            reservation=grant.reservation,
            webhook_id=grant.webhook_id,
            probed_ms=grant.suspension_probe.since_ms if grant.suspension_probe else 0,
            results=results,
            run="",
            list_id=_list_of(resolved),
            **set_apart(self.row),
        )
        return self.step()

    def go(
        self,
        state: Status,
        now_ms: int,
        why: Reason = NO_REASON,
        spent: Reservation | None = None,
        /,
        **fields: object,
    ) -> None:
        """Move the row one legal step and record the event.

        `spent` is what was booked with the step. `fields` are other fields of the row that change.
        """
        before = self.row
        if state == "accepted" and why.http_status is not None:
            fields["accepted_at_ms"] = now_ms
        self.row = moved(before, state, now_ms, **fields)
        if self.row.final and not before.final:
            self._measure()
        self.emit(why, spent, before)

    def amend(self, **fields: object) -> None:
        """Change fields of the row without a step of its history. The next `step` writes them."""
        self.row = msgspec.structs.replace(self.row, **fields)

    def _measure(self) -> None:
        """Note how long the lead took, which ends now."""
        row = self.row
        alias = self.resolved.destination.alias
        self._durations = (Duration("done", alias, row.at_ms - row.first_at_ms),)
        if row.state in CALLBACK and row.accepted_at_ms:
            self._durations += (
                Duration("callback", alias, max(0, row.at_ms - row.accepted_at_ms)),
            )

    def come_back(self, back: Envelope, now_ms: int, spent: Reservation | None = None) -> None:
        """Continue the history of a lead that returned from a delay or that an operator sent back.

        The row takes over the counts of `back`, the headers of the copy that returned. `spent` is
        what was booked of an earlier send that was still reserved.
        """
        returns = {"replayed": self.row.returns + 1, "redriven": 1}.get(back.way, self.row.returns)
        counts = {
            "replay": back.replay,
            "epoch": back.epoch,
            "attempt": back.attempt,
            "returns": returns,
        }
        why = Reason(back.way)
        if (
            back.way == "redriven"
            and may_be_at_clay(self.row)
            and isinstance(self.resolved, ResolvedLead)
        ):
            text = (
                "sent again by an operator though it may have reached Clay: a possible double spend"
            )
            why = Reason(RESEND_ORDERED, text)
        self.go("replayed", now_ms, why, spent, **counts, **(self.freed(spent) if spent else {}))

    def freed(self, spent: Reservation | None = None) -> dict[str, object]:
        """Return the changes of a row whose reservation has ended.

        `spent` is what was booked instead, if anything.

        After a POST that cost nothing, the POST before it is the last one that Clay may have, so a
        callback is about that one.
        """
        row = self.row
        booked = spent or self.row.booked
        if booked is not None:
            return {"reservation": None, "booked": booked}
        if row.unsettled:
            *earlier, booked = row.unsettled
            return {"reservation": None, "booked": booked, "unsettled": tuple(earlier)}
        if row.reservation is not None:
            booked = msgspec.structs.replace(row.reservation, credits=0, actions=0)
        return {"reservation": None, "booked": booked}

    def too_often(self, policy: ReplayPolicy) -> Reason | None:
        """Return why the lead is parked instead of sent again; None if it may be sent."""
        row = self.row
        if row.replay > policy.max_replays:
            return Reason("replay_cap", "replayed more often than max_replays allows")
        if row.returns > MAX_RETURNS:
            return Reason(
                "loop_guard",
                f"replayed {row.returns} times over {count(row.epoch, 'rewind')}: find the cause "
                "first",
            )
        return None

    def emit(
        self,
        why: Reason = NO_REASON,
        spent: Reservation | None = None,
        before: Delivery | None = None,
    ) -> None:
        """Keep the event of the row's present state for the next `step`.

        `before` is the row before the change.
        """
        row = self.row
        resolved = self.resolved
        destination = self.resolved.destination
        event = event_of(
            self._plan,
            row,
            destination.workspace,
            destination.alias,
            resolved.lead_id,
            why,
        )
        # Few steps have these, and a call with more than 15 keywords builds a dict first.
        more: dict[str, object] = {}
        if spent is not None:
            more.update(
                credits=spent.credits,
                actions=spent.actions,
                day=spent.day,
                month=spent.month,
            )
            earlier = NO_COST if before is None else unreported(before)
            now = unreported(row)
            more.update(
                estimated_credits=now.credits + self.booked_estimate.credits - earlier.credits,
                estimated_actions=now.actions + self.booked_estimate.actions - earlier.actions,
            )
        if row.seq == 1 and resolved.envelope.parent_id:
            more.update(parent_id=resolved.envelope.parent_id, sampled=resolved.envelope.sampled)
        if row.seq == 1 and 0 < resolved.envelope.origin_ms <= row.at_ms - _WORTH_NOTING_MS:
            more["queued_ms"] = row.at_ms - resolved.envelope.origin_ms
        if row.seq == resolved.envelope.seq + 1:
            import_id, summary = (
                import_of(resolved.lead) if isinstance(resolved, ResolvedLead) else NO_IMPORT
            )
            if import_id:
                more.update(import_id=import_id, import_summary=summary)
            if resolved.envelope.dead_letter:
                more["dead_letter"] = resolved.envelope.dead_letter
        if before is not None and row.at_ms - before.at_ms >= _WORTH_NOTING_MS:
            more.update(
                waited_ms=row.at_ms - before.at_ms,
                waited_as=before.state,
                sampled=row.sampled,
            )
        if row.state == "accepted" and row.run:
            more["run"] = row.run
        if self.seen is not None:
            more["seen"] = self.seen
            self.seen = None
        if self.yields is not _NO_YIELD:
            more.update(filled=self.yields.filled, empty=self.yields.empty)
            self.yields = _NO_YIELD
        if self.estimated:
            more["estimated"] = self.estimated
            self.estimated = ()
        self._events.append(msgspec.structs.replace(event, **more) if more else event)

    def step(self, *records: Record) -> CommitStep:
        """Return the step to commit: the row, the events since the last step, and `records`.

        The first step has the alias rows, too.
        """
        events = self._events
        self._events = []
        durations = self._durations
        self._durations = ()
        once = self._once
        self._once = {}
        rows: RowChanges = [(self.resolved.key, _json.encode(self.row)), *once.items()]
        written = [event_record(self._plan, event) for event in events]
        workspace = self.resolved.destination.workspace
        changed = workspace if workspace in self._plan.workspaces else ""
        return CommitStep(rows, [*written, *records], events, changed, durations)

    def copy(
        self,
        topic: str,
        now_ms: int,
        why: Reason,
        *,
        way: Way = "",
        disposition: Disposition = "",
    ) -> Record:
        """Return a record with the lead's raw bytes and everything else in headers.

        `way` is why the copy comes back, if it does. `disposition` is the kind of dead letter, if
        it is one.
        """
        row = self.row
        resolved = self.resolved
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
            dead_letter=resolved.envelope.dead_letter,
            trace_id=row.trace_id,
            app=self._plan.app,
        )
        key = resolved.destination.workspace.encode()
        value = resolved.consumed.value
        return Record(topic, key, value, envelope.to_headers())


def event_of(
    plan: Plan,
    row: Delivery,
    workspace: str,
    destination: str,
    lead_id: str,
    why: Reason,
) -> StatusEvent:
    """Return the event of a row's present state."""
    return StatusEvent(
        f"{row.origin}#{row.seq}",
        lead_id,
        row.state,
        row.seq,
        row.at_ms,
        row.origin,
        workspace=workspace,
        destination=destination,
        attempt=row.attempt,
        replay=row.replay,
        epoch=row.epoch,
        reason=why.reason,
        text=why.text,
        http_status=why.http_status,
        due_at_ms=why.due_at_ms,
        trace_id=row.trace_id,
        app=plan.app,
        saved=why.saved,
    )


def event_record(plan: Plan, event: StatusEvent) -> Record:
    """Return the event as a record of `leads.status`, keyed by its lead."""
    return Record(plan.topics.status, event.lead_id.encode(), _json.encode(event))
