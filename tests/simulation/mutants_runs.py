"""The results of runs, broken on purpose: what a poll rests on, taken away one at a time (see
mutants.py).
"""

from collections.abc import Iterable, Sequence
from typing import Final
from unittest.mock import patch

from stream_app.domain.delivery.state_machine import Reason
from stream_app.domain.lane.admission import Poll
from stream_app.domain.model.messages import Callback, RunNotification
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import TopicNames
from stream_app.partition import poll_tokens
from stream_app.partition.callback import CallbackPipeline
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import InFlight
from stream_app.partition.open_runs import OpenRuns
from stream_app.partition.poll_queue import OpenRun, PollQueue, RunningLead
from tests.simulation.clay import PollFate
from tests.simulation.client import MemoryStateStore
from tests.simulation.mutant import Patch, mutant, unguarded
from tests.simulation.runs import announced
from tests.simulation.schedule import Arrival, Fault, Schedule, Setup

_ENRICHED: Final = TopicNames().enriched


_ROUTINE: Final = Setup(routines=True, partitions=1)
_LEAD: Final = Arrival(0.0, "acme", "id0", "p0")


def late_polls() -> Iterable[Schedule]:
    """The poll before the deadline takes so long that the lead is overdue before it is answered."""
    polls: tuple[PollFate, ...] = ("unread", "unread", "unread", "slow")
    return (Schedule(f"late/{seed}", seed, _ROUTINE, (_LEAD,), polls=polls) for seed in range(5))


def crowd_of_runs() -> Iterable[Schedule]:
    """More runs than the lane has tokens for, and POSTs beside them."""
    leads = tuple(
        Arrival(0.4 * number, "acme", f"id{number}", f"p{number}") for number in range(20)
    )
    setup = Setup(routines=True, rate_per_s=1.0, burst=1)
    return (Schedule(f"runs/{seed}", seed, setup, leads) for seed in range(5))


def frozen_while_they_ask() -> Iterable[Schedule]:
    """A worker is frozen while it asks, and goes on when another one owns the partition."""
    return (
        Schedule(
            f"frozen/{step}",
            setup=_ROUTINE,
            arrivals=(_LEAD,),
            faults=(Fault(step, "freeze", for_s),),
            polls=("slow",),
        )
        for step in range(40, 200)
        for for_s in (12.0, 30.0)
    )


@mutant("2", "4", "6", hunt=late_polls)
def no_second_look_behind_an_answer() -> Patch:
    real = PollQueue.find
    before: dict[OpenRun, RunningLead | None] = {}

    def find(self: PollQueue, opened: OpenRun) -> RunningLead | None:
        if opened.due_ms is not None:  # before Clay is asked
            before[opened] = real(self, opened)
        return before[opened]

    return unguarded(patch.object(PollQueue, "find", find))


@mutant("5", hunt=crowd_of_runs)
def polls_without_a_token() -> Patch:
    return patch.object(poll_tokens, "decide_poll", lambda policy, lane, *_, **__: (lane, Poll()))


@mutant("2", "4", "6", hunt=frozen_while_they_ask)
def results_are_settled_without_the_fence() -> Patch:
    """The worker that has asked writes the results, whether it still owns the partition or not."""
    real = MemoryStateStore.transact

    async def transact(self: MemoryStateStore, records: Sequence[Record]) -> None:
        if any(record.topic == _ENRICHED for record in records):
            self._epoch = self._kafka._producers[self.transactional_id].epoch
        await real(self, records)

    return patch.object(MemoryStateStore, "transact", transact)


def drawn_announcements() -> Iterable[Schedule]:
    """In some of them a run is announced while the step that names it is written, in vain."""
    return (announced(seed) for seed in range(60, 260))


def lost_answers() -> Iterable[Schedule]:
    """The answer to a POST is lost, and its run is announced."""
    setup = Setup(routines=True, announces=True, partitions=1)
    return (
        Schedule(
            f"answers/{seed}",
            seed,
            setup,
            (_LEAD,),
            fates=("lost_after",),
            announced=("once",),
        )
        for seed in range(3)
    )


@mutant("2", hunt=drawn_announcements)
def an_announcement_is_acked_before_the_step_that_names_its_run() -> Patch:
    real = CallbackPipeline._conclude_run

    async def conclude_run(
        self: CallbackPipeline,
        in_flight: InFlight,
        run: RunNotification,
        says: Callback | Reason | None,
    ) -> None:
        if says is not None:
            await real(self, in_flight, run, says)

    return patch.object(CallbackPipeline, "_conclude_run", conclude_run)


@mutant("6", hunt=lost_answers)
def a_run_that_nobody_knows_is_not_asked_about() -> Patch:
    return patch.object(OpenRuns, "any_in_doubt", lambda self, routine: False)


def repeated_announcements() -> Iterable[Schedule]:
    """In one of them a worker dies after it has reported an announcement, and before the ack."""
    return (announced(seed) for seed in range(540, 570))


@mutant("6", hunt=repeated_announcements)
def an_announcement_that_comes_again_is_reported_again() -> Patch:
    real = Commits.end_if_concluded

    async def end_if_concluded(self: Commits, in_flight: InFlight, origin: str = "") -> bool:
        return in_flight.source != "callback" and await real(self, in_flight, origin)

    return patch.object(Commits, "end_if_concluded", end_if_concluded)
