"""What kills leave without an answer: no more than rate and latency keep in flight."""

import asyncio
import random

import pytest

from tests.partition.test_commands import Bench
from tests.partition.virtual import virtual_time
from tests.simulation.schedule import Setup

KILLS = 20
LEADS = 40


@pytest.mark.parametrize("seed", [1, 2, 3])
@virtual_time
async def test_a_kill_after_a_burst_leaves_few_leads_uncertain(seed: int) -> None:
    """The bucket filled while the worker started, and then leads came. Little's law: 10/s for 0.2 s are 2 in flight."""
    chance, lost = random.Random(seed), list[int]()
    bench = Bench(Setup(rate_per_s=10.0, burst=20, max_in_flight=100, callbacks=False), clay_takes_s=0.2)
    await bench.start()
    for kill in range(KILLS):
        await asyncio.sleep(3.0)
        for number in range(LEADS):
            bench.publish(f"{kill}-{number}", f"p{kill}-{number}")
        await asyncio.sleep(chance.uniform(0.05, 1.5))
        await bench.kill()
        await bench.start()
        before = sum(lost)
        await asyncio.sleep(0.1)
        lost.append(bench.states().count("send_uncertain") - before)
        await asyncio.sleep(6.0)
    assert max(lost) <= 10
    assert sum(lost) / KILLS <= 6.0
    assert bench.states().count("accepted") == KILLS * LEADS - sum(lost), "all others go"
    assert bench.alarms == []
