"""The steps that end the wait for Clay's answer about a lead: it is settled, or it is parked.

Callbacks, results of runs and deadlines end leads with these same steps. No await lies between the
look at the row from which a step is made and the submission of that step. So the row cannot change
in between, and one transaction writes both the lane and the row.
"""

from collections.abc import Callable
from typing import Final

from attrs import define
from msgspec.structs import replace

from stream_app.clock import Clock
from stream_app.domain.callback.interpret import (
    PUBLISHED,
    answered_columns,
    booked,
    result_of,
    unsaid,
)
from stream_app.domain.delivery.envelope import Envelope, lead_envelope
from stream_app.domain.delivery.recorder import CommitStep, DeliveryRecorder
from stream_app.domain.delivery.resolve import LeadRef
from stream_app.domain.delivery.state_machine import (
    Delivery,
    Reason,
    forced_key,
    lead_of,
    next_version,
)
from stream_app.domain.limits.budget import Cost
from stream_app.domain.model.messages import Callback, Status
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.records import ConsumedRecord, parse_record_id
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.lanes import Lanes
from stream_app.partition.rows import Rows

_AT_CLAY: Final = frozenset[Status](
    {"accepted", "callback_overdue", "credits_exhausted_suspected", "partial", "confirmed"},
)
_AT_CLAY_REASON: Final = Reason("callback", "Clay's answer shows that it has the lead")


@define(eq=False, repr=False, kw_only=True)
class Endings:
    """Makes those steps. The caller submits them."""

    _plan: Plan
    _clock: Clock
    _rows: Rows
    _lanes: Lanes
    _pump_soon: Callable[[str], None]  # see `AdmissionQueue`

    def settle(
        self,
        callback: Callback,
        key: bytes,
        row: Delivery,
        consumed: ConsumedRecord,
        run: str = "",
    ) -> CommitStep | Reason:
        """Settle a lead: its row, event and result, and the books of its lane.

        Args:
            callback: What Clay says of the lead.
            key: The key of its row.
            row: The row as it is now. `match_callback` says that the callback settles it.
            consumed: The record that brought the answer; the lead's own place if none did.
            run: The run whose announcement the answer follows; '' if it follows none.

        Returns:
            The step, or the reason why nothing can be published. Then the lane is unchanged.
        """
        now_ms = self._clock.now_ms()
        lead = (callback.workspace, callback.destination, callback.lead_id)
        version = next_version(lead, row, self._rows.get)
        result = result_of(self._plan, callback, row, version, now_ms)
        if isinstance(result, Reason):
            return result
        destination = self._plan.destinations[callback.destination]
        lead_ref = LeadRef(
            consumed,
            Envelope(origin=row.origin),
            callback.lead_id,
            destination,
            key,
        )
        recorder = DeliveryRecorder(self._plan, lead_ref, row)
        if run:
            # By this a later owner knows that the announcement of this run has settled the lead.
            recorder.amend(run=run)
        if row.state not in _AT_CLAY:
            recorder.go("accepted", now_ms, _AT_CLAY_REASON)
        policy = self._lanes.policy(callback.workspace)
        lane = self._lanes[callback.workspace]
        answer = answered_columns(destination, callback)
        self._lanes[callback.workspace], booked_now, spent = booked(
            policy,
            lane,
            row,
            destination,
            callback,
            answer,
            now_ms,
        )
        # The budget may have room again, or a suspension may have ended. The leads that may go now
        # are admitted in a later turn of the event loop, after the caller has submitted this step.
        self._pump_soon(callback.workspace)
        why = Reason(
            "repaired" if callback.repaired else "",
            scrub(callback.text) if callback.text else "",
        )
        is_erased = self._rows.is_erased(callback.workspace, callback.lead_id, row.first_at_ms)
        is_published = callback.outcome in PUBLISHED and not is_erased
        unsaid_meters = unsaid(callback) if booked_now is not None else ()
        is_reported = "credits" not in unsaid_meters
        may_go_on = callback.outcome == "partial"
        # The next event tells what is set here. So this stands after the event `accepted` above,
        # which would have taken it.
        recorder.seen = callback.seen
        recorder.estimated = unsaid_meters
        recorder.yields = answer
        kept = None
        if booked_now is not None and may_go_on:
            estimated = unsaid_meters[0] if len(unsaid_meters) == 1 else None
            kept = replace(booked_now, known=is_reported, estimated=estimated)
        elif booked_now is not None:
            recorder.booked_estimate = Cost(
                0 if is_reported else booked_now.credits,
                booked_now.actions if "actions" in unsaid_meters else 0,
            )
        recorder.go(
            callback.outcome,
            now_ms,
            why,
            spent,
            final=True,
            reservation=None,
            booked=kept,
            results=version if is_published else row.results,
        )
        step = recorder.step(*([result] if is_published else []))
        if callback.forced_origin:
            step.rows.append(
                (forced_key(destination.workspace, destination.alias, callback.lead_id), key),
            )
        return step

    def park(
        self,
        key: bytes,
        row: Delivery,
        destination: Destination,
        consumed: ConsumedRecord | None,
        why: Reason,
    ) -> CommitStep:
        """Park a lead that Clay has and that nothing will settle. What is reserved is booked.

        Args:
            key: The key of its row.
            row: The row as it is now. A row that is not overdue yet becomes overdue first, because
                only overdue leads are parked.
            destination: Its destination.
            consumed: The lead's record; None if Kafka no longer has it.
            why: Why a person has to decide.
        """
        now_ms = self._clock.now_ms()
        lead_id = lead_of(key)[2]
        if self._rows.is_erased(destination.workspace, lead_id, row.first_at_ms):
            consumed = None
            why = _with(why, "the lead was erased")
        elif consumed is None:
            why = _with(why, "its record is no longer in Kafka: publish the lead again")
        envelope = (
            lead_envelope(consumed, self._plan.topics.inputs)
            if consumed is not None
            else Envelope(origin=row.origin)
        )
        lead_ref = LeadRef(consumed or empty_record(row), envelope, lead_id, destination, key)
        recorder = DeliveryRecorder(self._plan, lead_ref, row)
        if row.state == "accepted":
            recorder.go("callback_overdue", now_ms, why)
        spent = self._lanes.charge(destination.workspace, row.reservation)
        recorder.go("parked", now_ms, why, spent, **recorder.freed(spent), sends=row.sends + 1)
        return recorder.step(
            recorder.copy(self._plan.topics.parked, now_ms, why, disposition="failed"),
        )


def empty_record(row: Delivery) -> ConsumedRecord:
    """Return a record with the place of the lead's own record, and nothing else."""
    topic, partition, offset = parse_record_id(row.origin) or ("", 0, 0)
    return ConsumedRecord(topic, partition, offset, None, None)


def _with(why: Reason, more: str) -> Reason:
    return Reason(why.reason, f"{why.text}; {more}")
