"""Announcements of runs on a partition with an in-memory Kafka: a lost answer to a POST settles
itself, and nothing else that may be announced does harm.
"""

import asyncio
from typing import Any

import pytest

from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.model.messages import Status
from stream_app.domain.model.outcome import Uncertain
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
from stream_app.partition.results import ResultPipeline
from tests.simulation.schedule import Setup
from tests.support.partition.announced import HELD_NOW, ROUTINE, RoutineBench
from tests.support.partition.bench import LEAD, PAID, Bench
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import now_ms, virtual_time


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("sending", {}),  # its worker died, and no other has got the record again yet
        ("send_uncertain", {"sends": 1}),
        ("accepted", {}),  # the answer to its POST named no run
        ("callback_overdue", {}),
        ("parked", {"sends": 1, **HELD_NOW}),
        ("parked", {"sends": 1, "run": "run-0", **HELD_NOW}),
        ("refused", {"sends": 1, **HELD_NOW}),
        ("replayed", {"sends": 1, **HELD_NOW}),
        ("confirmed", {"sends": 1, "reservation": None, "booked": PAID, "final": True}),
        ("accepted", {"sends": 1, "run": "run-2"}),  # sent again, and the first run comes
    ],
)
@virtual_time
async def test_a_lead_whose_run_is_unknown_is_settled_by_its_announcement(
    state: Status,
    changes: dict[str, Any],
) -> None:
    bench = RoutineBench()
    bench.leave_row(state, at_ms=now_ms(), **changes)
    bench.at_clay.finish("run-1", bench.key)
    bench.announce("run-1")
    await bench.serve_for(10.0)
    assert bench.at_clay.runs.count("run-1") == 1
    assert bench.states(LEAD)[-1] == "enriched"
    [result] = bench.results()
    assert result.fields == {"title": "CTO"}
    assert bench.row().final
    assert bench.day().credits_spent == 7
    assert bench.day().credits_reserved == 0
    assert bench.unmatched(0) == []
    topic = bench.plan.topics.callbacks
    assert bench.streams["callback"].committed() == bench.kafka.log(topic, 0).end


@virtual_time
async def test_a_lost_answer_to_a_post_settles_itself() -> None:
    """The whole way: the POST, the answer that is lost, the announcement, the result."""
    bench = RoutineBench()
    bench.clay.first = [Uncertain("reset", 1)]
    await bench.serve()
    bench.publish_leads(1)
    await asyncio.sleep(20.0)
    assert bench.states(LEAD)[-1] == "send_uncertain"
    bench.at_clay.finish("run-1", bench.key)
    bench.announce("run-1")
    await asyncio.sleep(20.0)
    assert bench.history("id0")[-3:] == ["send_uncertain", "accepted", "enriched"]
    await bench.grace_ends()
    assert bench.history("id0")[-1] == "enriched"
    assert len(bench.clay.bodies) == 1, "it is not sent again when its grace ends"
    assert bench.row().run == "run-1"
    await bench.kill()
    await bench.start()
    bench.announce("run-1")
    await asyncio.sleep(20.0)
    assert bench.unmatched(1) == [], "the next owner knows the run that has settled the lead"
    assert bench.books().problems == []


@virtual_time
async def test_without_an_announcement_nobody_is_asked_and_the_lead_stays_uncertain() -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.finish("run-1", bench.key)
    await bench.serve_for(600.0)
    assert bench.at_clay.asked == []
    assert bench.states(LEAD) == []


@virtual_time
async def test_a_doubled_announcement_asks_once_and_settles_once() -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.finish("run-1", bench.key)
    for _ in range(3):
        bench.announce("run-1")
    await bench.serve_for(10.0)
    bench.announce("run-1")
    await asyncio.sleep(10.0)
    assert bench.at_clay.runs == ["run-1"]
    assert [bench.unmatched(offset) for offset in range(1, 4)] == [[], [], []]
    assert len(bench.results()) == 1


@virtual_time
async def test_a_run_that_nobody_began_is_reported_once_and_asks_nobody() -> None:
    bench = RoutineBench()
    bench.leave_row("enriched", final=True, reservation=None, run="run-0")
    for _ in range(2):
        bench.announce("run-1")
    await bench.serve_for(10.0)
    assert bench.at_clay.asked == [], "no lead can have such a run"
    assert bench.unmatched(0) == [("callback_unmatched", "unknown_run")]
    [event] = bench.events(f"{bench.plan.topics.callbacks}/0/0")
    assert event.workspace == "acme"
    assert event.destination == "acme-main"


