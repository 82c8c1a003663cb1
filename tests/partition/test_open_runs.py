"""What a partition knows of the runs of its leads, from their rows."""

import asyncio
from typing import Final

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery, delivery_key, item_id
from stream_app.domain.model.messages import Status
from stream_app.domain.model.outcome import Accepted, Uncertain
from stream_app.domain.model.run import RunFinished
from stream_app.domain.plan import Destination
from stream_app.partition import open_runs
from stream_app.partition.open_runs import OpenRuns, RoutinePlace
from tests.simulation.schedule import Setup, plan_of
from tests.support.partition.announced import ROUTINE, RoutineBench
from tests.support.partition.bench import LEAD, PAID, Bench
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import virtual_time


@virtual_time
async def test_only_some_settled_runs_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is forgotten is reported again, and that is all."""
    monkeypatch.setattr(open_runs, "MAX_SETTLED", 2)
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    for number in (0, 1, 2, 2, 0):
        bench.at_clay.last[f"run-{number}"] = RunFinished(())
        bench.announce(f"run-{number}")
        await bench.serve() if number == 0 and not bench.at_clay.asked else None
        await asyncio.sleep(2.0)
    assert bench.at_clay.runs == ["run-0", "run-1", "run-2", "run-0"]


@pytest.mark.parametrize("state", ["enriched", "partial", "no_data", "enrich_error"])
@virtual_time
async def test_an_announcement_that_comes_again_after_a_crash_is_known(state: Status) -> None:
    """The predecessor settled the lead, and was killed before its ack of the announcement."""
    bench = RoutineBench()
    bench.leave_row(state, run="run-1", reservation=None, booked=PAID, final=True)
    bench.announce("run-1")
    await bench.serve_for(10.0)
    assert bench.unmatched(0) == []
    assert bench.at_clay.asked == []
    topic = bench.plan.topics.callbacks
    assert bench.streams["callback"].committed() == bench.kafka.log(topic, 0).end


async def test_a_new_owner_remembers_the_runs_that_were_settled_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the bound, and those that are settled while the rows are read are the newest."""
    monkeypatch.setattr(open_runs, "MAX_SETTLED", 3)
    monkeypatch.setattr(open_runs, "_SLICE", 1)
    keys = [delivery_key("acme", "acme-main", f"id{number}") for number in range(5)]
    rows = {key: settled_row(f"run-{number}") for number, key in enumerate(keys)}
    runs = OpenRuns(plan_of(ROUTINE))
    place = RoutinePlace("acme", "acme-main")
    async with asyncio.TaskGroup() as group:
        group.create_task(runs.load(keys, rows.get))
        await asyncio.sleep(0)
        assert not runs.are_loaded.is_set()
        runs.note_settled(place, "run-now")
    begun = [*(f"run-{number}" for number in range(5)), "run-now"]
    known = [run for run in begun if runs.is_settled(place, run)]
    assert known == ["run-3", "run-4", "run-now"]


async def test_a_new_owner_takes_no_run_for_settled_whose_lead_is_open_or_gone() -> None:
    keys = [delivery_key("acme", "acme-main", f"id{number}") for number in range(2)]
    accepted = Delivery(ROW_VERSION, "accepted", LEAD, 3, 1, 1, "t", run="run-0")
    rows = {keys[0]: msgspec.json.encode(accepted)}
    runs = OpenRuns(plan_of(ROUTINE))
    await runs.load(keys, rows.get)
    assert runs.is_settled(RoutinePlace("acme", "acme-main"), "run-0") is False


def settled_row(run: str) -> bytes:
    row = Delivery(ROW_VERSION, "enriched", LEAD, 3, 1, 1, "t", final=True, run=run)
    return msgspec.json.encode(row)


@virtual_time
async def test_what_is_known_of_runs_follows_each_row_and_is_what_a_scan_would_find() -> None:
    """Leads of every kind, one of them parked, and the scan of the next owner."""
    clay = RoutineClay()
    clay.first = [Uncertain("reset", 1), Accepted(202, 1), Uncertain("reset", 1)]
    bench = Bench(ROUTINE, clay=lambda _: clay, runs=clay)
    bench.change_destination(poll_after_s=(20.0, 60.0), callback_deadline_s=1_000.0)
    await bench.serve()
    bench.publish_leads(6)
    await asyncio.sleep(15.0)
    runs = bench.partition.state.open_runs
    assert runs.open().keys() == {"acme-main"}
    await asyncio.sleep(30.0)
    scanned = OpenRuns(bench.plan)
    rows = bench.partition.state.rows
    await scanned.load(rows.leads(), rows.get)
    assert scanned._items == runs._items
    assert scanned._leads == runs._leads
    assert +scanned._in_doubt == +runs._in_doubt
    assert +scanned._sending == +runs._sending
    assert len(scanned._items) == 2, "of uncertain leads only"


UNCERTAIN: Final = b'[1,"send_uncertain","leads/0/0",3,1,1,"t",0,0,0,1,0,null,"w"]'


async def test_rows_of_webhooks_cost_nothing_here_until_a_routine_is_adopted() -> None:
    shared = plan_of(Setup())  # every test has this one
    plan = msgspec.structs.replace(shared, destinations=dict(shared.destinations))
    runs = OpenRuns(plan)
    key = Bench.key

    def read(_: bytes) -> bytes:
        raise AssertionError("no row is read")

    await runs.load([key], read)
    assert runs.are_loaded.is_set()
    runs.note(key, UNCERTAIN)
    assert runs._routines == {}, "nobody asks whose lead it is"
    plan.put_destination(Destination("finder", "acme", ("function:t_1",), kind="routine"))
    lead = delivery_key("acme", "finder", "id0")
    for row_key in (lead, key, b"d/none/none/id"):
        runs.note(row_key, UNCERTAIN)
    assert runs._items == {(("acme", "finder"), item_id(lead)): lead}
