"""A producer that publishes invalid records without end: its lane is suspended, and the records
wait in Kafka.
"""

import asyncio

import pytest

from stream_app.domain.lane.lane import lifted
from stream_app.domain.limits.suspension import FloodGuardPolicy
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import virtual_time

RUN = 5
BAD = {
    "no such destination": (
        {"lead_id": "x", "destination": "peple", "fields": {"email": "a@example.com"}},
        b"acme",
    ),
    "no_identity": ({"workspace": "acme", "fields": {"title": "CEO"}}, None),
    "too large": ({"lead_id": "x", "fields": {"note": "x" * 9_000}}, b"acme"),
    "no lead": ([], b"acme"),
}


class Guarded(Bench):
    """The lane of acme stops after `RUN` dead letters."""

    def __init__(self, setup: Setup | None = None) -> None:
        super().__init__(setup or Setup(callbacks=False), clay_takes_s=0.1)
        self.change_workspaces(flood_guard=FloodGuardPolicy(run=RUN))

    def publish_bad(self, kind: str, count: int) -> None:
        document, key = BAD[kind]
        for _ in range(count):
            self.produce(document, key=key)

    @property
    def rejected(self) -> int:
        dead_letters = len(self.dead_letters(self.plan.topics.dlq))
        assert self.states().count("rejected_invalid") == dead_letters
        return dead_letters

    def resume(self) -> None:
        lanes = self.partition.state.lanes
        lanes["acme"] = lifted(lanes["acme"])
        self.partition.state.admission.ask_again()


@pytest.mark.parametrize("kind", BAD)
@virtual_time
async def test_a_flood_of_invalid_records_suspends_the_lane(kind: str) -> None:
    bench = Guarded()
    bench.publish_bad(kind, 3 * RUN)
    bench.publish("id0", "p0")
    await bench.serve_for(60.0)
    assert bench.rejected == RUN
    stop = bench.partition.state.lanes["acme"].suspension
    assert stop is not None
    assert stop.reason == "flood_guard"
    assert f"{RUN} leads in a row became dead letters" in stop.text
    assert bench.stream.committed() == RUN, "the others wait on Kafka"
    await asyncio.sleep(300.0)
    assert bench.rejected == RUN + 1, "one now and then, as the probe"
    bench.resume()
    await asyncio.sleep(1.0)
    assert bench.rejected == 2 * RUN + 1
    bench.resume()
    await asyncio.sleep(10.0)
    assert bench.rejected == 3 * RUN
    assert bench.states()[-3:] == ["received", "sending", "accepted"]


@virtual_time
async def test_a_good_lead_behind_them_is_the_probe_that_lets_the_lane_go_on() -> None:
    bench = Guarded()
    bench.publish_bad("no_identity", RUN)
    bench.publish("id0", "p0")
    bench.publish_bad("no_identity", RUN - 1)
    bench.publish("id1", "p1")
    await bench.serve_for(60.0)
    assert bench.clay.bodies == []
    await asyncio.sleep(300.0)
    assert len(bench.clay.bodies) == 2
    assert bench.rejected == 2 * RUN - 1


@pytest.mark.parametrize(
    "setup",
    [Setup(shared=True, callbacks=False), Setup(hold="degrade", callbacks=False)],
)
@virtual_time
async def test_rejected_records_do_not_wait_where_leads_must_not_wait(setup: Setup) -> None:
    bench = Guarded(setup)
    bench.publish_bad("no_identity", 3 * RUN)
    await bench.serve_for(10.0)
    assert bench.rejected == 3 * RUN


@virtual_time
async def test_waiting_rejects_do_not_delay_a_suspension_and_are_reported_once() -> None:
    bench = Guarded()
    bench.publish_bad("no_identity", RUN + 1)
    serving = await bench.serve()
    await asyncio.sleep(10.0)
    await bench.leave(serving)
    assert bench.stream.committed() == RUN
    await bench.partition.close()
    bench.start_over()
    await bench.serve_for(10.0)
    assert bench.rejected == RUN
    await asyncio.sleep(400.0)
    assert bench.rejected == RUN + 1


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("before", "stops"), [(RUN - 1, True), (RUN - 2, False)])
@virtual_time
async def test_the_dead_letters_that_another_worker_wrote_count(
    kind: str,
    before: int,
    stops: bool,
) -> None:
    bench = Guarded()
    bench.publish_bad(kind, before)
    serving = await bench.serve()
    await asyncio.sleep(5.0)
    assert bench.rejected == before
    await bench.leave(serving)
    await bench.partition.close()
    bench.start_over()
    await bench.serve()
    bench.publish_bad(kind, 1)
    await asyncio.sleep(5.0)
    assert bench.rejected == before + 1
    assert (bench.partition.state.lanes["acme"].suspension is not None) == stops


@virtual_time
async def test_bad_records_of_an_unknown_workspace_stop_no_lane() -> None:
    bench = Guarded()
    for _ in range(2 * RUN):
        bench.produce({}, key=b"no_identity")
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    assert bench.rejected == 2 * RUN
    assert len(bench.clay.bodies) == 1


@virtual_time
async def test_rejected_records_do_not_count_as_unanswered_requests() -> None:
    bench = Guarded()
    bench.change_workspaces(flood_guard=FloodGuardPolicy())
    bench.publish_bad("no_identity", 20)
    await bench.serve_for(3.0)
    bench.publish("id0", "p0")
    await asyncio.sleep(1.0)
    assert len(bench.clay.bodies) == 1
    assert "held_outage" not in bench.states()