@virtual_time
async def test_the_run_of_another_program_is_asked_about_once_while_a_lead_is_uncertain() -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.last["run-9"] = RunFinished((RunItem("theirs", "complete", {"title": "CEO"}),))
    for _ in range(2):
        bench.announce("run-9")
    await bench.serve_for(10.0)
    assert bench.at_clay.runs == ["run-9"]
    assert bench.unmatched(0) == [("callback_unmatched", "unknown_run")]
    assert bench.unmatched(1) == []
    assert bench.results() == []


@virtual_time
async def test_a_forged_announcement_gives_no_lead_the_result_of_another() -> None:
    """It can name any run of the workspace: the item says whose it is, and not who asked."""
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    other = delivery_key("acme", "acme-main", "id1")
    bench.at_clay.finish("run-1", other, title="CEO")
    bench.announce("run-1")
    await bench.serve_for(10.0)
    assert bench.results() == []
    assert bench.states(LEAD) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RunUnfinished(), "run_unfinished"),
        (RunGone(404, "run not found"), "result_gone"),
        (RunDenied(401, "bad key"), "run_denied"),
        (RunLimited("1"), "run_limited"),
        (RunUnread("http_503", "Clay answered 503"), "http_503"),
    ],
)
@virtual_time
async def test_what_cannot_be_read_is_asked_again_for_some_minutes_and_then_reported(
    answer: RunAnswer,
    reason: str,
) -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.last["run-1"] = answer
    bench.announce("run-1")
    await bench.serve_for(200.0)
    assert bench.streams["callback"].committed() in (None, 0), "another owner would ask again"
    await asyncio.sleep(100.0)
    assert bench.unmatched(0) == [("callback_unmatched", reason)]
    # A key that Clay refuses is not tried again and again.
    assert len(bench.at_clay.asked) == (1 if reason == "run_denied" else 6)
    assert bench.streams["callback"].committed() == 1


