"""Interleavings of workers, crashes and leads for a budget that binds, on the rows and transactions of Kafka.

Some of the 10,000 that `python -m tests.simulation` runs.
"""

from operator import methodcaller
from unittest.mock import patch

import msgspec
import pytest

from stream_app.domain.lane import budget
from stream_app.domain.lane.budget import BudgetPolicy
from tests.simulation.campaign import explain, run
from tests.simulation.money import budgeted
from tests.simulation.parts import each_part, of_part
from tests.simulation.world import World

SCHEDULES = 1_500


@each_part
def test_no_interleaving_overspends_or_wastes_a_budget(part: str) -> None:
    failures = run([budgeted(number) for number in of_part(part, range(SCHEDULES))])
    if failures:
        pytest.fail(f"{len(failures)} failed; the first: {failures[0]}\n{explain(failures[0][0])}", pytrace=False)


@pytest.mark.slow
def test_in_most_of_them_the_budget_binds() -> None:
    worlds = [World(budgeted(number)) for number in range(200)]
    assert all(not world.run().problems for world in worlds)
    assert sum(world.checker.money.bound > 0 for world in worlds) > 100


def test_an_overspent_and_a_wasted_budget_are_found_out() -> None:
    real = budget.reserve

    def generous(policy: BudgetPolicy, *rest: object) -> object:
        return real(msgspec.structs.replace(policy, credits_per_day=(policy.credits_per_day or 0) + 20), *rest)  # type: ignore[arg-type]  # passed on

    def wasteful(policy: BudgetPolicy, *rest: object) -> object:
        return real(msgspec.structs.replace(policy, credits_per_day=20), *rest)  # type: ignore[arg-type]  # passed on

    for broken, says in ((generous, "are allowed"), (wasteful, "were used")):
        with patch.object(budget, "reserve", broken):
            found = run([budgeted(number) for number in range(200)], until=methodcaller("__contains__", says))
        assert any(says in problem for _, problem in found), says
