"""A recovery, broken on purpose: the outcome of a POST in flight may be reported once more, and not
more often.

And a take-over, broken on purpose: every transaction that Kafka left open must stay what it was.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from unittest.mock import patch

from stream_app.domain.delivery.recorder import AdmittedPost
from stream_app.domain.lane.admission import Grant
from stream_app.domain.lane.lane import for_new_owner
from stream_app.kafka.takeover import steps as stranded
from stream_app.kafka.takeover.steps import LastTransaction, NextStep, Stranded
from stream_app.partition.in_flight import InFlight
from stream_app.partition.lead import LeadPipeline, LeadRecorder
from tests.simulation.bases import bases
from tests.simulation.client import MemoryTransactions
from tests.simulation.kafka import ORDINARY_TIMEOUT_MS
from tests.simulation.mutant import Patch, family, mutant
from tests.simulation.recoveries import aborted, interrupted, missed_once
from tests.simulation.schedule import Arrival, Fault, Schedule
from tests.simulation.world import simulate


@mutant("3", hunt=family("crowd", "lost"))
def under_way_counts_as_not_started() -> Patch:
    async def post(
        self: LeadPipeline,
        in_flight: InFlight,
        recorder: LeadRecorder,
        grant: Grant,
    ) -> AdmittedPost:
        lead = recorder.resolved
        sent = lead.destination.alias, grant.webhook_id, lead.body, recorder.row.trace_id
        return AdmittedPost(recorder.row, grant, await self._clay.send(*sent))

    return patch.object(LeadPipeline, "_post", post)


def heard_and_given_up() -> Iterable[Schedule]:
    """A worker reads a long Retry-After, the commit of that step is lost, and a rebalance takes
    away the lead that would report it once more.

    The lead of another workspace comes shortly before, so that a rebalance at one of its steps may
    begin in time. Those steps come shortly after the middle of the run. The requests and turns are
    read off the run without faults, because each change of the worker moves them.
    """
    refused = next(base for base in bases() if base.name == "refused")
    limited = replace(
        refused,
        arrivals=(*refused.arrivals, Arrival(3.4, "beta", "c", "p3")),
        fates=("limited", "limited", "accepted", "limited", "accepted", "accepted"),
    )
    whole = simulate(limited)
    return [
        replace(limited, losses=((commit, "refused"),), faults=(Fault(turn, "rebalance"),))
        for commit in whole.commits
        for turn in range(whole.turns // 2, whole.turns * 2 // 3)
    ]


@mutant("5", hunt=heard_and_given_up)
def retry_after_forgotten_with_memory() -> Patch:
    return patch(
        "stream_app.partition.lanes.for_new_owner",
        lambda state, now_ms, previous=None: for_new_owner(state, now_ms),
    )


# ---------------------------------------------------------------------------- stranded transactions


def _stepping(change: Callable[[LastTransaction, bool, NextStep], NextStep]) -> Patch:
    def next_step(last: LastTransaction, *, stranded: bool) -> NextStep:
        return change(last, stranded, real(last, stranded=stranded))

    real = stranded.next_step
    return patch("stream_app.kafka.takeover.steps.next_step", next_step)


@mutant("refused", hunt=missed_once)
def verdict_not_durable() -> Patch:
    """The fence makes Kafka forget it, and says nothing of it."""
    return patch(
        "stream_app.kafka.takeover.steps.timeout_with_verdict",
        lambda *_, **__: ORDINARY_TIMEOUT_MS,
    )


@mutant("refused", hunt=missed_once)
def verdict_lost_in_process() -> Patch:
    """It was read from Kafka, and the fence makes Kafka forget it."""
    return _stepping(lambda _, __, step: NextStep("fence") if step.do == "fence_verdict" else step)


@mutant("whole", hunt=aborted)
def empty_counts_as_committed() -> Patch:
    return _stepping(
        lambda last, stranded, step: (
            NextStep("end", True) if last.state == "Empty" and stranded else step
        ),
    )


@mutant("whole", hunt=lambda: interrupted(missed_once(), ("half",)))
def repair_aborted_by_the_successor() -> Patch:
    """An ongoing transaction is aborted by the next fence, whatever it ends."""
    return _stepping(lambda last, _, step: NextStep("fence") if last.state == "Ongoing" else step)


@mutant("whole", hunt=aborted)
def what_is_stranded_is_not_looked_for() -> Patch:
    """The next transaction of the producer ends it, in whatever way that one ends."""

    async def nowhere(self: MemoryTransactions, _: int) -> Stranded:
        return {}

    def look(self: MemoryTransactions) -> tuple[LastTransaction, Stranded]:
        return self._kafka.describe(self.transactional_id), {}

    return patch.multiple(MemoryTransactions, open_places=nowhere, _look=look)
