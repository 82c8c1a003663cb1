"""Families of schedules: budgets that bind, shared partitions, missed ends of transactions, dead
letters that return.

Some of those that `python -m tests.simulation` runs.
"""

from collections.abc import Callable, Iterable
from operator import methodcaller
from typing import Final
from unittest.mock import patch

import msgspec
import pytest

from stream_app.domain.limits import budget
from stream_app.domain.limits.budget import BudgetPolicy
from tests.simulation.campaign import counted, run
from tests.simulation.money import budgeted
from tests.simulation.neighbours import crowded, troubled
from tests.simulation.parts import assert_whole, each_part, of_part
from tests.simulation.recoveries import aborted, interrupted, missed_once, recovered
from tests.simulation.republished import perhaps_at_clay, republished, sent_back
from tests.simulation.runs import announced, routed
from tests.simulation.schedule import BREAKS, Schedule
from tests.simulation.world import simulate

BUDGETS: Final = 1_000
NEIGHBOURS: Final = 120
ROUTINES: Final = 300
Family = Callable[[], Iterable[Schedule]]


# ----------------------------------------------------------------------- leads that go to routines


@each_part
def test_the_runs_of_routines_settle_their_leads_once(part: str) -> None:
    """In half of them leads get results, whatever the polls of their runs meet."""
    schedules = [routed(seed) for seed in of_part(part, range(ROUTINES))]
    assert assert_whole(schedules)["enriched"] > len(schedules) / 3


@pytest.mark.parametrize("base", ["polled", "tworuns", "forgotten"])
def test_no_fault_in_a_poll_loses_a_result(base: str) -> None:
    assert_whole(list(counted(base))[::40])


@each_part
def test_announced_runs_settle_leads_whose_answer_was_lost(part: str) -> None:
    """In a third of them Clay's answer to a POST is lost, and the announcement shows its lead."""
    schedules = [announced(seed) for seed in of_part(part, range(ROUTINES))]
    met = assert_whole(schedules)
    assert met["callback"] > len(schedules) / 3
    assert met["unknown_run"] + met["result_gone"] > 0


@pytest.mark.parametrize("base", ["unnamed", "announced"])
def test_no_fault_loses_what_an_announcement_shows(base: str) -> None:
    assert_whole(list(counted(base))[::40])


# ------------------------------------------------------------------------------ a budget that binds


@each_part
def test_no_interleaving_overspends_or_wastes_a_budget(part: str) -> None:
    """In most of them the budget binds."""
    schedules = [budgeted(number) for number in of_part(part, range(BUDGETS))]
    assert assert_whole(schedules)["held_budget"] > len(schedules) / 2


def test_an_overspent_and_a_wasted_budget_are_found_out() -> None:
    real = budget.reserve

    def generous(policy: BudgetPolicy, *rest: object) -> object:
        return real(
            msgspec.structs.replace(policy, credits_per_day=(policy.credits_per_day or 0) + 20),
            *rest,  # type: ignore[arg-type]  # passed on
        )

    def wasteful(policy: BudgetPolicy, *rest: object) -> object:
        return real(msgspec.structs.replace(policy, credits_per_day=20), *rest)  # type: ignore[arg-type]  # passed on

    for broken, says in ((generous, "are allowed"), (wasteful, "were used")):
        with patch.object(budget, "reserve", broken):
            problems = run(
                [budgeted(number) for number in range(200)],
                until=methodcaller("__contains__", says),
            )
        assert any(says in problem for _, problem in problems), says


# ------------------------------------------------------------------- several lanes in one partition


@each_part
def test_lanes_that_share_a_partition_lose_nothing_and_send_nothing_twice(part: str) -> None:
    assert_whole([crowded(seed) for seed in of_part(part, range(NEIGHBOURS))])


def test_a_healthy_lane_is_not_affected_by_its_neighbours() -> None:
    """In most of them leads are deferred."""
    assert assert_whole([troubled(number) for number in range(60)])["deferred"] > 30


# --------------------------------- Kafka misses the end of a transaction, and take-overs break, too


@pytest.mark.parametrize("base", [*missed_once(), *aborted()[::4]], ids=lambda base: base.name)
def test_a_transaction_without_markers_keeps_its_outcome(base: Schedule) -> None:
    outcome = simulate(base, trace=True)
    assert not outcome.problems, "\n".join(outcome.trace)
    assert outcome.recovery_requests > 0


@each_part
def test_each_request_of_a_recovery_is_broken_once_and_three_times_in_a_row(part: str) -> None:
    schedules = [*interrupted(missed_once()[::4]), *interrupted(aborted()[::25])]
    assert {how for schedule in schedules for _, how in schedule.recovery} == set(BREAKS)
    assert len(schedules) > 500
    assert_whole(of_part(part, schedules))


@each_part
def test_drawn_schedules_with_missed_markers_and_broken_recoveries(part: str) -> None:
    assert_whole([recovered(seed) for seed in of_part(part, range(300))])


# --------------------- a dead-lettered lead is published again: POSTed once more at most, ends once


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        (republished, {"published_again", "same_lead_id"}),
        (sent_back, {"published_again", "same_lead_id", "may_be_at_clay"}),
        (perhaps_at_clay, {"may_be_at_clay"}),
    ],
)
def test_no_time_of_the_publication_breaks_a_promise(family: Family, ends: set[str]) -> None:
    """`ends`: what becomes of the dead letter and of the publication, in at least one of the
    schedules.
    """
    assert assert_whole(family()).keys() >= ends


# ----------------------------------------------------------------------- every await around a fault


@each_part
@pytest.mark.parametrize(
    ("base", "every"),
    [
        ("sick", 5),
        ("ordered", 3),
        ("corrected", 7),
        *((name, 5) for name in ("mixed", "linked", "apart", "grown", "merged")),
    ],
)
def test_orders_costs_and_persons_are_right_wherever_a_process_crashes(
    base: str,
    every: int,
    part: str,
) -> None:
    """Commands are obeyed, costs are corrected once, and no person is paid for twice."""
    assert_whole(of_part(part, list(counted(base))[::every]))


@each_part
def test_each_await_around_the_answer_of_a_failed_lead_is_broken_once(part: str) -> None:
    """The result comes once, and with its row."""
    schedules = list(counted("failed"))
    assert len(schedules) > 2_000
    assert_whole(of_part(part, schedules))


@each_part
def test_each_await_around_a_replaced_dead_letter_is_broken_once(part: str) -> None:
    schedules = list(counted("republished"))
    assert len(schedules) > 500
    assert_whole(of_part(part, schedules))


@each_part
@pytest.mark.parametrize(("base", "kind"), [("replaced", "freeze"), ("outlived", "rebalance")])
def test_a_row_that_is_taken_over_ends_its_history(base: str, kind: str, part: str) -> None:
    """A redelivered record of an ended history, whose row the next one had taken, got a history of
    its own.
    """
    schedules = [schedule for schedule in counted(base) if f"/{kind}@" in schedule.name]
    assert len(schedules) > 50
    assert_whole(of_part(part, schedules))
