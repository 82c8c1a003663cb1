"""A dead-lettered lead is published again at any time of its replay: it is POSTed once more at most, and ends once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.simulation.campaign import counted, run
from tests.simulation.parts import each_part, of_part
from tests.simulation.republished import perhaps_at_clay, republished, sent_back
from tests.simulation.schedule import Schedule
from tests.simulation.world import simulate

Family = Callable[[], Iterable[Schedule]]


@pytest.mark.parametrize("family", [republished, sent_back, perhaps_at_clay])
def test_no_time_of_the_publication_breaks_a_promise(family: Family) -> None:
    assert run(list(family())) == []


def end_of(schedule: Schedule) -> str:
    """What became of the dead letter and of the publication."""
    text = "\n".join(simulate(schedule, trace=True).trace)
    return next((reason for reason in ("published_again", "may_be_at_clay", "same_lead_id") if reason in text), "")


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        (republished, {"published_again", "same_lead_id"}),
        (sent_back, {"published_again", "same_lead_id", "may_be_at_clay"}),
        (perhaps_at_clay, {"may_be_at_clay"}),
    ],
)
def test_the_schedules_reach_each_end(family: Family, ends: set[str]) -> None:
    assert {end_of(schedule) for schedule in list(family())[::4]} >= ends


@each_part
def test_each_await_around_a_replaced_dead_letter_is_broken_once(part: str) -> None:
    schedules = list(counted("republished"))
    assert len(schedules) > 500
    assert run(of_part(part, schedules)) == []
