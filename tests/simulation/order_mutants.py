"""Operations, broken on purpose: each mutant must be found out by the checker of orders."""

from collections.abc import Iterable
from dataclasses import replace
from unittest.mock import patch

import msgspec

from stream_app.domain.delivery.recorder import CommitStep
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import InFlight
from stream_app.partition.rows import Rows
from tests.simulation.mutant import Patch, family, mutant
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Schedule, Setup


def suppressed_while_it_waits() -> Iterable[Schedule]:
    """A lead waits for its lane while its person is put on the list."""
    base = Schedule(
        "suppressed_while_it_waits",
        setup=Setup(callbacks=False),
        arrivals=(Arrival(0.5, "acme", "a", "p1"),),
        orders=(
            Order(0.0, "acme", "pause"),
            Order(3.0, "", "suppress", "p1"),
            Order(5.0, "acme", "resume"),
        ),
    )
    return [replace(base, seed=seed, shuffle=0.3) for seed in range(20)]


@mutant("8", hunt=family("ordered", "crash"))
def no_memory_of_commands() -> Patch:
    get = Rows.get
    return patch.object(
        Rows,
        "get",
        lambda self, key: None if key.startswith(b"k/") else get(self, key),
    )


@mutant("2", hunt=family("ordered", "crash"))
def answered_in_a_step_of_its_own() -> Patch:
    commit_last = Commits.commit_last

    async def in_two(self: Commits, in_flight: InFlight, step: CommitStep) -> None:
        if _answers(step):
            await self.submit(CommitStep(step.rows, [], [], step.workspace))
            step = CommitStep([], step.records, [], "")
        await commit_last(self, in_flight, step)

    return patch.object(Commits, "commit_last", in_two)


@mutant("8", hunt=family("ordered", "crash"))
def answered_before_the_lane_is_written() -> Patch:
    commit_last = Commits.commit_last

    async def without(self: Commits, in_flight: InFlight, step: CommitStep) -> None:
        await commit_last(
            self,
            in_flight,
            msgspec.structs.replace(step, workspace="") if _answers(step) else step,
        )

    return patch.object(Commits, "commit_last", without)


@mutant("8", hunt=suppressed_while_it_waits)
def no_second_request() -> Patch:
    return patch.object(AdmissionQueue, "ask_again", lambda self: None)


def _answers(step: CommitStep) -> bool:
    return any(record.topic == "leads.audit" for record in step.records)
