"""What the breaker, a pause and refusals of Clay mean for polls."""

import asyncio

import msgspec
import pytest

from stream_app.domain.callback.schedule import next_poll_ms
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.outcome import Accepted, Poison, Uncertain
from stream_app.domain.model.run import (
    RunDenied,
    RunUnread,
)
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.routines import AT_CLAY, SETUP, Routines
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


@pytest.mark.parametrize("by_order", [False, True], ids=["as configured", "by an order"])
@virtual_time
async def test_a_breaker_in_shadow_opens_and_holds_neither_leads_nor_polls(
    *,
    by_order: bool,
) -> None:
    """It counts the leads that it would have held. A poll is none of them."""
    bench = Routines()
    breaker = msgspec.structs.replace(
        bench.plan.workspaces["acme"].breaker,
        mode="auto" if by_order else "shadow",
        open_s=60.0,
    )
    bench.change_workspaces(breaker=breaker)
    lost = [Uncertain("reset", 100)] * breaker.consecutive_failures
    bench.clay.first = [Accepted(202, 100), *lost]
    await bench.one(for_s=1.0)
    if by_order:
        await bench.order("shadow", for_s=0.0)
    bench.publish_leads(1, 1 + len(lost))
    await asyncio.sleep(1.0)
    assert bench.partition.state.lanes["acme"].breaker.phase == "open"
    bench.publish_leads(10, 14)
    await asyncio.sleep(18.0)
    for lead_id in ("id0", "id10", "id11", "id12", "id13"):
        assert bench.history(lead_id) == [*AT_CLAY, "enriched"]
    accepted_ms = next(event.at_ms for event in bench.events(LEAD) if event.run)
    destination = bench.plan.destinations["acme-main"]
    due_ms = next_poll_ms("run_1", accepted_ms, None, destination, accepted_ms)
    assert due_ms <= bench.clay.polls["run_1"][0] <= due_ms + 10
    shown = bench.shown()
    assert shown.breaker == "open"
    assert shown.mode == "shadow"
    assert shown.holds == ""
    assert shown.shadow_breaker == 4
    assert len(bench.clay.all_polls) > 4


@virtual_time
async def test_a_shadow_budget_holds_no_run_and_counts_those_that_it_would_have_held() -> None:
    bench = Routines()
    bench.change_workspaces(budget=BudgetPolicy(credits_per_day=25, shadow=True))
    bench.publish_leads(3)
    await bench.serve_for(20.0)
    for lead_id in ("id0", "id1", "id2"):
        assert bench.history(lead_id) == [*AT_CLAY, "enriched"]
    assert bench.day().credits_spent == 21
    assert bench.shown().shadow_budget == 2, "each may cost 20"
    assert bench.shown().holds == ""
    bench.books()


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
    await bench.one(RunDenied(status, "HTTP: upgrade your plan"), for_s=5.0)
    stop = bench.lane().suspension
    assert stop is not None
    assert stop.reason == f"http_{status}"
    assert "upgrade your plan" in stop.text
    assert "acme-main" in stop.text
    bench.publish("id1", "p1")
    await asyncio.sleep(15.0)
    polls = len(bench.clay.polls["run_1"])
    assert polls > 1
    assert len(bench.clay.posts_ms) == 1
    bench.clay.of_run.clear()
    await bench.settled(2, within_s=3_600.0)
    assert len(bench.clay.polls["run_1"]) == polls + 1
    assert len(bench.clay.posts_ms) == 2


@pytest.mark.parametrize("status", [402, 403, 409])
@virtual_time
async def test_a_lane_without_leads_recovers_when_its_polls_are_answered_again(status: int) -> None:
    """A lead would cost credits to find that out, and none may come for days."""
    bench = Routines()
    bench.clay.scripted = [RunDenied(status, "HTTP: upgrade your plan")] * 2
    await bench.one(for_s=15.0)
    stop = bench.lane().suspension
    assert stop is not None
    assert stop.by_poll
    await bench.settled(1, within_s=3_600.0)
    assert bench.states(LEAD)[-1] == "enriched"
    assert bench.lane().suspension is None
    assert len(bench.clay.posts_ms) == 1, "no lead went as a probe"


@virtual_time
async def test_a_poll_that_was_refused_is_asked_again_at_the_time_of_the_probe() -> None:
    """Each refused probe makes the interval longer, although no lead goes."""
    bench = Routines()
    bench.change_destination(callback_deadline_s=7_200.0)
    bench.clay.of_run = {"run_1": RunDenied(402, "HTTP: upgrade your plan")}
    await bench.one(for_s=5_000.0)
    stop = bench.lane().suspension
    assert stop is not None
    assert stop.probe >= 2
    first_s = bench.plan.workspaces["acme"].suspension.probe_s
    assert stop.backoff_ms == first_s * 1_000 * 2**stop.probe
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
