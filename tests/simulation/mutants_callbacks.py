"""The way back, broken on purpose: what a callback's settlement rests on, taken away one at a time
(see mutants.py).
"""

from collections.abc import Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import msgspec

from stream_app.domain.callback import interpret as answer
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import Delivery, Meeting, match_callback
from stream_app.domain.lane import settlement
from stream_app.domain.lane.holds import HoldReason, reason_of
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits import budget
from stream_app.domain.model.messages import Status
from stream_app.partition import callback as correlate
from stream_app.partition import deadlines as awaiting
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.callback import CallbackPipeline
from stream_app.partition.commits import Commits
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.in_flight import InFlight, Source
from stream_app.partition.key_locks import KeyLocks, KeysNow
from stream_app.partition.lanes import Lanes
from stream_app.partition.owner import Bootstrap
from tests.simulation.bases import bases, rare
from tests.simulation.mutant import Patch, family, mutant, unguarded
from tests.simulation.schedule import Schedule


@mutant("6")
def callback_beside_its_lead() -> Patch:
    real = KeyLocks.lock

    @asynccontextmanager
    async def lock(self: KeyLocks, in_flight: InFlight, keys: KeysNow) -> Any:
        if in_flight.source == "callback":
            yield
        else:
            async with real(self, in_flight, keys):
                yield

    return patch.object(KeyLocks, "lock", lock)


@mutant("3", hunt=bases)
def waiting_lead_is_not_recalled() -> Patch:
    return patch.object(AdmissionQueue, "recall", lambda self, in_flight: None)


@mutant("6", hunt=family("answered", "crash"))
def callback_leaves_no_mark() -> Patch:
    real = Commits.commit_last

    async def commit_last(self: Commits, in_flight: InFlight, step: CommitStep) -> None:
        kept = [
            (key, value) for key, value in step.rows if not key.startswith(b"o/leads.callbacks/")
        ]
        await real(self, in_flight, CommitStep(kept, step.records, step.events, step.workspace))

    return patch.object(Commits, "commit_last", commit_last)


@mutant("6")
def every_callback_settles() -> Patch:
    def anything(row: Delivery | None, outcome: Status) -> Meeting:
        return "settles" if row is not None else match_callback(row, outcome)

    return unguarded(patch.object(correlate, "match_callback", anything))


@mutant("2")
def callback_that_settles_nothing_is_not_reported() -> Patch:
    async def conclude(self: CallbackPipeline, *args: Any) -> None: ...

    return patch.object(CallbackPipeline, "_settle_nothing", conclude)


@mutant("4", hunt=rare)
def parked_is_paid_twice() -> Patch:
    return patch.object(budget, "unbook", lambda state, booked: state)


@mutant("4")
def estimate_booked_for_actual() -> Patch:
    return patch.object(answer, "_bounded", lambda callback, estimated: estimated)


@mutant("6", hunt=rare)
def results_all_have_one_version() -> Patch:
    return patch("stream_app.partition.endings.next_version", lambda *_: 1)


# -------------------------------------------------------------------------------- no callback comes


@mutant("2", hunt=family("silent", "crash"))
def waiting_leads_forgotten_at_take_over() -> Patch:
    async def load(self: DeadlineQueue) -> None: ...

    return patch.object(DeadlineQueue, "load", load)


def no_worker_there() -> Iterable[Schedule]:
    """The only worker is away while the callback comes, and the lead may be sent again once the
    worker returns.
    """
    away = {"workers": 1, "restart_s": 700.0, "shuffle": 0.3, "jitter_s": 0.05}
    return (replace(schedule, **away) for schedule in family("news", "crash")())  # type: ignore[arg-type]  # mixed values


@mutant("3", hunt=no_worker_there)
def callbacks_not_read_at_take_over() -> Patch:
    real = Bootstrap._process_topic

    async def process_topic(self: Bootstrap, topic: str, source: Source) -> None:
        if source == "command":
            await real(self, topic, source)

    return patch.object(Bootstrap, "_process_topic", process_topic)


@mutant("6", hunt=bases)
def a_2xx_ends_a_silence() -> Patch:
    def by_a_probe(code: str) -> HoldReason:
        reason = reason_of(code)
        return (
            msgspec.structs.replace(reason, lifted_by="probe")
            if reason.lifted_by == "callback"
            else reason
        )

    return patch.object(settlement, "reason_of", by_a_probe)


@mutant("5", hunt=bases)
def any_callback_ends_a_silence() -> Patch:
    real = answer._called_back

    def called_back(state: Lane, row: Delivery, *rest: Any) -> Lane:
        since_ms = state.suspension.since_ms if state.suspension else 0
        return real(state, msgspec.structs.replace(row, probed_ms=since_ms), *rest)

    return patch.object(answer, "_called_back", called_back)


@mutant("6", hunt=bases)
def deadlines_pass_at_once() -> Patch:
    return patch.object(awaiting, "due_ms", lambda row, destination, state: row.at_ms)


@mutant("4", hunt=family("silent", "freeze"))
def parked_without_its_charge() -> Patch:
    return patch.object(Lanes, "charge", lambda self, workspace, held: held)
