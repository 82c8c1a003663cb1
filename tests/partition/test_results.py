"""Results of runs: asked for at the lane's rate, and each ends its lead as a callback does."""

import asyncio
from typing import Any

import msgspec
import pytest

from stream_app.domain.callback.interpret import MOST_FAILED
from stream_app.domain.callback.schedule import next_poll_ms
from stream_app.domain.dead_letter.replay import redriven
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.messages import Status
from stream_app.domain.model.outcome import Poison
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunItem,
    RunLimited,
    RunTooLarge,
    RunUnfinished,
    RunUnread,
)
from stream_app.domain.views.lane import LaneView, RunsView
from tests.simulation.schedule import POLL_AFTER_S, Setup
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import now_ms, virtual_time

SETUP = Setup(routines=True, max_in_flight=100)
AT_CLAY = ["received", "sending", "accepted"]


class Routines(Bench):
    """A partition whose destinations are routines."""

    clay: RoutineClay

    def __init__(self, setup: Setup = SETUP, **of_worker: Any) -> None:
        super().__init__(setup, 0.1, clay=RoutineClay, **of_worker)

    def change_destination(self, **changes: Any) -> None:
        destination = self.plan.destinations["acme-main"]
        changed = msgspec.structs.replace(destination, **changes)
        self.plan.destinations["acme-main"] = changed

    async def one(self, answer: RunAnswer | None = None, for_s: float = 20.0) -> None:
        """One lead, whose run answers this and nothing else."""
        if answer is not None:
            self.clay.of_run["run_1"] = answer
        self.publish("id0", "p0")
        await self.serve_for(for_s)

    def shown(self) -> LaneView:
        """The newest view of the lane."""
        [*_, newest] = self.committed(self.plan.topics.lanes)
        return msgspec.json.decode(newest.value or b"", type=LaneView)

    async def settled(self, count: int, within_s: float = 10_000.0) -> None:
        """Wait until so many leads have their results."""
        async with asyncio.timeout(within_s):
            while len(self.results()) < count:  # noqa: ASYNC110  # what is committed has no event
                await asyncio.sleep(1.0)


def failed(text: str = "Missing input") -> dict[str, Any]:
    """What an item that failed has."""
    return {"status": "failed", "outputs": {}, "text": text}


# -------------------------------------------------------------------------------- settle and money


@virtual_time
async def test_the_result_of_a_run_settles_its_lead_and_charges_its_lane() -> None:
    bench = Routines()
    await bench.one()
    assert bench.states(LEAD) == [*AT_CLAY, "enriched"]
    [result] = bench.results()
    assert result.fields == {"title": "CTO"}
    assert result.source == "clay"
    event = bench.events(LEAD)[-1]
    assert event.credits == 7
    assert event.actions == 1
    assert bench.day().credits_spent == 7
    assert bench.day().credits_reserved == 0
    assert len(bench.clay.polls["run_1"]) == 2, "4 s and 12 s after the POST; it took 5 s"
    assert bench.row().final
    bench.books()


@pytest.mark.parametrize(
    ("item", "status", "credits"),
    [
        (failed(), "enrich_error", 6),
        ({"outputs": {}}, "no_data", 6),
        ({"outputs": {"title": "CTO"}}, "enriched", 6),
        ({"outputs": {"title": "CTO", "status": "partial"}}, "partial", 6),
        ({"outputs": {"title": "CTO", "credits": 0.6}}, "enriched", 1),
    ],
)
@virtual_time
async def test_what_nobody_reports_is_booked_at_the_estimate(
    item: dict[str, Any],
    status: Status,
    credits: int,
) -> None:
    bench = Routines()
    bench.publish("id0", "p0")
    await bench.serve_for(1.0)
    bench.clay.of_run["run_1"] = bench.clay.finished("run_1", **item)
    await asyncio.sleep(10.0)
    event = bench.events(LEAD)[-1]
    assert event.status == status
    assert event.credits == credits
    assert event.text == ("Missing input" if status == "enrich_error" else "")
    assert bench.day().credits_spent == credits
    bench.books()


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (RunTooLarge("more than 1 MiB"), "result_too_large", "more than 1 MiB"),
        (RunFinished(()), "result_of_others", "none of this lead"),
        (RunFinished((RunItem("other", "complete"),)), "result_of_others", "none of this lead"),
    ],
)
@virtual_time
async def test_a_result_that_cannot_be_had_parks_its_lead_at_the_ceiling(
    answer: RunAnswer,
    reason: str,
    words: str,
) -> None:
    bench = Routines()
    await bench.one(answer)
    assert bench.states(LEAD) == [*AT_CLAY, "callback_overdue", "parked"]
    event = bench.events(LEAD)[-1]
    assert event.reason == reason
    assert words in event.text
    assert event.credits == 20, "what it may have cost"
    [dead_letter] = bench.parked()
    assert dead_letter.value == bench.kafka.log(bench.plan.topics.leads, 0).committed()[0].value
    assert bench.day().credits_reserved == 0
    assert len(bench.clay.polls["run_1"]) == 1
    bench.books()


