"""Kafka misses the end markers of a transaction, and the take-overs after it break at each of their requests."""

import pytest

from tests.simulation.campaign import explain, run
from tests.simulation.parts import each_part, of_part
from tests.simulation.recoveries import aborted, interrupted, missed_once, recovered
from tests.simulation.schedule import BREAKS, Schedule
from tests.simulation.world import simulate


def assert_whole(schedules: list[Schedule]) -> None:
    if failures := run(schedules):
        text = explain(failures[0][0]) if failures[0][0].startswith("r") else ""
        pytest.fail(f"{len(failures)} of {len(schedules)} failed; the first: {failures[0]}\n{text}", pytrace=False)


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
