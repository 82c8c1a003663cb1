"""The timer of the lanes: each is looked at when its time has come, and all of them after a step of the clock."""

import asyncio

import msgspec
import pytest

from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.partition.lane_queue import LaneTimer
from tests.partition.test_owner import Bench as PartitionBench
from tests.partition.virtual import VirtualClock, now_ms, virtual_time


class SteppingClock(VirtualClock):
    """A wall clock that an administrator sets back; the loop's time goes on."""

    stepped_ms = 0

    def now_ms(self) -> int:
        return now_ms() + self.stepped_ms


class Bench:
    def __init__(self) -> None:
        self.clock = SteppingClock()
        self.looks: list[tuple[str, float]] = []
        self.began_ms = now_ms()
        self.timer = LaneTimer(self.clock, self._look, lambda: self._look("all"))

    def _look(self, name: str) -> None:
        self.looks.append((name, (now_ms() - self.began_ms) / 1000))

    def set(self, name: str, in_s: float | None) -> None:
        now = self.clock.now_ms()
        self.timer.set(name, None if in_s is None else now + int(in_s * 1000), now)


@virtual_time
async def test_each_lane_is_looked_at_when_its_time_has_come() -> None:
    bench = Bench()
    for name, in_s in (("late", 3.0), ("early", 1.0), ("never", 2.0), ("moved", 9.0)):
        bench.set(name, in_s)
    bench.set("never", None)
    bench.set("moved", 2.5)
    await asyncio.sleep(60)
    assert bench.looks == [("early", 1.0), ("moved", 2.5), ("late", 3.0)], "not before, not after, and once"


@virtual_time
async def test_all_lanes_are_looked_at_after_the_clock_was_set_back() -> None:
    """Their times are far away now, although the holds that they wait for may have ended."""
    bench = Bench()
    bench.set("first", 1.0)
    await asyncio.sleep(2)
    bench.set("held", 10.0)
    bench.clock.stepped_ms = -3_600_000
    await asyncio.sleep(58)
    assert bench.looks == [("first", 1.0), ("all", 12.0)]


@virtual_time
async def test_a_lane_is_not_forgotten_when_the_clock_is_set_back_before_a_far_time() -> None:
    """A timer runs for a minute at most, so that a step is seen although no lane was due."""
    bench = Bench()
    bench.set("first", 1.0)
    await asyncio.sleep(2)
    bench.set("held", 3_600.0)
    bench.clock.stepped_ms = -7_200_000
    await asyncio.sleep(59)
    assert bench.looks == [("first", 1.0)]
    await asyncio.sleep(2)
    assert bench.looks == [("first", 1.0), ("all", 62.0)]


@virtual_time
async def test_nothing_is_looked_at_after_a_clear() -> None:
    bench = Bench()
    bench.set("held", 10.0)
    bench.timer.clear()
    await asyncio.sleep(60)
    assert bench.looks == []


@pytest.mark.parametrize("policy", [BudgetPolicy(), BudgetPolicy(credits_per_month=10_000)])
@virtual_time
async def test_a_lane_that_a_clock_held_goes_on_a_second_after_the_clock_is_right(
    policy: BudgetPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = PartitionBench(clay_takes_s=0.1)
    bench.plan.workspaces["acme"] = msgspec.structs.replace(bench.plan.workspaces["acme"], budget=policy)
    clock = SteppingClock()
    monkeypatch.setattr(VirtualClock, "now_ms", lambda _: clock.now_ms())
    to_midnight_ms = -now_ms() % 86_400_000
    await asyncio.sleep(to_midnight_ms / 1000)
    serving = await bench.serve()
    bench.publish("first", "ada")
    await asyncio.sleep(5)
    clock.stepped_ms = -3_600_000
    bench.publish("second", "bob")
    await asyncio.sleep(8)
    held = policy.credits_per_month is not None
    assert len(bench.clay.bodies) == 1 + (not held)
    clock.stepped_ms = 0
    await asyncio.sleep(1.5)
    assert len(bench.clay.bodies) == 2
    serving.cancel()
