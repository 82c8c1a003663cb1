"""A lane on a Kafka whose commits take long: it keeps as many calls under way as its rate needs
with them.
"""

import asyncio
from collections import Counter
from typing import Final

import pytest

from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.views.explain import (
    ConsumerGroup,
    Facts,
    Finding,
    LaneFacts,
    duration,
    explain,
)
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.kafka import SlowCommits
from tests.support.partition.virtual import now_ms, virtual_time

PER_S: Final = 20
POST_S: Final = 0.1
_GROUP: Final = ConsumerGroup("Stable", 1)


class Backlogged(Bench):
    """One lane with a backlog."""

    def __init__(self, link: SlowCommits, max_in_flight: int = 100) -> None:
        super().__init__(
            Setup(callbacks=False, max_in_flight=max_in_flight),
            clay_takes_s=POST_S,
            link=link,
        )
        self.change_workspaces(rate=RatePolicy(rate_per_s=PER_S, burst=5))
        self.partition = self.owner()

    async def begin(self, leads: int) -> None:
        self.publish_leads(leads)
        await self.serve()

    def sent_per_s(self, begin_s: int, end_s: int) -> float:
        """How many leads a second were sent in these seconds of the test."""
        posts = [event for event in self.events() if event.status == "accepted"]
        began_ms = now_ms() - round(asyncio.get_running_loop().time() * 1000)
        seconds = Counter((event.at_ms - began_ms) // 1000 for event in posts)
        return sum(seconds[second] for second in range(begin_s, end_s)) / (end_s - begin_s)

    def moves(self, waiting: int) -> Finding:
        """What `explain` says of the lane."""
        view = self.partition.state.lanes.view("acme")
        lane = LaneFacts("acme", 0, view, {"leads": waiting})
        [finding] = explain(Facts(now_ms(), _GROUP, _GROUP, [lane]))
        return finding


@pytest.mark.parametrize("begins_s", [0.0, 30.0])
@virtual_time
async def test_a_lane_keeps_its_rate_although_commits_take_long(begins_s: float) -> None:
    """From the beginning, or from a time on at which a Kafka that was fast becomes slow."""
    bench = Backlogged(SlowCommits(0.4, begins_s))
    await bench.begin(1_300)
    await asyncio.sleep(60.0)
    assert bench.sent_per_s(38, 58) >= 0.97 * PER_S
    assert (
        bench.moves(400).what == "runs at up to 20 a second, its rate; what waits takes about 20 s"
    )


@virtual_time
async def test_no_more_calls_are_under_way_than_twice_what_the_rate_needs() -> None:
    """A process that is killed leaves each of them uncertain."""
    bench = Backlogged(SlowCommits(0.4))
    await bench.begin(900)
    await asyncio.sleep(30.0)
    for _ in range(200):
        held_s = bench.partition.state.lanes["acme"].concurrency.held_ms / 1000
        assert 0.4 < held_s < 1.0, "a commit and a POST, or two commits and a POST"
        assert bench.partition.state.admission.posts_in_flight <= 2 * PER_S * 1.0
        await asyncio.sleep(0.05)


@virtual_time
async def test_explain_names_the_limit_of_calls_where_it_is_lower_than_the_rate() -> None:
    bench = Backlogged(SlowCommits(0.4), max_in_flight=5)
    await bench.begin(400)
    await asyncio.sleep(60.0)
    sent_per_s = bench.sent_per_s(30, 58)
    assert sent_per_s < 0.5 * PER_S, "five calls are too few"
    finding = bench.moves(600)
    view = bench.partition.state.lanes.view("acme")
    assert view.sends_per_s == pytest.approx(sent_per_s, rel=0.1)
    assert view.rate_per_s == PER_S
    because = (
        "delivery.max_in_flight lets 5 calls be under way, and each takes "
        f"{view.held_ms / 1000:.1f} s"
    )
    takes = duration(600 / view.sends_per_s)
    assert takes != duration(600 / PER_S), "what the rate alone would take"
    assert (
        finding.what
        == f"runs at up to {view.sends_per_s:g} a second: {because}; what waits takes about {takes}"
    )
    assert 500 < view.held_ms <= 1_000, (
        "it waits for a commit that is under way, and then for its own"
    )


@virtual_time
async def test_explain_names_a_slow_clay_where_it_bounds_the_lane() -> None:
    """Clay takes 0.8 s where it took 0.1 s, and the limit has followed."""
    bench = Backlogged(SlowCommits(0.02))
    await bench.begin(1_600)
    await asyncio.sleep(60.0)
    assert bench.moves(400).what.startswith("runs at up to 20 a second, its rate")
    bench.clay._takes_s = 0.8
    await asyncio.sleep(15.0)
    view = bench.partition.state.lanes.view("acme")
    assert view.bound_by == "concurrency"
    assert view.holds == ""
    assert bench.sent_per_s(68, 73) == pytest.approx(view.sends_per_s, rel=0.35), (
        "the usual latency adapts meanwhile"
    )
    says = (
        f"{view.concurrency} calls may be under way as long as Clay is slower than usual, and "
        "each takes"
    )
    assert says in bench.moves(400).what
