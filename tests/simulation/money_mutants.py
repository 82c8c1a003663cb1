"""Money and the lane, broken on purpose (see mutants.py)."""

from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import msgspec

from stream_app.domain.delivery.recorder import CommitStep, DeliveryRecorder
from stream_app.domain.lane import settlement
from stream_app.domain.lane.admission import AdmissionRequest, Grant, Held
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.limits import breaker, budget, rate
from stream_app.domain.model.outcome import Outcome as PostOutcome
from stream_app.domain.model.outcome import Refused
from stream_app.domain.model.records import Record
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.in_flight import InFlight
from stream_app.partition.lane_queue import StepAhead
from stream_app.partition.lanes import Lanes
from tests.simulation.mutant import Patch, crowd_at_a_rebalance, mutant


@mutant("4")
def refund_twice() -> Patch:
    real = settlement.settled

    def settled(
        policy: Any,
        state: Any,
        entry: Grant,
        outcome: PostOutcome | None,
        *rest: Any,
    ) -> tuple[Any, Settlement]:
        after, report = real(policy, state, entry, outcome, *rest)
        if isinstance(outcome, Refused):
            refunded = budget.settle(after.budget, entry.reservation, budget.Cost())
            after = msgspec.structs.replace(after, budget=refunded)
        return after, report

    return patch("stream_app.partition.admission.settled", settled)


@mutant("4")
def parked_costs_nothing() -> Patch:
    return patch.object(Lanes, "charge", lambda self, workspace, held: held)


@mutant("4")
def lanes_not_in_the_same_transaction() -> Patch:
    real = Lanes.records
    late = WeakKeyDictionary[Lanes, list[Record]]()

    def records(self: Lanes, workspaces: set[str]) -> list[Record]:
        before = late.get(self, [])
        late[self] = real(self, workspaces)
        return before

    return patch.object(Lanes, "records", records)


@mutant("5")
def retry_after_ignored() -> Patch:
    def on_429(policy: Any, state: Any, *rest: Any) -> Any:
        return state

    return patch.object(rate, "on_429", on_429)


@mutant("5", hunt=crowd_at_a_rebalance)
def tokens_kept_at_take_over() -> Patch:
    def full(state: rate.Rate, now_ms: int) -> rate.Rate:
        return msgspec.structs.replace(state, tokens=10.0, at_ms=now_ms)

    return patch.object(rate, "empty_after_takeover", full)


@mutant("5")
def open_breaker_lets_through() -> Patch:
    real = breaker.permit

    def permit(policy: Any, state: Any, now_ms: int, mode: Any) -> Any:
        return real(policy, state, state.until_ms if state.phase == "open" else now_ms, mode)

    return patch.object(breaker, "permit", permit)


@mutant("5")
def not_after_ignored() -> Patch:
    real = AdmissionQueue.admit

    async def admit(
        self: AdmissionQueue,
        in_flight: InFlight,
        request: AdmissionRequest,
        step_ahead: StepAhead,
    ) -> Grant | Held:
        endless = msgspec.structs.replace(request, not_after_ms=None)
        return await real(self, in_flight, endless, step_ahead)

    return patch.object(AdmissionQueue, "admit", admit)


@mutant("2")
def no_dead_letter_with_the_last_failure() -> Patch:
    real = DeliveryRecorder.step

    def step(self: DeliveryRecorder[Any], *records: Record) -> CommitStep:
        return real(self) if self.row.state == "dead_lettered" else real(self, *records)

    return patch.object(DeliveryRecorder, "step", step)
