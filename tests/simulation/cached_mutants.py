"""The answer of a lead that failed, broken on purpose: what "once, and not of what is uncertain"
rests on (see mutants.py).
"""

import asyncio
from collections.abc import Iterable
from unittest.mock import patch

import msgspec

from stream_app.domain.delivery.recorder import CommitStep, DeliveryRecorder
from stream_app.domain.delivery.resolve import ResolvedLead
from stream_app.partition.commits import Commits
from stream_app.partition.fallback import Fallback
from stream_app.partition.in_flight import InFlight
from tests.simulation.mutant import Patch, family, mutant
from tests.simulation.schedule import Arrival, Schedule, Setup


@mutant("9", hunt=family("failed", "crash"))
def answer_is_not_in_the_row() -> Patch:
    real = DeliveryRecorder.amend

    def amend(self: DeliveryRecorder[ResolvedLead], **fields: object) -> None:
        real(self, **{**fields, "provisional": 0})

    return patch.object(DeliveryRecorder, "amend", amend)


@mutant("6", hunt=family("failed", "crash"))
def answer_comes_after_its_row() -> Patch:
    real = Commits.submit

    def submit(
        self: Commits,
        step: CommitStep,
        in_flight: InFlight | None = None,
    ) -> asyncio.Future[None]:
        if step.events or not step.records:
            return real(self, step, in_flight)
        committed = real(self, msgspec.structs.replace(step, records=[]), in_flight)
        alone = CommitStep([], step.records, [])
        asyncio.get_running_loop().call_later(0.02, real, self, alone)
        return committed

    return patch.object(Commits, "submit", submit)


def unsure_and_then_refused() -> Iterable[Schedule]:
    setup = Setup(hold="degrade", cached=True, uncertain="resend")
    lead = Arrival(0.0, "acme", "a", "p1")
    return [
        Schedule(
            "unsure, then refused",
            setup=setup,
            arrivals=(lead,),
            fates=("lost_before", "busy"),
        ),
    ]


@mutant("9", hunt=unsure_and_then_refused)
def lead_that_may_be_at_clay_is_answered() -> Patch:
    real = Fallback.answer_refused

    async def answer_refused(self: Fallback, recorder: DeliveryRecorder[ResolvedLead]) -> None:
        sends = recorder.row.sends
        recorder.amend(sends=0)
        await real(self, recorder)
        recorder.amend(sends=sends)

    return patch.object(Fallback, "answer_refused", answer_refused)
