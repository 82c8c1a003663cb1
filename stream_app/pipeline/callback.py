"""What happens to one callback of Clay's, top to bottom: it settles its lead, once, or settles nothing and says so.

    bytes -> decode -> open? -> alone with its lead -> meet -> book -> result -> commit -> ack

The row, its events, the result, the lane's money and the callback's own mark are one step. A callback never waits at
the gate, and no lead waits there for long while a callback has news of it: it is called back, and finds its row
settled. When `take` returns, the callback is concluded and may be acked.
"""

from __future__ import annotations

from typing import Final

from stream_app.domain.callback.interpret import next_version, read_callback, result_of
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.outcome import scrub
from stream_app.domain.delivery.recorder import DeliveryRecorder, Reason, brief
from stream_app.domain.delivery.state_machine import Delivery, delivery_key, forced_key, mark_key, meet
from stream_app.domain.lead.resolve import LeadRef
from stream_app.domain.lead.suppression import erased_row, is_erased
from stream_app.domain.messages import Callback, Status
from stream_app.domain.policy import Plan
from stream_app.pipeline.ports import Clock, InFlight, PartitionState

_AT_CLAY: Final = frozenset[Status]({"accepted", "callback_overdue", "credits_exhausted_suspected", "partial"})
_SHOWN: Final = Reason("callback", "its callback shows that Clay has it")
_UNKNOWN: Final = Reason("unknown_lead", "no row of such a lead is here (any more)")
_NOT_EXPECTED: Final = Reason("not_expected", "nothing of its lead was sent, or it has ended in another way")
_PUBLISHED: Final = frozenset[Status]({"enriched", "partial"})
_ANSWERED: Final = Reason("answered", "its lead has its answer already")


class CallbackPipeline:
    """Takes the callbacks of one partition to their leads, one `take` a record, many at a time."""

    def __init__(self, plan: Plan, partition: PartitionState, clock: Clock) -> None:
        self._plan = plan
        self._partition = partition
        self._clock = clock

    async def process(self, in_flight: InFlight) -> None:
        """One record, from its bytes to its conclusion. Returns when everything about it is committed."""
        in_flight.release_next()
        callback = read_callback(self._plan, in_flight.consumed)
        if isinstance(callback, Reason):
            await self._tell(in_flight, "callback_unmatched", callback)
            return
        key = delivery_key(callback.workspace, callback.destination, callback.lead_id, callback.forced_origin)
        row = self._partition.find(key)
        # Most of what settles nothing shows at once: then no lead is waited for or called back.
        if row is not None and meet(row, callback.outcome) == "settles":
            async with self._partition.lock(in_flight, lambda: (key,)):
                row = self._partition.find(key)
                if row is not None and meet(row, callback.outcome) == "settles":
                    await self._settle(in_flight, callback, key, row)
                    return
        await self._tell(in_flight, *_why_not(row, callback.outcome), callback, row)

    async def _settle(self, in_flight: InFlight, callback: Callback, key: bytes, row: Delivery) -> None:
        """The one step in which a lead gets its answer."""
        now_ms, version = self._clock.now_ms(), self._version(callback, row)
        result = result_of(self._plan, callback, row, version, now_ms)
        if isinstance(result, Reason):
            await self._tell(in_flight, "callback_unmatched", result, callback, row)
            return
        if await self._is_concluded(in_flight):
            return
        there = self._plan.destinations[callback.destination]
        subject = LeadRef(in_flight.consumed, Envelope(origin=row.origin), callback.lead_id, there, key)
        recorder = DeliveryRecorder(self._plan, subject, row)
        if row.state not in _AT_CLAY:
            recorder.go("accepted", now_ms, _SHOWN)
        booking = self._partition.book(row, there, callback)
        why = Reason("repaired" if callback.repaired else "", scrub(callback.text) if callback.text else "")
        erased = self._partition.suppression(erased_row(callback.workspace, callback.lead_id))
        told = callback.outcome in _PUBLISHED and not is_erased(erased, row.first_at_ms)
        recorder.go(
            callback.outcome,
            now_ms,
            why,
            booking.spent,
            final=True,
            reservation=None,
            booked=booking.booked if callback.outcome == "partial" else None,
            results=version if told else row.results,
        )
        step = recorder.step(*([result] if told else []))
        step.rows.append((mark_key(in_flight.consumed.place), b"1"))
        if callback.forced_origin:
            step.rows.append((forced_key(there.workspace, there.alias, callback.lead_id), key))
        await self._partition.conclude(in_flight, step)

    def _version(self, callback: Callback, row: Delivery) -> int:
        lead = (callback.workspace, callback.destination, callback.lead_id)
        return next_version(lead, row, self._partition.find, self._partition.row)

    # ------------------------------------------------------------------------------------- what settles nothing

    async def _tell(
        self,
        in_flight: InFlight,
        status: Status,
        why: Reason,
        callback: Callback | None = None,
        row: Delivery | None = None,
    ) -> None:
        """The one event of a callback that settles nothing: its origin is the callback's own record."""
        if await self._is_concluded(in_flight):
            return
        envelope = Envelope(origin=in_flight.consumed.place, trace_id=row.trace_id if row else "")
        lead_id, there = (callback.lead_id, self._plan.destinations[callback.destination]) if callback else ("", None)
        now_ms = self._clock.now_ms()
        told = brief(self._plan, in_flight.consumed, envelope, status, now_ms, why, lead_id, there=there)
        await self._partition.conclude(in_flight, told)

    async def _is_concluded(self, in_flight: InFlight) -> bool:
        """Whether it was taken before. To be asked right before a step, after any await."""
        mark = self._partition.find_marker(in_flight.consumed.place)
        if mark is not None:
            await self._partition.conclude_unchanged(in_flight, mark)
        return mark is not None or self._partition.is_passed(in_flight.consumed)


def _why_not(row: Delivery | None, outcome: Status) -> tuple[Status, Reason]:
    """What is told of a callback that settles nothing."""
    if meet(row, outcome) == "duplicate":
        return "callback_duplicate", _ANSWERED
    return "callback_unmatched", _UNKNOWN if row is None else _NOT_EXPECTED