@virtual_time
async def test_an_unknown_state_and_a_result_beyond_900_kb_park_their_leads() -> None:
    bench = Routines()
    bench.publish_leads(2)
    await bench.serve_for(1.0)
    unknown = bench.clay.finished("run_1", status="unknown", text="paused")
    bench.clay.of_run["run_1"] = unknown
    bench.clay.of_run["run_2"] = bench.clay.finished("run_2", outputs={"a": "x" * 901_000})
    await asyncio.sleep(10.0)
    reasons = {event.lead_id: event.reason for event in bench.events() if event.status == "parked"}
    assert reasons == {"id0": "result_unknown_state", "id1": "result_too_large"}
    assert bench.results() == []


@virtual_time
async def test_a_run_that_clay_does_not_know_is_asked_for_twice_again_within_two_minutes() -> None:
    bench = Routines()
    bench.change_destination(callback_deadline_s=600.0)
    await bench.one(RunGone(404, "no such run"), for_s=130.0)
    first_ms, *_, last_ms = bench.clay.polls["run_1"]
    assert len(bench.clay.polls["run_1"]) == 3
    assert last_ms - first_ms <= 120_000
    event = bench.events(LEAD)[-1]
    assert event.status == "parked"
    assert event.reason == "result_gone"
    assert "no such run" in event.text
    assert event.credits == 20


@virtual_time
async def test_a_run_that_is_not_known_yet_is_found_at_the_second_try() -> None:
    bench = Routines()
    bench.change_destination(callback_deadline_s=3_600.0)
    gone = RunGone(404, "no such run")
    bench.clay.scripted = [gone, gone, RunUnfinished(), gone, gone]
    await bench.one(for_s=1_100.0)
    assert bench.states(LEAD) == [*AT_CLAY, "enriched"]


@virtual_time
async def test_a_parked_lead_waits_for_its_record_where_kafka_is_away() -> None:
    bench = Routines()
    bench.publish("id0", "p0")
    bench.clay.of_run["run_1"] = RunFinished(())
    await bench.serve_for(2.0)
    bench.store.away = 3
    await asyncio.sleep(40.0)
    assert bench.store.away == 0
    assert bench.states(LEAD)[-1] == "parked"
    assert bench.parked()[0].value is not None


# ----------------------------------------------------------------------------------- when it polls


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
async def test_a_backlog_of_open_runs_is_asked_for_at_the_rate_of_the_lane() -> None:
    bench = Routines()
    bench.clay.finishes_s = 10_000.0
    bench.change_destination(callback_deadline_s=20_000.0)
    bench.publish_leads(100)
    await bench.serve_for(60.0)
    await bench.kill()
    await asyncio.sleep(2_000.0)
    bench.clay.polls.clear()
    await bench.start()
    await asyncio.sleep(60.0)
    polls_ms = bench.clay.all_polls
    assert len(polls_ms) >= 100
    policy = bench.plan.workspaces["acme"].rate
    assert_at_rate(polls_ms, policy)


def assert_at_rate(at_ms: list[int], policy: RatePolicy) -> None:
    """No second has more than the bucket gives."""
    for first, since_ms in enumerate(at_ms):
        within = sum(since_ms <= other_ms < since_ms + 1_000 for other_ms in at_ms[first:])
        assert within <= policy.burst + policy.rate_per_s + 1


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
async def test_the_lane_shows_that_polls_wait_for_its_rate() -> None:
    bench = Routines()
    bench.clay.finishes_s = 10_000.0
    bench.change_destination(callback_deadline_s=20_000.0)
    bench.publish_leads(400)
    await bench.serve_for(200.0)
    await bench.kill()
    await asyncio.sleep(2_000.0)
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


# ----------------------------------------------------------------------------- the rate of the lane


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


def open_for(bench: Bench, for_s: float) -> None:
    """Open the breaker of the lane for so many seconds, as failures of POSTs do."""
    lanes = bench.partition.state.lanes
    until_ms = now_ms() + int(for_s * 1000)
    breaker = msgspec.structs.replace(lanes["acme"].breaker, phase="open", until_ms=until_ms)
    lanes["acme"] = msgspec.structs.replace(lanes["acme"], breaker=breaker)


