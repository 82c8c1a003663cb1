"""Lanes move between partitions, and every await of both owners is a crash point."""

from __future__ import annotations

import pytest

from tests.simulation.campaign import counted, explain, run
from tests.simulation.moves import move_bases, moving
from tests.simulation.parts import each_part, of_part
from tests.simulation.schedule import Schedule
from tests.simulation.world import simulate

_EVERY = 24
"""One schedule in so many of those that are counted; `python -m tests.simulation --seed NAME` runs any of them."""


@pytest.mark.parametrize("base", move_bases(), ids=lambda base: base.name)
def test_without_a_fault_a_move_breaks_nothing(base: Schedule) -> None:
    outcome = simulate(base, trace=True)
    assert not outcome.problems, "\n".join(outcome.trace)
    assert outcome.posts > 0


@each_part
@pytest.mark.parametrize("base", [base.name for base in move_bases()])
def test_no_crash_breaks_a_move(base: str, part: str) -> None:
    failures = run(of_part(part, list(counted(base))[::_EVERY]))
    assert not failures, f"{len(failures)} failed; the first: {failures[0]}\n{explain(failures[0][0])}"


def test_a_worker_that_lost_its_partition_unseen_takes_in_no_part_of_a_move() -> None:
    """It was frozen, and another owner took in the part before. That is no bug: its next commit fails."""
    assert run([moving(914)]) == []


@each_part
def test_no_drawn_schedule_with_moves_breaks_a_promise(part: str) -> None:
    failures = run([moving(number) for number in of_part(part, range(150))])
    assert not failures, f"{len(failures)} failed; the first: {failures[0]}\n{explain(failures[0][0])}"
