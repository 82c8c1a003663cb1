"""Kills at the lane's rate: few leads stay without an answer, and the rate holds when the others
come back.
"""

import asyncio
import random

import pytest

from stream_app.domain.model.outcome import Outcome
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.clay import SlowClay
from tests.support.partition.virtual import virtual_time

KILLS = 20
LEADS = 40


@pytest.mark.parametrize("seed", [1, 2, 3])
@virtual_time
async def test_a_kill_after_a_burst_leaves_few_leads_uncertain(seed: int) -> None:
    """The bucket filled while the worker started, and then leads came.

    Little's law: 10/s for 0.2 s are 2 in flight.
    """
    chance = random.Random(seed)
    lost = list[int]()
    bench = await Bench.started(
        Setup(rate_per_s=10.0, burst=20, max_in_flight=100, callbacks=False),
        clay_takes_s=0.2,
    )
    for kill in range(KILLS):
        await asyncio.sleep(3.0)
        for number in range(LEADS):
            bench.publish(f"{kill}-{number}", f"p{kill}-{number}")
        await asyncio.sleep(chance.uniform(0.05, 1.5))
        await bench.kill()
        await bench.start()
        before = sum(lost)
        await asyncio.sleep(0.5)
        lost.append(bench.states().count("send_uncertain") - before)
        await asyncio.sleep(6.0)
    assert max(lost) <= 10
    assert sum(lost) / KILLS <= 6.0
    assert bench.states().count("accepted") == KILLS * LEADS - sum(lost), "all others go"


class TimedClay(SlowClay):
    """Notes when each lead comes."""

    def __init__(self, takes_s: float) -> None:
        super().__init__(takes_s)
        self.came_s: list[float] = []

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.came_s.append(asyncio.get_running_loop().time())
        return await super().send(destination, webhook_id, body, trace_id)


@pytest.mark.parametrize("killed_after_s", [0.55, 1.5, 3.0])
@virtual_time
async def test_the_rate_holds_when_100_leads_come_back_at_once_after_a_crash(
    killed_after_s: float,
) -> None:
    """Clay's bucket does not know that another worker sends: no window has more than its burst and
    what flows in.
    """
    rate_per_s = 10.0
    burst = 20
    bench = Bench(Setup(rate_per_s=rate_per_s, burst=burst, max_in_flight=100, callbacks=False))
    clay = TimedClay(0.2)
    bench.clay = clay
    await bench.start()
    await asyncio.sleep(3.0)
    for number in range(100 + burst + round(rate_per_s * killed_after_s)):
        bench.publish(f"{number}", f"p{number}")
    await asyncio.sleep(killed_after_s)
    before = len(clay.came_s)
    await bench.kill()
    await bench.start()
    await asyncio.sleep(20.0)
    assert before >= 5
    assert len(clay.came_s) - before >= 95, "what the first worker had not sent comes back"
    for first, since_s in enumerate(clay.came_s):
        for number, at_s in enumerate(clay.came_s[first:], 1):
            assert number <= burst + rate_per_s * (at_s - since_s) + 1
    assert len(set(clay.bodies)) == len(clay.bodies), "none is sent twice"
