"""Short storms of callbacks, which the simulated Clay sends with the defaults of its column.

`python -m tests.e2e.callback_storm` runs the long ones and prints their figures.
"""

import pytest

from tests.e2e.callback_storm import Column, Disturbance, Plan, storm


@pytest.mark.long
@pytest.mark.timeout(360)
@pytest.mark.parametrize("disturb", ["kafka", "one"])
async def test_none_is_missing_while_kafka_or_one_of_two_gateways_is_away(
    disturb: Disturbance,
) -> None:
    result = await storm(Plan(burst=100, per_s=50, seconds=20, disturb=disturb, away_s=10))
    assert result.sent == 1_100
    assert result.missing == set()
    assert result.lost == set()
    if disturb == "kafka":
        assert max(ended - began for began, ended, _, _ in result.attempts) > 5, "it was away"
    else:
        killed_s, _ = result.disturbed
        assert sum(began > killed_s for began, *_ in result.attempts) > 500, "one was away"


@pytest.mark.long
@pytest.mark.timeout(360)
async def test_only_what_came_while_no_gateway_ran_is_missing() -> None:
    result = await storm(Plan(burst=100, per_s=50, seconds=20, disturb="only"))
    assert result.sent == 1_100
    assert result.lost == set()
    assert result.missing <= result.in_the_gap
    assert result.in_the_gap, "the disturbance was one"


@pytest.mark.long
@pytest.mark.timeout(360)
@pytest.mark.parametrize("column", ["well_set", "patient", "impatient", "single"])
async def test_none_is_missing_whatever_the_column_does_that_clay_does_not_document(
    column: Column,
) -> None:
    plan = Plan(burst=100, per_s=50, seconds=20, disturb="kafka", away_s=10, column=column)
    result = await storm(plan)
    assert result.sent == 1_100
    assert result.missing == set()
    assert result.lost == set()
    statuses = {status for _, _, status, _ in result.attempts}
    timeouts = {"impatient": {"ETIMEDOUT"}, "single": {"ECONNABORTED"}}
    assert statuses == {200} | timeouts.get(column, set()), "Kafka was away for longer than 5 s"
