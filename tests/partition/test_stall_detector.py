"""An outage of Clay, which refuses all requests or answers none: what it costs, and how its end is
found.
"""

import asyncio
from collections import Counter

import pytest

from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.model.outcome import Accepted, Outcome, Refused, Uncertain
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.clay import SlowClay
from tests.support.partition.virtual import virtual_time

TRIPS_AFTER = 5
PROBES = 2
TIMES_OUT_S = 30.0


class Hanging(SlowClay):
    """Answers within 0.2 s, unless it hangs: then the client gives up after 30 s."""

    hangs = False

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.bodies.append(body)
        if self.hangs:
            await asyncio.sleep(TIMES_OUT_S)
            return Uncertain("request_timeout", int(TIMES_OUT_S * 1000))
        await asyncio.sleep(0.2)
        return Accepted(200, 200)


@virtual_time
async def test_a_stalled_clay_gets_no_more_leads_than_trip_the_breaker() -> None:
    bench = Bench(
        Setup(rate_per_s=8.0, burst=2, max_in_flight=100, trips_after=TRIPS_AFTER, callbacks=False),
    )
    clay = Hanging()
    bench.clay = clay
    bench.partition = bench.owner()
    bench.publish_leads(200)
    await bench.serve_for(10.0)
    answered = len(clay.bodies)
    assert answered > 70, "all is well"
    clay.hangs = True
    await asyncio.sleep(TIMES_OUT_S - 1.0)
    assert len(clay.bodies) - answered <= TRIPS_AFTER + 2, (
        "and those of the time in which an answer may come"
    )
    held = [event for event in bench.events() if event.status == "held_outage"]
    assert [event.reason for event in held] == ["no_answer"], (
        "one lead says it, the others wait in Kafka"
    )
    seen = bench.partition.state.lanes.view("acme")
    assert seen.holds == "no_answer"
    assert seen.lifts[:16] == "the next answer;"
    await asyncio.sleep(3 * TIMES_OUT_S)
    assert bench.partition.state.lanes["acme"].breaker.phase != "closed", (
        "those that timed out are enough for it"
    )
    assert len(clay.bodies) - answered <= TRIPS_AFTER + 2 + 3 * PROBES
    clay.hangs = False
    await asyncio.sleep(120.0)
    lost = sum(event.status == "send_uncertain" for event in bench.events())
    assert lost <= TRIPS_AFTER + 2 + 3 * PROBES
    assert sum(event.status == "accepted" for event in bench.events()) == 200 - lost


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
    """A minute of 503: the host is back when Clay is, or it was never away and only a probe can
    show the end.
    """
    bench = Bench(Setup(rate_per_s=8.0, burst=10, max_in_flight=100, callbacks=False))
    clay = IllClay()
    bench.clay = clay
    clay.host_answers_meanwhile = host_answers
    bench.partition = bench.owner()
    bench.change_workspaces(breaker=BreakerPolicy())
    bench.publish_leads(900)
    await bench.serve_for(10.0)
    assert clay.checks == 0, "a healthy lane asks nothing"
    clay.down = True
    before = len(clay.bodies)
    await asyncio.sleep(60.0)
    clay.down = False
    wasted = len(clay.bodies) - before
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
