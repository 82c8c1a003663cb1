"""Polls take their tokens from the bucket of their lane, as POSTs do."""

import asyncio

from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.run import RunLimited
from tests.support.partition.bench import LEAD
from tests.support.partition.routines import Routines
from tests.support.partition.virtual import now_ms, virtual_time


def assert_at_rate(at_ms: list[int], policy: RatePolicy) -> None:
    """No second has more than the bucket gives."""
    for first, since_ms in enumerate(at_ms):
        within = sum(since_ms <= other_ms < since_ms + 1_000 for other_ms in at_ms[first:])
        assert within <= policy.burst + policy.rate_per_s + 1


async def with_backlog_of_polls(leads: int, sent_within_s: float) -> Routines:
    """Return a partition without a worker, all of whose open runs have become due."""
    bench = Routines()
    bench.clay.finishes_s = 10_000.0
    bench.change_destination(callback_deadline_s=20_000.0)
    bench.publish_leads(leads)
    await bench.serve_for(sent_within_s)
    await bench.kill()
    await asyncio.sleep(2_000.0)
    return bench


@virtual_time
async def test_a_backlog_of_open_runs_is_asked_for_at_the_rate_of_the_lane() -> None:
    bench = await with_backlog_of_polls(100, 60.0)
    bench.clay.polls.clear()
    await bench.start()
    await asyncio.sleep(60.0)
    polls_ms = bench.clay.all_polls
    assert len(polls_ms) >= 100
    policy = bench.plan.workspaces["acme"].rate
    assert_at_rate(polls_ms, policy)


@virtual_time
async def test_the_lane_shows_that_polls_wait_for_its_rate() -> None:
    bench = await with_backlog_of_polls(400, 200.0)
    await bench.start()
    await asyncio.sleep(3.0)
    runs = bench.shown().runs
    assert runs is not None
    assert runs.open == 400
    assert runs.waits_for_rate
    await asyncio.sleep(600.0)
    runs = bench.shown().runs
    assert runs is not None
    assert not runs.waits_for_rate


@virtual_time
async def test_a_run_that_nobody_announces_is_polled_beside_those_that_are() -> None:
    """A lane whose backlog takes all of its rate, and a notification that was lost."""
    bench = Routines()
    bench.change_workspaces(rate=RatePolicy(rate_per_s=4.0, burst=5))
    bench.change_destination(poll_after_s=(20.0,))
    bench.publish_leads(150)
    announced = 1

    async def announce_the_others() -> None:
        nonlocal announced
        while True:
            await asyncio.sleep(0.1)
            finished = sum(at_ms + 5_200 <= now_ms() for at_ms in bench.clay.posts_ms)
            for number in range(announced + 1, finished + 1):
                bench.announce(f"run_{number}")
            announced = max(announced, finished)

    telling = asyncio.create_task(announce_the_others())
    await bench.serve_for(45.0)
    telling.cancel()
    assert len(bench.clay.posts_ms) < 150, "leads wait all the time"
    assert bench.clay.polls["run_1"], "it was due after 20 s"
    [polled_ms] = bench.clay.polls["run_1"]
    due_ms = bench.clay.posts_ms[0] + 21_100  # with the spread of its schedule
    after = [
        f"run_{number}"
        for number, at_ms in enumerate(bench.clay.posts_ms, 1)
        if at_ms + 5_200 > due_ms and bench.clay.polls[f"run_{number}"]
    ]
    assert after
    assert all(bench.clay.polls[run][0] >= polled_ms for run in after), "those come behind it"


@virtual_time
async def test_posts_and_polls_together_keep_to_the_rate_and_posts_have_half_of_it() -> None:
    bench = Routines()
    bench.change_workspaces(rate=RatePolicy(rate_per_s=4.0, burst=5))
    bench.change_destination(callback_deadline_s=3_600.0)
    bench.clay.finishes_s = 10.0
    bench.publish_leads(400)
    began_ms = now_ms()
    await bench.serve()
    await bench.settled(400)
    both = sorted([*bench.clay.posts_ms, *bench.clay.all_polls])
    assert_at_rate(both, bench.plan.workspaces["acme"].rate)
    last_post_s = (max(bench.clay.posts_ms) - began_ms) / 1000
    assert last_post_s <= 400 / 2 * 1.02, "half of 4 a second at least"
    while_posting = [at_ms for at_ms in bench.clay.all_polls if at_ms < max(bench.clay.posts_ms)]
    assert len(while_posting) >= 0.8 * 2 * last_post_s - 40, "polls are not starved either"
    assert len(both) / ((both[-1] - both[0]) / 1000) >= 0.95 * 4


@virtual_time
async def test_a_429_of_a_poll_is_that_of_the_lane() -> None:
    bench = Routines()
    bench.clay.scripted = [RunLimited("30")]
    await bench.one(for_s=4.5)
    [limited_ms] = bench.clay.polls["run_1"]
    bench.publish("id1", "p1")
    await asyncio.sleep(60.0)
    assert bench.clay.posts_ms[1] - limited_ms >= 30_000
    assert bench.clay.polls["run_1"][1] - limited_ms >= 30_000
    assert bench.states(LEAD)[-1] == "enriched"
    assert bench.lane().rate.limited_ms


@virtual_time
async def test_a_successor_keeps_to_the_429_of_a_poll() -> None:
    bench = Routines()
    bench.clay.scripted = [RunLimited("30")]
    await bench.one(for_s=5.0)
    [limited_ms] = bench.clay.polls["run_1"]
    await bench.kill()
    await bench.start()
    await asyncio.sleep(60.0)
    assert bench.clay.polls["run_1"][1] - limited_ms >= 30_000
