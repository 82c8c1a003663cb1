"""The indexes of the plan: where workspaces live, which live together, and their destinations."""

import sys
from types import FrameType
from typing import Any

from stream_app.domain import policy
from stream_app.domain.lead.lead import home_partition
from stream_app.domain.policy import Destination, Plan, Workspace
from stream_app.domain.topics import TopicNames


def _plan(count: int, partitions: int = 8, pins: dict[str, int] | None = None) -> Plan:
    names = [f"w{number}" for number in range(count)]
    return Plan(
        topics=TopicNames(""),
        partitions=partitions,
        workspaces={name: Workspace(name, f"{name}-people") for name in names},
        destinations={f"{name}-people": Destination(f"{name}-people", name, ()) for name in names},
        pins=pins or {},
    )


def test_each_workspace_is_a_resident_of_its_home() -> None:
    plan = _plan(100, pins={"w3": 5})
    assert sorted(name for number in range(8) for name in plan.residents(number)) == sorted(plan.workspaces)
    for number in range(8):
        for name in plan.residents(number):
            assert plan.home_of(name) == home_partition(name, 8, plan.pins) == number
    assert "w3" in plan.residents(5)
    assert plan.home_of("a workspace that is not configured") in range(8)
    assert list(plan.residents(1_000)) == []


def test_a_workspace_that_is_added_live_is_a_resident_and_a_running_one_stays() -> None:
    plan = _plan(2, pins={"w0": 1, "w1": 1})
    plan.put_workspace(Workspace("new", ""), 1)
    assert list(plan.residents(1)) == ["w0", "w1", "new"]
    plan.put_workspace(Workspace("new", "elsewhere"), 2)
    assert (plan.home_of("new"), plan.workspaces["new"].default_destination) == (1, "elsewhere")
    assert list(plan.residents(2)) == []


def test_destinations_keep_the_order_of_the_configuration() -> None:
    plan = _plan(2)
    plan.put_destination(Destination("a-second", "w0", ()))
    plan.put_destination(Destination("w0-people", "w0", ("hook",)))
    assert [(there.alias, there.webhook_ids) for there in plan.destinations_of("w0")] == [
        ("w0-people", ("hook",)),
        ("a-second", ()),
    ]
    assert plan.destinations_of("unknown") == []


def test_look_ups_cost_the_same_with_a_hundred_times_more_workspaces() -> None:
    def events(plan: Plan) -> int:
        def look_up() -> None:
            for _ in range(3):
                plan.residents(1), plan.home_of("w7"), plan.destinations_of("w7")

        look_up()  # the first builds the indexes
        return _events_of(look_up)

    assert events(_plan(10_000)) == events(_plan(100))


def _events_of(look_up: Any) -> int:
    """The number of lines and calls of the plan that Python executes."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in (policy.__file__, __file__):  # such as a finalizer of another test's object
            return None
        seen += 1
        return trace

    sys.settrace(trace)
    try:
        look_up()
    finally:
        sys.settrace(None)
    return seen
