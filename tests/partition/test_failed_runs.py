"""Leads whose runs fail one after the other: are the credits used up?"""

import asyncio

import pytest

from stream_app.domain.callback.interpret import MAX_FAILED_IN_A_ROW
from stream_app.domain.model.run import (
    RunFinished,
    RunItem,
    RunUnfinished,
)
from tests.support.partition.routines import Routines
from tests.support.partition.virtual import virtual_time


def all_fail(bench: Routines) -> None:
    """Every run that is asked for has failed."""

    def fail(run: str, **_: object) -> RunFinished:
        return RunFinished((RunItem(bench.clay._items[run], "failed", text="no credits left"),))

    bench.clay.finished = fail  # type: ignore[method-assign]  # a script


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (19.5, "its workspace has 19.5 credits left, and one lead may cost 20"),
        (1.0, "its workspace has 1 credit left, and one lead may cost 20"),
        (None, "cannot be read"),
    ],
)
@virtual_time
async def test_failed_leads_in_a_row_without_credits_suspend_their_destination(
    left: float | None,
    words: str,
) -> None:
    bench = Routines()
    all_fail(bench)
    bench.clay.finishes_s = 0.5
    bench.clay.credits_left = left
    bench.publish_leads(400)
    await bench.serve_for(120.0)
    stop = bench.lane().suspension
    assert stop is not None
    assert stop.reason == "credits_exhausted_suspected"
    assert words in stop.text
    assert stop.one_destination
    assert bench.clay.balances == 1
    assert bench.states().count("enrich_error") <= 5 * MAX_FAILED_IN_A_ROW
    # A failed probe says nothing good; one that did not fail lifts the suspension.
    sent = len(bench.clay.posts_ms)
    await asyncio.sleep(330.0)
    assert len(bench.clay.posts_ms) == sent + 1
    assert bench.lane().suspension is not None
    del bench.clay.finished
    bench.clay.credits_left = 1_000.0
    await bench.settled(100)
    assert bench.lane().suspension is None


@virtual_time
async def test_failed_leads_of_a_workspace_with_credits_go_on_and_the_balance_is_asked_rarely() -> (
    None
):
    bench = Routines()
    all_fail(bench)
    bench.publish_leads(100)
    await bench.serve_for(120.0)
    assert bench.states().count("enrich_error") == 100
    assert bench.lane().suspension is None
    assert 1 <= bench.clay.balances <= 100 // MAX_FAILED_IN_A_ROW


@virtual_time
async def test_a_lead_that_succeeds_while_the_balance_is_asked_for_keeps_the_lane_going() -> None:
    bench = Routines()
    all_fail(bench)
    bench.publish_leads(MAX_FAILED_IN_A_ROW + 1)
    bench.clay.credits_left = 0.0
    real = bench.clay.balance

    async def slow(workspace: str) -> float | None:
        await asyncio.sleep(30.0)
        return await real(workspace)

    bench.clay.balance = slow  # type: ignore[method-assign]  # a script
    last = f"run_{MAX_FAILED_IN_A_ROW + 1}"
    bench.clay.of_run[last] = RunUnfinished()
    await bench.serve_for(20.0)
    del bench.clay.finished
    bench.clay.of_run[last] = bench.clay.finished(last)
    await asyncio.sleep(60.0)
    assert bench.clay.balances == 1
    assert bench.lane().suspension is None
