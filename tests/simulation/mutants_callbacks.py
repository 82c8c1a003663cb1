"""The way back, broken on purpose: what a callback's settlement rests on, taken away one at a time (see mutants.py)."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from stream_app import correlate
from stream_app.core import answer, budget
from stream_app.core.delivery import Delivery, Meeting, meet
from stream_app.core.messages import Status
from stream_app.core.story import Step
from stream_app.correlate import Correlation
from stream_app.partition.desk import Partition
from stream_app.partition.gate import Gate
from stream_app.partition.walk import Walk
from tests.simulation.mutant import Patch, family, mutant
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import bases, rare

__all__ = ["MUTANTS"]


@mutant()
def callback_beside_its_lead() -> Patch:
    real = Partition.alone

    @asynccontextmanager
    async def alone(self: Partition, walk: Walk, keys: tuple[bytes, ...]) -> Any:
        if walk.source == "callback":
            yield
        else:
            async with real(self, walk, keys):
                yield

    return patch.object(Partition, "alone", alone)


@mutant(bases)
def lead_at_the_gate_not_called_back() -> Patch:
    return patch.object(Gate, "recall", lambda self, walk, news: None)


@mutant(family("answered", "crash"))
def callback_leaves_no_mark() -> Patch:
    real = Partition.commit

    async def commit(self: Partition, step: Step) -> None:
        kept = [(key, value) for key, value in step.rows if not key.startswith(b"o/leads.callbacks/")]
        await real(self, Step(kept, step.records, step.events, step.workspace))

    return patch.object(Partition, "commit", commit)


@mutant()
def every_callback_settles() -> Patch:
    def anything(row: Delivery | None, outcome: Status) -> Meeting:
        return "settles" if row is not None else meet(row, outcome)

    return patch.object(correlate, "meet", anything)


@mutant()
def callback_that_settles_nothing_is_not_told() -> Patch:
    async def tell(self: Correlation, *args: Any) -> None: ...

    return patch.object(Correlation, "_tell", tell)


@mutant(rare)
def parked_is_paid_twice() -> Patch:
    return patch.object(budget, "unbook", lambda state, booked: state)


@mutant()
def estimate_booked_for_actual() -> Patch:
    return patch.object(answer, "_bounded", lambda said, estimated: estimated)


@mutant(rare)
def results_all_have_one_version() -> Patch:
    return patch.object(Correlation, "_version", lambda self, callback, row: 1)