@virtual_time
async def test_while_clay_refuses_the_key_an_announced_run_is_answered_as_clay_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lane knows already that its key is refused, so it answers instead of Clay."""
    answers: list[RunAnswer] = []
    ask = ResultPipeline.ask

    async def noted(self: ResultPipeline, alias: str, run: str) -> RunAnswer:
        answers.append(await ask(self, alias, run))
        return answers[-1]

    monkeypatch.setattr(ResultPipeline, "ask", noted)
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.last["run-1"] = RunDenied(401, "no such key")
    bench.announce("run-1")
    await bench.serve_for(300.0)
    first, *held = answers
    assert first == RunDenied(401, "no such key")
    assert held == [RunDenied(401, "Clay refuses the key of the workspace")] * 5
    assert len(bench.at_clay.asked) == 1, "the lane is held, so that Clay is not asked"
    [event] = bench.events(f"{bench.plan.topics.callbacks}/0/0")
    assert event.reason == "run_denied"
    assert event.text == (
        "Clay did not let us read this run: Clay refuses the key of the workspace"
    )


@virtual_time
async def test_an_open_breaker_is_named_as_what_kept_an_announced_run_from_being_read() -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.finish("run-1", bench.key)
    await bench.serve()
    await bench.order("trip", for_s=1.0)
    bench.announce("run-1")
    await asyncio.sleep(300.0)
    assert bench.at_clay.asked == []
    [event] = bench.events(f"{bench.plan.topics.callbacks}/0/0")
    assert event.reason == "breaker_open"
    assert "the circuit breaker is open" in event.text
    assert bench.streams["callback"].committed() == 1


@virtual_time
async def test_an_announced_run_does_not_wait_for_the_end_of_a_long_retry_after() -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.last["run-1"] = RunLimited("3600")
    bench.announce("run-1")
    await bench.serve_for(300.0)
    assert len(bench.at_clay.asked) == 1, "its lane is blocked for an hour"
    assert bench.unmatched(0) == [("callback_unmatched", "run_limited")]
    assert bench.streams["callback"].committed() == 1


@pytest.mark.parametrize(
    "first",
    [
        [RunGone(404, "not yet")],
        [RunUnread("reset", "reset"), RunUnfinished(), RunLimited("1")],
    ],
)
@virtual_time
async def test_a_run_that_can_be_read_later_settles_its_lead_then(
    first: list[RunAnswer],
) -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.first["run-1"] = first
    bench.at_clay.finish("run-1", bench.key)
    bench.announce("run-1")
    await bench.serve_for(200.0)
    assert bench.states(LEAD)[-1] == "enriched"


@virtual_time
async def test_a_result_that_is_too_large_to_name_its_lead_is_not_asked_for_again() -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.last["run-1"] = RunTooLarge("more than 1 MiB")
    bench.announce("run-1")
    await bench.serve_for(10.0)
    assert bench.unmatched(0) == [("callback_unmatched", "result_too_large")]
    assert bench.at_clay.runs == ["run-1"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"destination": "none"}, "unknown_destination"),
        ({"workspace": "none", "destination": "acme-main"}, "unknown_destination"),
    ],
)
@virtual_time
async def test_an_announcement_of_nothing_configured_is_reported(
    changes: dict[str, str],
    reason: str,
) -> None:
    bench = RoutineBench()
    bench.announce("run-1", **changes)
    await bench.serve_for(2.0)
    assert bench.unmatched(0) == [("callback_unmatched", reason)]


@virtual_time
async def test_a_table_announces_no_runs() -> None:
    bench = Bench()
    bench.announce("run-1")
    await bench.serve_for(2.0)
    assert bench.unmatched(0) == [("callback_unmatched", "unknown_destination")]


@virtual_time
async def test_with_announcements_each_lead_takes_one_poll() -> None:
    """Each run is announced when it has finished, before its first poll by the schedule."""
    clay = RoutineClay()
    clay.finishes_s = 12.0
    bench = Bench(Setup(routines=True, rate_per_s=50.0, burst=50), clay=lambda _: clay, runs=clay)
    bench.change_destination(poll_after_s=(20.0, 60.0), callback_deadline_s=1_000.0)
    await bench.serve()
    bench.publish_leads(20)
    await asyncio.sleep(13.0)
    for number in range(1, 21):
        bench.announce(f"run_{number}")
    await asyncio.sleep(5.0)
    assert len(bench.results()) == 20
    assert {len(polls) for polls in clay.polls.values()} == {1}
    await asyncio.sleep(3_600.0)
    assert len(clay.all_polls) == 20, "nothing is asked for again"


@virtual_time
async def test_an_announcement_of_a_run_that_goes_on_costs_one_poll() -> None:
    """Forged by someone who knows the secret, or sent too early: the schedule goes on behind it."""
    clay = RoutineClay()
    clay.finishes_s = 90.0
    bench = Bench(ROUTINE, clay=lambda _: clay, runs=clay)
    bench.change_destination(poll_after_s=(60.0, 120.0), callback_deadline_s=1_000.0)
    await bench.serve()
    bench.publish_leads(1)
    await asyncio.sleep(10.0)
    bench.announce("run_1")
    await asyncio.sleep(30.0)
    assert len(clay.all_polls) == 1
    await asyncio.sleep(100.0)
    assert len(clay.all_polls) == 3
    assert bench.history("id0")[-1] == "enriched"


@virtual_time
async def test_announcements_of_settled_runs_do_nothing_however_often_they_come() -> None:
    clay = RoutineClay()
    bench = Bench(ROUTINE, clay=lambda _: clay, runs=clay)
    bench.change_destination(poll_after_s=(20.0, 60.0), callback_deadline_s=1_000.0)
    await bench.serve()
    bench.publish_leads(1)
    await asyncio.sleep(10.0)
    for _ in range(5):
        bench.announce("run_1")
        await asyncio.sleep(10.0)
    assert len(clay.all_polls) == 1
    assert bench.history("id0")[-1] == "enriched"
    assert [event for event in bench.events() if event.status == "callback_unmatched"] == []


@pytest.mark.parametrize(
    "run_webhook",
    [None, "wh_1"],
)
@virtual_time
async def test_an_uncertain_send_is_parked_when_nothing_can_settle_it_any_more(
    run_webhook: str | None,
) -> None:
    """Without announcements that is at once: no run can be found, and none is announced."""
    bench = RoutineBench()
    bench.change_destination(run_webhook=run_webhook)
    bench.clay.first = [Uncertain("reset", 1)]
    await bench.serve()
    bench.publish_leads(1)
    await asyncio.sleep(20.0)
    if run_webhook is not None:
        assert bench.states(LEAD)[-1] == "send_uncertain"
        await bench.grace_ends()
    parked = bench.events(LEAD)[-1]
    assert parked.status == "parked"
    assert parked.text == (
        "it may have reached Clay (reset); without run_webhook nothing can show that, and its run "
        "cannot be found: look for it in Clay"
        if run_webhook is None
        else "it may have reached Clay, and no run of it was announced in time"
    )
    bench.at_clay.finish("run-1", bench.key)
    bench.announce("run-1")
    await asyncio.sleep(20.0)
    assert bench.history("id0")[-1] == "enriched", "a late announcement settles it, too"
    assert bench.events(LEAD)[-2].text == "Clay's answer shows that it has the lead"
