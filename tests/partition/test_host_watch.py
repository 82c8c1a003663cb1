"""An outage of Clay's host: its end is found without wasted leads, and what the host says proves nothing."""

import asyncio
from collections import Counter

import msgspec
import pytest

from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.model.outcome import Accepted, Outcome, Refused
from tests.partition.test_owner import Bench, SlowClay
from tests.partition.virtual import virtual_time
from tests.simulation.schedule import Setup


class IllClay(SlowClay):
    """Answers within 0.1 s, with 503 while it is down."""

    down = False
    host_answers_meanwhile = False
    checks = 0

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        await asyncio.sleep(0.1)
        self.bodies.append(body)
        return Refused("http_503", 100, 503) if self.down else Accepted(200, 100)

    async def host_answers(self, destination: str) -> bool:
        self.checks += 1
        await asyncio.sleep(0.05)
        return not self.down or self.host_answers_meanwhile


@pytest.mark.parametrize("host_answers", [False, True])
@virtual_time
async def test_an_outage_wastes_few_calls_and_no_lead(host_answers: bool) -> None:
    """A minute of 503: the host is back when Clay is, or it was never away and only a probe can show the end."""
    bench = Bench(Setup(rate_per_s=8.0, burst=10, max_in_flight=100, callbacks=False))
    bench.clay = clay = IllClay()
    clay.host_answers_meanwhile = host_answers
    bench.partition = bench.owner()
    name, workspace = next(iter(bench.plan.workspaces.items()))
    bench.plan.workspaces[name] = msgspec.structs.replace(workspace, breaker=BreakerPolicy())
    for number in range(900):
        bench.publish(f"id{number}", f"p{number}")
    await bench.serve()
    await asyncio.sleep(10.0)
    assert clay.checks == 0, "a healthy lane asks nothing"
    clay.down, before = True, len(clay.bodies)
    await asyncio.sleep(60.0)
    clay.down, wasted = False, len(clay.bodies) - before
    assert wasted <= (20 if host_answers else 14)
    assert clay.checks >= 30
    before = bench.states().count("accepted")
    await asyncio.sleep(5.2 if host_answers else 1.5)
    assert bench.states().count("accepted") > before
    await asyncio.sleep(5.0)
    checks = clay.checks
    await asyncio.sleep(30.0)
    assert clay.checks == checks
    assert Counter(bench.states())["dead_lettered"] == 0
    assert bench.alarms == []
