"""A partition is added to a running system, and every await of its owners is a crash point."""

from __future__ import annotations

import pytest

from tests.simulation.campaign import counted, explain, run
from tests.simulation.growth import growing, growth_bases
from tests.simulation.parts import each_part, of_part
from tests.simulation.schedule import Schedule
from tests.simulation.world import simulate

_EVERY = 24
"""One schedule in so many of those that are counted; `python -m tests.simulation --seed NAME` runs any of them."""


@pytest.mark.parametrize("base", growth_bases(), ids=lambda base: base.name)
def test_without_a_fault_growth_breaks_nothing(base: Schedule) -> None:
    outcome = simulate(base, trace=True)
    assert not outcome.problems, "\n".join(outcome.trace)


@each_part
@pytest.mark.parametrize("base", [base.name for base in growth_bases()])
def test_no_crash_breaks_growth(base: str, part: str) -> None:
    failures = run(of_part(part, list(counted(base))[::_EVERY]))
    assert not failures, f"{len(failures)} failed; the first: {failures[0]}\n{explain(failures[0][0])}"


@each_part
def test_no_drawn_schedule_with_growth_breaks_a_promise(part: str) -> None:
    failures = run([growing(number) for number in of_part(part, range(150))])
    assert not failures, f"{len(failures)} failed; the first: {failures[0]}\n{explain(failures[0][0])}"
