"""When the results of a run are asked for, and what the lane shows of that."""

import asyncio

import pytest

from stream_app.domain.callback.schedule import next_poll_ms
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.run import RunUnfinished
from stream_app.domain.views.lane import RunsView
from tests.simulation.schedule import POLL_AFTER_S
from tests.support.partition.bench import LEAD
from tests.support.partition.routines import AT_CLAY, Routines
from tests.support.partition.virtual import now_ms, virtual_time


@virtual_time
async def test_polls_come_at_their_times_and_nothing_is_written_for_them() -> None:
    bench = Routines()
    bench.clay.finishes_s = 40.0
    bench.publish("id0", "p0")
    await bench.serve_for(3.0)
    accepted = bench.events(LEAD)[-1]
    committed = len(bench.committed(bench.plan.topics.state))
    await asyncio.sleep(30.0)
    polls_ms = bench.clay.polls["run_1"]
    destination = bench.plan.destinations["acme-main"]
    after_ms = accepted.at_ms
    assert len(polls_ms) == len(POLL_AFTER_S)
    for at_ms in polls_ms:
        after_ms = next_poll_ms("run_1", accepted.at_ms, None, destination, after_ms)
        assert after_ms <= at_ms <= after_ms + 10
    assert len(bench.committed(bench.plan.topics.state)) == committed


@pytest.mark.parametrize("finishes_s", [10.0, 30.0, 60.0, 120.0])
@virtual_time
async def test_a_routine_of_ten_seconds_to_two_minutes_takes_three_polls_at_most(
    finishes_s: float,
) -> None:
    bench = Routines()
    default = type(bench.plan.destinations["acme-main"])("x", "acme")
    bench.change_destination(
        poll_after_s=default.poll_after_s,
        callback_deadline_s=default.callback_deadline_s,
    )
    bench.clay.finishes_s = finishes_s
    bench.publish_leads(20)
    await bench.serve_for(300.0)
    assert len(bench.results()) == 20
    assert max(map(len, bench.clay.polls.values())) <= 3


@virtual_time
async def test_a_new_owner_asks_at_once_for_runs_whose_poll_has_passed() -> None:
    bench = Routines()
    bench.clay.finishes_s = 1.0
    await bench.one(for_s=2.0)
    await bench.kill()
    await asyncio.sleep(1_000.0)
    restarted_ms = now_ms()
    await bench.start()
    await asyncio.sleep(2.0)
    assert bench.states(LEAD)[-1] == "enriched"
    assert bench.clay.polls["run_1"][0] - restarted_ms < 1_000


@virtual_time
async def test_the_lane_shows_its_open_runs_and_the_next_poll() -> None:
    bench = Routines()
    bench.clay.finishes_s = 40.0
    bench.publish_leads(3)
    await bench.serve_for(3.5)
    destination = bench.plan.destinations["acme-main"]
    accepted = [bench.events(f"leads/0/{number}")[-1] for number in range(3)]
    first_ms = min(
        next_poll_ms(event.run, event.at_ms, None, destination, event.at_ms) for event in accepted
    )
    assert bench.shown().runs == RunsView(3, first_ms)
    await bench.kill()
    await bench.start()
    await asyncio.sleep(3.0)
    runs = bench.shown().runs
    assert runs is not None
    assert runs.open == 3, "a new owner has read them"
    await bench.settled(3)
    await asyncio.sleep(3.0)
    assert bench.shown().runs is None


@virtual_time
async def test_a_lane_in_which_runs_are_polled_only_shows_the_next_poll_after_a_minute() -> None:
    """Its leads wait, and for them it is written once a minute; nothing is written for a poll."""
    bench = Routines()
    bench.change_destination(
        poll_after_s=tuple(2.0 * number for number in range(1, 21)),
        callback_deadline_s=100_000.0,
    )
    bench.clay.finishes_s = 100_000.0
    bench.publish_leads(1)
    await bench.serve_for(3.0)
    before = len(bench.committed(bench.plan.topics.lanes))
    await asyncio.sleep(180.0)
    assert len(bench.clay.all_polls) == 20
    assert len(bench.committed(bench.plan.topics.lanes)) - before <= 4
    runs = bench.shown().runs
    assert runs is not None
    assert runs.next_ms > now_ms()


@virtual_time
async def test_twenty_polls_of_a_lane_at_most_are_under_way_while_clay_hangs() -> None:
    """The others follow as soon as these have ended, and none is forgotten."""
    bench = Routines()
    bench.change_workspaces(rate=RatePolicy(rate_per_s=20, burst=20))
    bench.publish_leads(50)
    await bench.serve_for(3.5)
    await bench.kill()
    await asyncio.sleep(5.0)
    assert bench.clay.polls == {}
    bench.clay.poll_s = 15.0
    await bench.start()  # each run is due
    await asyncio.sleep(10.0)
    assert len(bench.clay.all_polls) == 20
    await bench.settled(50, within_s=60.0)
    assert set(bench.clay.polls) == {f"run_{number}" for number in range(1, 51)}


@virtual_time
async def test_a_run_that_hangs_is_overdue_then_parked_and_polled_until_then() -> None:
    bench = Routines()
    bench.change_destination(callback_grace_s=7_200.0)
    await bench.one(RunUnfinished(), for_s=7_300.0)
    assert bench.states(LEAD) == [*AT_CLAY, "callback_overdue", "parked"]
    polls_ms = bench.clay.polls["run_1"]
    assert len(polls_ms) <= len(POLL_AFTER_S) + 5
    assert bench.events(LEAD)[-1].at_ms - polls_ms[-1] <= 61_000


@virtual_time
async def test_a_run_that_finishes_in_its_grace_settles_its_lead() -> None:
    bench = Routines()
    bench.change_destination(callback_grace_s=72_000.0)
    bench.clay.finishes_s = 4_000.0
    await bench.one(for_s=8_000.0)
    assert bench.states(LEAD) == [*AT_CLAY, "callback_overdue", "enriched"]
