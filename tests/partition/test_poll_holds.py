"""What the breaker, a pause and refusals of Clay mean for polls."""

import asyncio

import msgspec
import pytest

from stream_app.domain.model.outcome import Poison
from stream_app.domain.model.run import (
    RunDenied,
    RunUnread,
)
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.routines import SETUP, Routines
from tests.support.partition.virtual import now_ms, virtual_time


def open_for(bench: Bench, for_s: float) -> None:
    """Open the breaker of the lane for so many seconds, as failures of POSTs do."""
    lanes = bench.partition.state.lanes
    until_ms = now_ms() + int(for_s * 1000)
    breaker = msgspec.structs.replace(lanes["acme"].breaker, phase="open", until_ms=until_ms)
    lanes["acme"] = msgspec.structs.replace(lanes["acme"], breaker=breaker)


@virtual_time
async def test_polls_that_fail_are_repeated_and_never_open_the_breaker() -> None:
    bench = Routines()
    bench.clay.scripted = [RunUnread("http_503", "busy")] * 40
    bench.publish_leads(40)
    await bench.serve_for(40.0)
    assert bench.partition.state.lanes["acme"].breaker.phase == "closed"
    assert len(bench.results()) == 40


@virtual_time
async def test_an_open_breaker_moves_a_poll_to_its_next_time() -> None:
    bench = Routines()
    await bench.one(for_s=1.0)
    await bench.order("trip", for_s=20.0)
    assert bench.clay.polls == {}
    await bench.order("auto", "c2", for_s=20.0)
    assert bench.states(LEAD)[-1] == "enriched"
    assert len(bench.clay.polls["run_1"]) == 1


@virtual_time
async def test_an_announced_run_is_polled_as_soon_as_the_breaker_lets_calls_through() -> None:
    """Its next time by the schedule is a quarter of an hour later, and the hold ends before."""
    bench = Routines()
    bench.change_destination(
        run_webhook="wh_1",
        poll_after_s=(20.0,),
        callback_deadline_s=1_000.0,
    )
    await bench.one(for_s=1.0)
    # The breaker has opened by itself, as after a failure of a POST.
    open_for(bench, 45.0)
    bench.announce("run_1")
    await asyncio.sleep(43.0)
    assert bench.clay.polls == {}
    await asyncio.sleep(5.0)
    assert len(bench.clay.polls["run_1"]) == 1
    assert bench.states(LEAD)[-1] == "enriched"


@virtual_time
async def test_an_announced_run_is_polled_soon_after_an_operator_ends_the_hold() -> None:
    bench = Routines()
    bench.change_destination(
        run_webhook="wh_1",
        poll_after_s=(600.0,),
        callback_deadline_s=1_000.0,
    )
    await bench.one(for_s=1.0)
    await bench.order("trip", for_s=1.0)
    bench.announce("run_1")
    await asyncio.sleep(200.0)
    assert bench.clay.polls == {}
    await bench.order("auto", "c2", for_s=62.0)
    assert bench.states(LEAD)[-1] == "enriched"


@virtual_time
async def test_a_paused_lane_goes_on_asking() -> None:
    bench = Routines()
    await bench.one(for_s=1.0)
    await bench.order("pause", for_s=20.0)
    assert bench.states(LEAD)[-1] == "enriched"


@pytest.mark.parametrize("status", [402, 403])
@virtual_time
async def test_a_refusal_holds_the_lane_with_the_words_of_clay_and_polls_go_on(status: int) -> None:
    bench = Routines()
    bench.clay.scripted = [RunDenied(status, "HTTP: upgrade your plan")]
    await bench.one(for_s=5.0)
    stop = bench.lane().suspension
    assert stop is not None
    assert stop.reason == f"http_{status}"
    assert "upgrade your plan" in stop.text
    assert "acme-main" in stop.text
    bench.publish("id1", "p1")
    await asyncio.sleep(15.0)
    assert bench.states(LEAD)[-1] == "enriched"
    assert len(bench.clay.posts_ms) == 1


@virtual_time
async def test_a_refused_key_stops_polls_until_one_of_them_shows_that_it_is_good_again() -> None:
    bench = Routines()
    bench.change_destination(callback_deadline_s=7_200.0)
    bench.clay.of_run = dict.fromkeys(
        [f"run_{number}" for number in range(1, 6)],
        RunDenied(401, "HTTP 401: no such key"),
    )
    bench.publish_leads(5)
    await bench.serve_for(240.0)
    polled = len(bench.clay.all_polls)
    assert 1 <= polled <= 5
    assert bench.states().count("accepted") == 5
    await asyncio.sleep(120.0)
    assert len(bench.clay.all_polls) == polled + 1, "one poll is the probe"
    bench.clay.of_run.clear()
    bench.publish("id9", "p9")
    await bench.settled(6, within_s=1_000.0)
    assert bench.lane().suspension is None


@virtual_time
async def test_a_repaired_key_is_used_as_soon_as_the_lane_is_resumed() -> None:
    bench = Routines()
    bench.change_destination(callback_deadline_s=7_200.0)
    bench.clay.scripted = [RunDenied(401, "HTTP 401: no such key")]
    await bench.one(for_s=10.0)
    await bench.order("resume", for_s=70.0)
    assert bench.states(LEAD)[-1] == "enriched"


@virtual_time
async def test_a_missing_input_stops_the_lane_before_a_backlog_is_burnt() -> None:
    bench = Routines()
    bench.clay.first = [Poison(400, 1, "Missing required field: Email") for _ in range(300)]
    bench.publish_leads(300)
    await bench.serve_for(200.0)
    stop = bench.lane().suspension
    assert stop is not None
    assert stop.reason == "flood_guard"
    assert bench.states().count("rejected_invalid") <= 51 + SETUP.rate_per_s
