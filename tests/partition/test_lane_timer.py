"""The timer of the lanes: each is checked when its time has come, and all of them after a step of
the clock.
"""

import asyncio

import pytest

from stream_app.partition.lane_timer import LaneTimer
from tests.support.partition.virtual import VirtualClock, now_ms, virtual_time


class SteppingClock(VirtualClock):
    """A wall clock that an administrator sets back; the loop's time goes on."""

    stepped_ms = 0

    def now_ms(self) -> int:
        return now_ms() + self.stepped_ms


class TimedLanes:
    def __init__(self) -> None:
        self.clock = SteppingClock()
        self.checks: list[tuple[str, float]] = []
        self.began_ms = now_ms()
        self.timer = LaneTimer(self.clock, self._check, lambda: self._check("all"))

    def _check(self, name: str) -> None:
        self.checks.append((name, (now_ms() - self.began_ms) / 1000))

    def set(self, name: str, in_s: float | None) -> None:
        now = self.clock.now_ms()
        self.timer.set(name, None if in_s is None else now + int(in_s * 1000), now)


@virtual_time
async def test_each_lane_is_checked_when_its_time_has_come() -> None:
    bench = TimedLanes()
    for name, in_s in (("late", 3.0), ("early", 1.0), ("never", 2.0), ("moved", 9.0)):
        bench.set(name, in_s)
    bench.set("never", None)
    bench.set("moved", 2.5)
    await asyncio.sleep(60)
    bench.set("held", 10.0)
    bench.timer.clear()
    await asyncio.sleep(60)
    assert bench.checks == [("early", 1.0), ("moved", 2.5), ("late", 3.0)], (
        "not before, not after, and once"
    )


@pytest.mark.parametrize(("in_s", "seen_s"), [(10.0, 12.0), (3_600.0, 62.0)])
@virtual_time
async def test_all_lanes_are_checked_within_a_minute_after_the_clock_was_set_back(
    in_s: float,
    seen_s: float,
) -> None:
    """Their times are far away now, although the holds that they wait for may have ended."""
    bench = TimedLanes()
    bench.set("first", 1.0)
    await asyncio.sleep(2)
    bench.set("held", in_s)
    bench.clock.stepped_ms = -7_200_000
    await asyncio.sleep(61)
    assert bench.checks == [("first", 1.0), ("all", seen_s)]