@virtual_time
async def test_a_paused_lane_goes_on_asking() -> None:
    bench = Routines()
    await bench.one(for_s=1.0)
    await bench.order("pause", for_s=20.0)
    assert bench.states(LEAD)[-1] == "enriched"


# --------------------------------------------------------------------------------- refusals of Clay


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


# -------------------------------------------------------------------------------- without credits


def all_fail(bench: Routines) -> None:
    """Every run that is asked for has failed."""

    def fail(run: str, **_: object) -> RunFinished:
        return RunFinished((RunItem(bench.clay._items[run], "failed", text="no credits left"),))

    bench.clay.finished = fail  # type: ignore[method-assign]  # a script


@pytest.mark.parametrize(("left", "words"), [(19.5, "19.5 credits left"), (None, "cannot be read")])
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
    assert bench.states().count("enrich_error") <= 5 * MOST_FAILED
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
    assert 1 <= bench.clay.balances <= 100 // MOST_FAILED


@virtual_time
async def test_a_lead_that_succeeds_while_the_balance_is_asked_for_keeps_the_lane_going() -> None:
    bench = Routines()
    all_fail(bench)
    bench.publish_leads(MOST_FAILED + 1)
    bench.clay.credits_left = 0.0
    real = bench.clay.balance

    async def slow(workspace: str) -> float | None:
        await asyncio.sleep(30.0)
        return await real(workspace)

    bench.clay.balance = slow  # type: ignore[method-assign]  # a script
    last = f"run_{MOST_FAILED + 1}"
    bench.clay.of_run[last] = RunUnfinished()
    await bench.serve_for(20.0)
    del bench.clay.finished
    bench.clay.of_run[last] = bench.clay.finished(last)
    await asyncio.sleep(60.0)
    assert bench.clay.balances == 1
    assert bench.lane().suspension is None


# ------------------------------------------------------------------ second looks, fences, two runs


@virtual_time
async def test_a_lead_that_a_callback_settled_while_its_run_was_asked_for_is_settled_once() -> None:
    bench = Routines()
    bench.clay.finishes_s = 1.0
    bench.clay.poll_s = 3.0
    await bench.one(for_s=4.5)
    assert len(bench.clay.polls["run_1"]) == 1
    bench.call_back()
    await asyncio.sleep(10.0)
    assert bench.states(LEAD) == [*AT_CLAY, "enriched"]
    assert [result.version for result in bench.results()] == [1]
    assert bench.day().credits_spent == 7
    bench.books()


@virtual_time
async def test_a_lead_that_a_callback_settled_while_its_record_was_fetched_is_not_parked() -> None:
    bench = Routines()
    bench.publish("id0", "p0")
    bench.clay.of_run["run_1"] = RunFinished(())
    await bench.serve_for(2.0)
    real = bench.store.fetch

    async def fetch(record_ids: Any) -> Any:
        bench.call_back()
        await asyncio.sleep(2.0)
        return await real(record_ids)

    bench.store.fetch = fetch  # type: ignore[method-assign,assignment]  # a slow Kafka
    await asyncio.sleep(20.0)
    assert bench.states(LEAD) == [*AT_CLAY, "enriched"]
    assert bench.parked() == []


@virtual_time
async def test_a_lead_that_was_sent_again_is_settled_by_its_last_run() -> None:
    bench = Routines()
    bench.clay.of_run["run_1"] = RunUnfinished()
    await bench.one(for_s=150.0)
    [dead_letter] = bench.parked()
    envelope = read_envelope(dead_letter)
    bench.clay.polls.clear()
    bench.clay.of_run["run_1"] = bench.clay.finished("run_1", outputs={"title": "first"})
    await bench.come_back(dead_letter, redriven(envelope, dead_letter.record_id))
    await asyncio.sleep(20.0)
    assert bench.row().run == "run_2"
    assert bench.clay.polls.keys() == {"run_2"}, "nobody asks for the first run any more"
    assert bench.states(LEAD)[-1] == "enriched"
    assert bench.results()[-1].fields == {"title": "CTO"}
    bench.books()


