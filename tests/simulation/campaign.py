"""Many schedules: counted out and drawn, over several processes; and one again by its name, with
its trace.
"""

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from typing import Final

from tests.simulation.bases import (
    PREEMPTED,
    PREEMPTED_EVERYWHERE,
    bases,
    broken_once,
    preempted,
    rare,
)
from tests.simulation.money import budgeted
from tests.simulation.neighbours import crowded, troubled
from tests.simulation.recoveries import recovered
from tests.simulation.runs import announced, routed
from tests.simulation.schedule import Schedule, drawn
from tests.simulation.world import Outcome, simulate

Failure = tuple[str, str]
"""The schedule's name, and the first promise that it broke."""

_DRAWN: Final[dict[str, Callable[[int], Schedule]]] = {
    "b": budgeted,
    "n": crowded,
    "p": routed,
    "r": recovered,
    "t": troubled,
    "w": announced,
}
_CHUNK = 250
_COLLECT_EVERY = 50


def counted(only: str = "", *, thorough: bool = False) -> Iterator[Schedule]:
    """Every small schedule with one fault at every turn of a process, and one loss at every request
    to the broker.

    Two of them also with a crash at every turn, and one or two preemptions around it; thorough: all
    of them, and one with every single preemption near each crash. `only` those of one base; the
    rare ones come when they are asked for.
    """
    for base in (
        bases() if not only else [base for base in (*bases(), *rare()) if base.name == only]
    ):
        outcome = simulate(base)
        yield base
        yield from broken_once(base, outcome.turns, outcome.requests)
        if thorough or base.name in PREEMPTED:
            everywhere = thorough and base.name == PREEMPTED_EVERYWHERE
            yield from preempted(base, outcome.turns, everywhere=everywhere)


def named(name: str) -> Schedule:
    """The schedule of that name: a number is a seed, `fine/crash@57` a counted one."""
    if name.isdigit():
        return drawn(int(name))
    if name[1:].isdigit() and (draw := _DRAWN.get(name[0])) is not None:
        return draw(int(name[1:]))
    schedules = counted(name.partition("/")[0], thorough=True)
    wanted = next((schedule for schedule in schedules if schedule.name == name), None)
    if wanted is None:
        raise LookupError(
            f"no schedule is called {name}: a number, or a base and a fault such as fine/crash@57",
        )
    return wanted


def run(
    schedules: Sequence[Schedule],
    until: Callable[[str], bool] = lambda problem: False,
    done: Callable[[Outcome], object] = lambda outcome: None,
) -> list[Failure]:
    """Run them one after the other; returns those that broke a promise.

    Args:
        schedules: What to run.
        until: Whether a problem is the last one that is wanted.
        done: Called with the outcome of each.
    """
    failures: list[Failure] = []
    gc.disable()  # each run is a heap of cycles: collected between runs, which takes half the time
    try:
        for number, schedule in enumerate(schedules):
            outcome = simulate(schedule)
            done(outcome)
            if outcome.problems:
                failures.append((schedule.name, outcome.problems[0]))
                if until(outcome.problems[0]):
                    break
            if number % _COLLECT_EVERY == 0:
                gc.collect()
    finally:
        gc.enable()
    return failures


def run_all(
    schedules: Iterator[Schedule],
    processes: int,
    done: Callable[[int], None],
) -> list[Failure]:
    """Run them in several processes; `done` is called after each chunk.

    Stops early once something was found.
    """
    failures: list[Failure] = []
    # Not forked: the caller may have threads (a broker's client), and a fork of them can hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        chunks = iter(lambda: list(islice(schedules, _CHUNK)), [])
        running = {pool.submit(run, chunk): len(chunk) for chunk in chunks}
        for future in as_completed(running):
            failures += future.result()
            done(running[future])
            if failures:
                pool.shutdown(cancel_futures=True)
                break
    return failures


def explain(name: str) -> str:
    """Run it once more and tell what happened, line by line."""
    outcome = simulate(named(name), trace=True)
    return "\n".join(reported(name, outcome))


def reported(name: str, outcome: Outcome) -> Iterator[str]:
    yield f"Schedule {name}: python -m tests.simulation --seed {name}"
    yield "   seconds  who    what"
    yield from outcome.trace
    yield from (f"broken: {problem}" for problem in outcome.problems)
