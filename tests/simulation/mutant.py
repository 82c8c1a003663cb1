"""What a mutant is: a way to break the line, the schedules to hunt it with, and how it is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.simulation.campaign import counted, run
from tests.simulation.schedule import Arrival, Fault, Schedule, Setup, drawn
from tests.simulation.world import Outcome, simulate

Patch = AbstractContextManager[Any]
Make = Callable[[], Patch]


@dataclass(frozen=True, slots=True)
class Mutant:
    """`hunt`: the family of schedules that such a mistake shows in; drawn ones where nearly any will do."""

    make: Make
    hunt: Callable[[], Iterable[Schedule]]


MUTANTS: Final[dict[str, Mutant]] = {}


def run_mutant(name: str, schedule: Schedule, trace: bool = False) -> Outcome:
    """The schedule on the broken line."""
    with MUTANTS[name].make():
        return simulate(schedule, trace)


def caught(name: str) -> tuple[str, str] | None:
    """The first schedule of its family that finds the mutant out, and the promise that it breaks."""
    hunt = list(MUTANTS[name].hunt())
    with MUTANTS[name].make():
        return next(iter(run(hunt, first_only=True)), None)


def mutant(hunt: Callable[[], Iterable[Schedule]] = lambda: map(drawn, range(1000))) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        MUTANTS[make.__name__] = Mutant(make, hunt)
        return make

    return register


def family(base: str, kind: str) -> Callable[[], Iterable[Schedule]]:
    """The counted schedules of one base and one kind of fault."""
    return lambda: (schedule for schedule in counted(base) if f"/{kind}@" in schedule.name)


def shuffled() -> Iterable[Schedule]:
    return (replace(drawn(seed), shuffle=0.5) for seed in range(3_000))


def crowded() -> Iterable[Schedule]:
    """More leads than the bucket has tokens, and a partition that changes hands at once."""
    crowd = tuple(Arrival(0.0, "acme", f"id{number}", f"p{number}") for number in range(6))
    setup = Setup(callbacks=False, rate_per_s=1.0, burst=2)
    return (
        Schedule(f"crowd/{step}", setup=setup, arrivals=crowd, faults=(Fault(step, "rebalance"),), reopen=True)
        for step in range(20, 200, 4)
    )
