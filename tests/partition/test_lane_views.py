"""Lane views: published once, when committed; correct after a restart, a failure and midnight."""

import asyncio

import msgspec
import pytest

from stream_app.domain.views.lane import LaneView
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.kafka import Losing
from tests.support.partition.virtual import virtual_time

_VIEW = msgspec.json.Decoder(LaneView)


class Watching(Observer):
    """What the observer has of a lane now, and all news that it got."""

    def __init__(self) -> None:
        self.view: LaneView | None = None
        self.news: list[str] = []

    def lane(self, view: LaneView) -> None:
        self.view = view
        self.news += [news.kind for news in view.news]

    def lane_gone(self, workspace: str) -> None:
        self.view = None


class Board(Bench):
    """A partition whose lane is watched, by the process and on `leads.lanes`."""

    def __init__(self, setup: Setup | None = None) -> None:
        self.watching = Watching()
        super().__init__(setup, clay_takes_s=0.1, observer=self.watching)

    @property
    def seen(self) -> LaneView:
        assert self.watching.view is not None
        return self.watching.view

    def published(self) -> list[LaneView]:
        log = self.kafka.log(self.plan.topics.lanes, 0).committed()
        return [_VIEW.decode(record.value or b"") for record in log if record.key == b"acme"]

    def lose_views(self) -> None:
        """Have `leads.lanes` deleted, and created again empty."""
        self.kafka.log(self.plan.topics.lanes, 0).entries.clear()

    def emitted(self) -> list[str]:
        """The kinds of news on `leads.lanes`, in order."""
        return [news.kind for view in self.published() for news in view.news]


@virtual_time
async def test_a_held_lane_is_shown_from_the_take_over_on() -> None:
    board = await Board.started()
    await board.order("pause", for_s=5.0)
    since_ms = board.seen.since_ms
    await board.kill()
    assert board.watching.view is None
    await board.start()
    assert board.seen.holds == "paused"
    assert board.seen.since_ms == since_ms
    assert board.seen.news == ()
    await asyncio.sleep(600.0)
    assert board.seen.holds == "paused"
    assert board.emitted() == ["paused", "held"]
    assert len(board.published()) == 3, (
        "one more of the take-over; since then only the date has changed"
    )


@virtual_time
async def test_a_take_over_writes_each_lane_so_that_a_lost_topic_is_filled_again() -> None:
    """The view is the backup of what was spent, and a lane in which nothing happens changes never
    again.
    """
    board = await Board.started(Setup(callbacks=False, credits_per_day=100))
    await asyncio.sleep(100.0)  # past midnight
    board.publish("a", "p1")
    await asyncio.sleep(5.0)
    spent = board.published()[-1].meters["credits_day"].spent
    assert spent > 0
    await board.kill()
    board.lose_views()
    await board.start()
    await asyncio.sleep(3.0)
    assert [(view.meters["credits_day"].spent, view.news) for view in board.published()] == [
        (spent, ()),
    ]
    await asyncio.sleep(3_600.0)
    assert board.published()[-1].meters["credits_day"].spent == spent


@virtual_time
async def test_an_owner_writes_its_lanes_again_when_their_topic_was_lost() -> None:
    board = await Board.started(Setup(callbacks=False, credits_per_day=100))
    await asyncio.sleep(100.0)  # past midnight
    board.publish("a", "p1")
    await asyncio.sleep(600.0)
    before = board.published()[-1]
    board.lose_views()
    await asyncio.sleep(600.0)
    assert not board.published(), "an owner does not look at the topic"
    board.partition.state.lanes.publish_all()
    await asyncio.sleep(3.0)
    (after,) = board.published()
    assert after.meters == before.meters
    assert after.meters["credits_day"].spent > 0


@virtual_time
async def test_lanes_that_an_aborted_commit_lost_are_written_by_the_next_one() -> None:
    board = await Board.started()
    board.publish("a", "p1")
    await asyncio.sleep(5.0)
    await board.kill()
    board.lose_views()
    await board.start()
    board.store._link = Losing({0})
    await asyncio.sleep(20.0)
    assert board.published()


@virtual_time
async def test_a_change_by_the_first_lead_of_a_process_is_reported() -> None:
    board = await Board.started(Setup(credits_per_day=40))
    board.publish("a", "p1")
    await asyncio.sleep(1.5)
    assert board.emitted() == ["budget_50"], "of a lane that was never seen before"
    await board.kill()
    await board.start()
    board.publish("b", "p2")
    await asyncio.sleep(1.5)
    assert board.emitted() == ["budget_50", "held", "budget_95"]
    assert board.watching.news == board.emitted()


@virtual_time
async def test_changes_of_an_aborted_commit_are_published_on_retry() -> None:
    board = await Board.started(Setup(credits_per_day=25))
    board.store._link = Losing({0})
    board.publish("a", "p1")
    await asyncio.sleep(20.0)
    assert board.emitted() == ["held", "budget_80"]
    assert board.watching.news == board.emitted(), "reported once, when it is committed"
    assert board.states().count("sending") == 1


@pytest.mark.parametrize("owned", [True, False])
@virtual_time
async def test_midnight_is_seen_without_any_lead(owned: bool) -> None:
    """The clock begins a minute before it, and the partition may have no owner then."""
    board = await Board.started(Setup(credits_per_day=25, callbacks=False))
    board.publish("a", "p1")
    await asyncio.sleep(30.0)
    assert board.seen.holds == "budget_credits_day"
    assert board.seen.meters["credits_day"].left == 19
    if not owned:
        await board.kill()
        await asyncio.sleep(100.0)
        await board.start()
    await asyncio.sleep(100.0)
    assert board.seen.holds == ""
    assert board.seen.meters["credits_day"].left == 25
    assert board.published()[-1] == board.seen
    assert board.emitted()[-2:] == ["moves", "budget_new_period"]


@virtual_time
async def test_the_window_empties_without_any_lead_and_then_nothing_is_published_any_more() -> None:
    board = await Board.started()
    board.publish("a", "p1")
    await asyncio.sleep(5.0)
    assert board.seen.calls == 1
    assert board.seen.p50_ms > 0
    await asyncio.sleep(3_600.0)
    assert board.seen.calls == 0
    assert board.seen.p50_ms == 0
    published = len(board.published())
    await asyncio.sleep(3_600.0)
    assert len(board.published()) == published


@virtual_time
async def test_the_end_of_a_burst_is_published_a_second_later() -> None:
    board = await Board.started(Setup(callbacks=False, credits_per_day=10_000))
    for number in range(4):
        board.publish(f"id{number}", f"p{number}")
    await asyncio.sleep(3.0)
    last = board.published()[-1].meters["credits_day"]
    assert last.spent == 24
    assert last.reserved == 0
    assert board.seen == board.published()[-1]


@virtual_time
async def test_a_partition_in_which_nothing_happens_looks_at_its_lanes_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = await Board.started(Setup(callbacks=False))
    board.publish_leads(1)
    await asyncio.sleep(1_000.0)
    view = Lanes.view
    looks = 0

    def counted(self: Lanes, workspace: str) -> LaneView:
        nonlocal looks
        looks += 1
        return view(self, workspace)

    monkeypatch.setattr(Lanes, "view", counted)
    await asyncio.sleep(600.0)
    assert 9 <= looks <= 10
