"""Every await is a crash point: 3,200 schedules.

`python -m tests.simulation` runs all that are counted, and more.
"""

import os
from collections.abc import Iterator
from itertools import chain, count, islice
from random import Random
from typing import Final

import pytest

from tests.simulation.all_mutants import MUTANTS
from tests.simulation.bases import bases
from tests.simulation.campaign import counted, explain, run_all
from tests.simulation.mutant import caught
from tests.simulation.parts import A_TENTH, THE_REST, each_part, of_part
from tests.simulation.schedule import Schedule, drawn
from tests.simulation.world import simulate

SCHEDULES: Final = 3_200
SECONDS: Final = 77.0
MIN_DRAWN: Final = 300
LONG_HUNTS: Final = {
    "acks_overtake_each_other",
    "any_copy_ends_the_grace",
    "callbacks_not_read_at_take_over",
    "dropped_marks_are_asked_for_again",
    "given_up_is_acked",
    "given_up_makes_no_room",
    "held_leads_are_kept_at_a_rebalance",
    "mark_of_a_replaced_history_missing",
    "mark_row_missing",
    "marks_are_asked_for_before_waiting",
    "retry_after_forgotten_with_memory",
}
"""The mutants that only hundreds of schedules find."""
_SHARES: Final = {"crash": 1 / 5, "freeze": 1 / 32, "stop": 1 / 32, "rebalance": 1 / 32}


def chosen() -> Iterator[Schedule]:
    """Of those that are counted: each request to the broker lost, a crash at one of five awaits,
    some of the rest.
    """
    chance = Random(7)
    for schedule in counted():
        fault = schedule.name.partition("/")[2].partition("@")[0]
        if chance.random() < _SHARES.get(fault, 1):
            yield schedule


@pytest.mark.timeout(480)  # its duration is checked at its end
@each_part
def test_no_schedule_breaks_a_promise(part: str) -> None:
    ran = 0

    def done(finished: int) -> None:
        nonlocal ran
        ran += finished

    cores = os.cpu_count() or 1
    before_s = _cpu_s()
    schedules = of_part(part, islice(chain(chosen(), map(drawn, count())), SCHEDULES))
    failures = run_all(iter(schedules), cores, done)
    if failures:
        pytest.fail(
            f"{len(failures)} schedules failed; the first: {failures[0]}\n"
            f"{explain(failures[0][0])}",
            pytrace=False,
        )
    assert ran == len(schedules)
    each_s = (_cpu_s() - before_s) / cores
    if part == THE_REST:  # of a tenth, the start of the processes is most
        most_s = SECONDS * ran / SCHEDULES
        assert each_s < most_s, f"{ran} schedules took {each_s:.0f} s of each of {cores} cores"


def test_the_parts_are_the_whole() -> None:
    tenth = of_part(A_TENTH, range(SCHEDULES))
    rest = of_part(THE_REST, range(SCHEDULES))
    assert len(tenth) == SCHEDULES / 10
    assert sorted(tenth + rest) == list(range(SCHEDULES))


def _cpu_s() -> float:
    """Of the processes that ran for this one: other work on the machine does not count."""
    used = os.times()
    return used.children_user + used.children_system


def test_the_drawn_ones_are_not_crowded_out() -> None:
    assert sum(1 for _ in chosen()) <= SCHEDULES - MIN_DRAWN


@pytest.mark.parametrize("base", bases(), ids=lambda base: base.name)
def test_without_a_fault_all_is_well(base: Schedule) -> None:
    outcome = simulate(base, trace=True)
    assert not outcome.problems, "\n".join(outcome.trace)
    assert outcome.posts > 0


@pytest.mark.parametrize("seed", [3, 14, 202])
def test_a_seed_replays_the_very_same_run(seed: int) -> None:
    first = simulate(drawn(seed), trace=True)
    second = simulate(drawn(seed), trace=True)
    assert first == second
    assert len(first.trace) > 10


def test_a_failure_is_reported_with_its_seed_line_by_line() -> None:
    text = explain("3")
    assert "python -m tests.simulation --seed 3" in text
    assert "event leads/" in text


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_HUNTS)) for name in MUTANTS],
)
def test_a_broken_line_is_found_out(name: str) -> None:
    assert caught(name) is not None, f"no schedule notices {name}: the simulation is blind to it"
