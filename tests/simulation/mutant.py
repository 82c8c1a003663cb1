"""What a mutant is: a way to break the line, the schedules to hunt it with, and how it is found
out.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

import msgspec

from stream_app.domain.delivery import recorder as history
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.model.messages import Status
from tests.simulation.campaign import counted, run
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Fault, Schedule, Setup, drawn
from tests.simulation.world import Outcome, simulate

Patch = AbstractContextManager[Any]
Make = Callable[[], Patch]


@dataclass(frozen=True, slots=True)
class Mutant:
    """`breaks`: the promises of which it breaks one, by the checker's numbers; `rest`: that
    everything comes to rest.

    hunt  the family of schedules that such a mistake shows in; drawn ones where nearly any will do.
    """

    make: Make
    breaks: tuple[str, ...]
    hunt: Callable[[], Iterable[Schedule]]


MUTANTS: Final[dict[str, Mutant]] = {}


def run_mutant(name: str, schedule: Schedule, trace: bool = False) -> Outcome:
    """The schedule on the broken line."""
    with MUTANTS[name].make():
        return simulate(schedule, trace)


def caught(name: str) -> tuple[str, str] | None:
    """The first schedule of its family in which the mutant breaks a promise that it should break,
    and how.

    Another one does not count, and an error in the line least of all: that would be found without a
    checker.
    """
    mutant = MUTANTS[name]
    hunt = list(mutant.hunt())
    with mutant.make():
        problems = run(hunt, until=lambda problem: problem.partition(":")[0] in mutant.breaks)
    return problems[-1] if problems and problems[-1][1].partition(":")[0] in mutant.breaks else None


def mutant(
    *breaks: str,
    hunt: Callable[[], Iterable[Schedule]] = lambda: map(drawn, range(1000)),
) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        MUTANTS[make.__name__] = Mutant(make, breaks, hunt)
        return make

    return register


def family(base: str, kind: str) -> Callable[[], Iterable[Schedule]]:
    """The counted schedules of one base and one kind of fault."""
    return lambda: (schedule for schedule in counted(base) if f"/{kind}@" in schedule.name)


def unguarded(broken: Patch) -> Patch:
    """Broken, and the guard away that would end the process at the first illegal step."""

    def moved(row: Delivery, state: Status, now_ms: int, **changes: object) -> Delivery:
        return msgspec.structs.replace(row, state=state, seq=row.seq + 1, at_ms=now_ms, **changes)

    stack = ExitStack()
    stack.enter_context(patch.object(history, "moved", moved))
    stack.enter_context(broken)
    return stack


def shuffled() -> Iterable[Schedule]:
    return (replace(drawn(seed), shuffle=0.5) for seed in range(3_000))


def crowd_at_a_rebalance() -> Iterable[Schedule]:
    """More leads than the bucket has tokens, and a partition that changes hands at once."""
    crowd = tuple(Arrival(0.0, "acme", f"id{number}", f"p{number}") for number in range(6))
    setup = Setup(callbacks=False, rate_per_s=1.0, burst=2)
    return (
        Schedule(
            f"crowd/{step}",
            setup=setup,
            arrivals=crowd,
            faults=(Fault(step, "rebalance"),),
            reopen=True,
        )
        for step in range(20, 200, 4)
    )


def dead_lettered_again() -> Iterable[Schedule]:
    """One lead that Clay always refuses: each try makes a dead letter, and each dead letter comes
    back twice.

    In shadow the breaker takes none of its failures for an outage, in which no dead letters are
    written.
    """
    lead = Arrival(0.0, "acme", "id0", "p0")
    order = Order(0.0, "acme", "shadow")
    setup = Setup(callbacks=False, max_attempts=1, max_replays=2)
    return (
        Schedule(
            f"lettered/{seed}",
            seed,
            setup,
            (lead,),
            ("busy",) * 12,
            orders=(order,),
            replay_again=1.0,
        )
        for seed in range(20)
    )
