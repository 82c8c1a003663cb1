"""Several lanes in one partition: nothing is lost or sent twice, and a well lane is not delayed."""

from typing import Final

import pytest

from tests.simulation.campaign import explain, run
from tests.simulation.neighbours import crowded, troubled
from tests.simulation.parts import each_part, of_part
from tests.simulation.schedule import Schedule
from tests.simulation.world import World

SCHEDULES: Final = 120


def assert_whole(schedules: list[Schedule]) -> None:
    if failures := run(schedules):
        pytest.fail(f"{len(failures)} failed; the first: {failures[0]}\n{explain(failures[0][0])}", pytrace=False)


@each_part
def test_lanes_that_share_a_partition_lose_nothing_and_send_nothing_twice(part: str) -> None:
    assert_whole([crowded(seed) for seed in of_part(part, range(SCHEDULES))])


def test_a_healthy_lane_is_not_affected_by_its_neighbours() -> None:
    assert_whole([troubled(number) for number in range(60)])


def test_in_most_of_them_leads_are_deferred() -> None:
    worlds = [World(troubled(number)) for number in range(40)]
    assert all(not world.run().problems for world in worlds)
    deferred = [
        any(event.status == "deferred" for history in world.checker.histories.values() for event in history.events)
        for world in worlds
    ]
    assert sum(deferred) > 20
