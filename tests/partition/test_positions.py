"""How far a worker has read and taken the records of its partition, as the views of its lanes say
it.
"""

import asyncio
from typing import Any

import msgspec

from stream_app.domain.views.backlog import positions_of
from stream_app.domain.views.lane import LaneView, Position
from tests.simulation.account_ledger import untaken_by_views
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.kafka import Losing
from tests.support.partition.virtual import virtual_time

_VIEW = msgspec.json.Decoder(LaneView)


class Shared(Bench):
    """acme and gamma live in one partition. acme sends a lead in ten seconds, gamma as many as
    come.
    """

    def __init__(self, **setup: Any) -> None:
        shared = Setup(shared=True, callbacks=False, patience_s=600.0, **setup)
        super().__init__(shared, clay_takes_s=0.1)

    def slow_down(self) -> None:
        """Let acme send one lead in ten seconds."""
        acme = self.plan.workspaces["acme"]
        rate = msgspec.structs.replace(acme.rate, rate_per_s=0.1, burst=1)
        self.plan.workspaces["acme"] = msgspec.structs.replace(acme, rate=rate)

    def leads(self, workspace: str, *numbers: int) -> None:
        """Publish a lead for each number of this range."""
        for number in range(*numbers):
            lead_id = f"{workspace}{number}"
            lead = {
                "lead_id": lead_id,
                "workspace": workspace,
                "fields": {"email": f"{lead_id}@example.com"},
            }
            self.produce(lead, key=workspace.encode())

    @property
    def taken(self) -> set[str]:
        """The leads that have an event."""
        return {event.lead_id for event in self.events()}

    def positions(self) -> dict[str, Position]:
        """Those of partition 0, by topic."""
        log = self.kafka.log(self.plan.topics.lanes, 0).committed()
        views = {record.key: _VIEW.decode(record.value or b"") for record in log}
        return {topic: position for (topic, _), position in positions_of(views.values()).items()}

    def untaken(self) -> int:
        """The records that no worker has taken, as everyone counts them who reads Kafka only."""
        return sum(untaken_by_views(self.plan, self.kafka, "g").values())


@virtual_time
async def test_finished_leads_behind_one_that_waits_do_not_count() -> None:
    """Their offsets cannot be committed before its own."""
    bench = Shared()
    bench.slow_down()
    await bench.start()
    bench.leads("acme", 3)
    bench.leads("gamma", 6)
    await asyncio.sleep(8.0)
    assert {f"gamma{number}" for number in range(6)} <= bench.taken
    assert "acme2" not in bench.taken
    committed = bench.stream.committed() or 0
    assert 9 - committed > 9 - len(bench.taken), (
        "the group's offset stands before leads that are finished"
    )
    assert bench.untaken() == 9 - len(bench.taken)
    assert bench.positions()["leads"] == Position(9, 9 - len(bench.taken)), (
        "all were read, and some wait for their lane"
    )
    await asyncio.sleep(60.0)
    assert bench.untaken() == 0


@virtual_time
async def test_records_that_are_no_leads_are_taken_although_they_change_no_lane() -> None:
    bench = Shared()
    bench.slow_down()
    await bench.start()
    bench.leads("acme", 2)
    await asyncio.sleep(12.0)
    waiting = 2 - len(bench.taken)
    assert waiting == 1
    for _ in range(3):
        bench.produce(["no lead"], key=b"nobody")
    await asyncio.sleep(3.0)
    assert bench.positions()["leads"] == Position(5, waiting)
    assert bench.untaken() == waiting


@virtual_time
async def test_a_step_that_is_lost_takes_no_record() -> None:
    bench = await Shared.started()
    bench.leads("acme", 1)
    await asyncio.sleep(5.0)
    bench.store._link = Losing({0, 1, 2, 3})
    bench.leads("acme", 1, 2)
    await asyncio.sleep(1.0)
    assert bench.untaken() == 1
    assert bench.partition.state.intake.positions(["leads"]) == {"leads": Position(2, 1)}
    await asyncio.sleep(60.0)
    assert bench.untaken() == 0


@virtual_time
async def test_a_successor_says_what_it_finds_concluded_and_what_still_waits() -> None:
    bench = Shared()
    bench.slow_down()
    await bench.start()
    bench.leads("acme", 3)
    bench.leads("gamma", 6)
    await asyncio.sleep(8.0)
    await bench.kill()
    before = bench.untaken()
    assert before == 9 - len(bench.taken) > 0
    await bench.start()
    await asyncio.sleep(4.0)
    assert bench.untaken() == 9 - len(bench.taken)
    assert bench.positions()["leads"].offset == 9


@virtual_time
async def test_a_held_lead_is_taken_when_its_hold_is_recorded() -> None:
    """It counts among the held leads from then on, also by a successor, which reads it again."""
    bench = await Shared.started()
    await bench.order("pause")
    bench.leads("acme", 2)
    await asyncio.sleep(10.0)
    assert bench.states() == ["received", "held_paused"] * 2
    assert bench.untaken() == 0
    await bench.kill()
    await bench.start()
    await asyncio.sleep(10.0)
    assert bench.untaken() == 0
    assert bench.positions()["leads"] == Position(2)


@virtual_time
async def test_the_positions_of_a_quiet_partition_are_shown_by_one_lane_and_once() -> None:
    bench = await Shared.started(lanes=20)
    bench.leads("acme", 1)
    for number in range(20):
        bench.leads(f"lane{number}", 1)
    await asyncio.sleep(400.0)
    published = len(bench.kafka.log(bench.plan.topics.lanes, 0).committed())
    for _ in range(30):
        bench.produce(["no lead"], key=b"nobody")
        await asyncio.sleep(0.1)
    await asyncio.sleep(300.0)
    more = len(bench.kafka.log(bench.plan.topics.lanes, 0).committed()) - published
    assert 1 <= more <= 5, "not each lane, and not once for each record"
    assert bench.untaken() == 0