@virtual_time
async def test_a_result_that_comes_after_the_lead_was_sent_again_is_dropped() -> None:
    """The first run is asked for while the lead is parked, sent back and accepted again."""
    bench = Routines()
    bench.clay.poll_s = 0.0
    await bench.one(RunUnfinished(), for_s=60.0)
    real = bench.clay.results

    async def slow(destination: str, run: str) -> RunAnswer:
        if run == "run_1":
            await asyncio.sleep(300.0)
            return bench.clay.finished("run_1", outputs={"title": "first"})
        return await real(destination, run)

    bench.clay.results = slow  # type: ignore[method-assign]  # a script
    bench.clay.of_run["run_2"] = RunUnfinished()
    await asyncio.sleep(100.0)
    [dead_letter] = bench.parked()
    await bench.come_back(
        dead_letter,
        redriven(read_envelope(dead_letter), dead_letter.record_id),
    )
    await asyncio.sleep(400.0)
    assert all(result.fields != {"title": "first"} for result in bench.results())


@virtual_time
async def test_an_owner_that_was_fenced_while_it_asked_settles_nothing() -> None:
    bench = Routines()
    bench.clay.finishes_s = 1.0
    bench.clay.poll_s = 3.0
    await bench.one(for_s=4.5)
    assert len(bench.clay.polls["run_1"]) == 1
    fenced = bench.partition
    bench.clay.poll_s = 0.1
    await bench.start()
    await asyncio.sleep(20.0)
    assert bench.states(LEAD) == [*AT_CLAY, "enriched"]
    assert [result.version for result in bench.results()] == [1]
    assert len(bench.alarmed()) == 1, "the first owner ends"
    await fenced.close()
    bench.books()


@virtual_time
async def test_a_result_whose_commit_fails_is_asked_for_again() -> None:
    bench = Routines()
    bench.clay.finishes_s = 1.0
    await bench.one(for_s=2.0)
    real = bench.store.transact
    lost = 0

    async def transact(records: Any) -> None:
        nonlocal lost
        if not lost and any(record.topic == bench.plan.topics.enriched for record in records):
            lost += 1
            raise Aborted("the transaction failed")
        await real(records)

    bench.store.transact = transact  # type: ignore[method-assign]  # a Kafka that aborts once
    await asyncio.sleep(20.0)
    assert lost == 1
    assert bench.states(LEAD) == [*AT_CLAY, "enriched"]
    assert len(bench.clay.polls["run_1"]) == 2
    bench.books()


@virtual_time
async def test_an_accepted_lead_without_a_run_is_parked_with_words() -> None:
    bench = Routines()
    bench.clay.send = super(RoutineClay, bench.clay).send  # type: ignore[method-assign]  # it names no run
    await bench.one(for_s=150.0)
    assert bench.states(LEAD) == [*AT_CLAY, "callback_overdue", "parked"]
    assert bench.clay.polls == {}
    assert "its run id was lost" in bench.events(LEAD)[-1].text
    assert "its run id was lost" in bench.events(LEAD)[-2].text


@virtual_time
async def test_an_erased_lead_is_booked_and_its_result_is_not_published() -> None:
    bench = Routines()
    await bench.one(for_s=2.0)
    await bench.order("erase", lead_id="id0", destinations=["acme-main"], people=["p" * 22])
    await asyncio.sleep(20.0)
    assert bench.history("id0") == [*AT_CLAY, "erased", "enriched"]
    assert [record.value for record in bench.committed(bench.plan.topics.enriched)] == [None]
    assert bench.day().credits_spent == 7


@virtual_time
async def test_the_cost_of_a_run_over_midnight_is_booked_on_the_day_of_its_post() -> None:
    bench = Routines()
    bench.change_destination(callback_deadline_s=600.0)
    bench.clay.finishes_s = 70.0
    await bench.one(for_s=1_000.0)
    event = bench.events(LEAD)[-1]
    assert event.status == "enriched"
    assert event.day == "2026-11-30"
    assert [day.credits_spent for day in bench.lane().budget.days if day.id == event.day] == [7]
    bench.books()


@virtual_time
async def test_after_an_outage_of_26_hours_the_loss_is_named_and_booked_for_a_person() -> None:
    bench = Routines()
    bench.publish_leads(5)
    await bench.serve_for(3.0)
    await bench.kill()
    await asyncio.sleep(26 * 3_600.0)
    gone = RunGone(404, "no such run")
    bench.clay.of_run = {f"run_{number}": gone for number in range(1, 6)}
    await bench.start()
    await asyncio.sleep(200.0)
    ended = [event for event in bench.events() if event.status == "parked"]
    assert [event.reason for event in ended] == ["result_gone"] * 5
    assert sum(event.credits or 0 for event in ended) == 5 * 20
    assert len(bench.parked()) == 5
    assert len(bench.clay.posts_ms) == 5
    bench.books()
