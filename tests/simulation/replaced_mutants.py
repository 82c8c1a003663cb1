"""Dead letters that are published again, broken on purpose: each mutant must be found out."""

from contextlib import ExitStack
from unittest.mock import patch

import msgspec

from stream_app.domain.delivery import recorder as history
from stream_app.domain.delivery import resolve as seen
from stream_app.domain.delivery import state_machine as delivery
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import DeliveryRecorder
from stream_app.domain.delivery.resolve import ResolvedLead
from stream_app.domain.delivery.state_machine import Delivery, Verdict
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import PRIORITY, InFlight
from tests.simulation.mutant import Patch, mutant
from tests.simulation.republished import perhaps_at_clay, republished, sent_back


def _classified(change: object) -> Patch:
    return patch.object(seen, "classify_record", change)


@mutant("3", hunt=perhaps_at_clay)
def a_dead_letter_that_may_be_at_clay_is_replaced() -> Patch:
    def classify_record(
        row: Delivery | None,
        envelope: Envelope,
        now_ms: int,
        freshness_ms: int,
    ) -> Verdict:
        never_sent = row and msgspec.structs.replace(row, sends=0)
        return delivery.classify_record(never_sent, envelope, now_ms, freshness_ms)

    return _classified(classify_record)


@mutant("3", "6", hunt=sent_back)
def the_replay_of_a_replaced_dead_letter_is_sent() -> Patch:
    """It is taken as a lead of its own, as one is whose row is gone."""

    def classify_record(
        row: Delivery | None,
        envelope: Envelope,
        now_ms: int,
        freshness_ms: int,
    ) -> Verdict:
        verdict = delivery.classify_record(row, envelope, now_ms, freshness_ms)
        return "fresh" if verdict == "done" and row and row.origin != envelope.origin else verdict

    asked = Commits.end_if_concluded

    async def end_if_concluded(self: Commits, in_flight: InFlight, origin: str = "") -> bool:
        return in_flight.source not in PRIORITY and await asked(self, in_flight, origin)

    stack = ExitStack()
    stack.enter_context(_classified(classify_record))
    stack.enter_context(patch.object(Commits, "end_if_concluded", end_if_concluded))
    return stack


@mutant("2", "3", hunt=republished)
def a_replaced_dead_letter_has_no_end() -> Patch:
    real = DeliveryRecorder.go

    def go(
        self: DeliveryRecorder[ResolvedLead],
        state: str,
        *others: object,
        **changes: object,
    ) -> None:
        if state != "replaced":
            real(self, state, *others, **changes)  # type: ignore[arg-type]  # as it came

    return patch.object(history.DeliveryRecorder, "go", go)


@mutant("3", "4", hunt=sent_back)
def a_replay_that_is_being_sent_is_replaced() -> Patch:
    def is_dead_letter(row: Delivery) -> bool:
        return row.state in ("dead_lettered", "parked", "sending")

    return patch.object(delivery, "_is_dead_letter", is_dead_letter)
