"""Announcements of runs on a partition with an in-memory Kafka: a lost answer to a POST settles
itself, and nothing else that may be announced does harm.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import (
    ROW_VERSION,
    Delivery,
    delivery_key,
    item_id,
)
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.messages import Status
from stream_app.domain.model.outcome import Accepted, Uncertain
from stream_app.domain.model.records import Record
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
from stream_app.domain.plan import Destination
from stream_app.partition import open_runs
from stream_app.partition.open_runs import OpenRuns, RoutinePlace
from tests.simulation.schedule import Setup, plan_of
from tests.support.partition.bench import HELD, LEAD, PAID, Bench
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import now_ms, virtual_time

ROUTINE: Final = Setup(routines=True)
HELD_NOW: Final = {"reservation": None, "booked": HELD}


class RunsAtClay:
    """What Clay says of runs: the next of the `first` answers of a run, then the `last` one."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.first: dict[str, list[RunAnswer]] = {}
        self.last: dict[str, RunAnswer] = {}
        self.takes_s = 0.5

    async def results(self, destination: str, run: str) -> RunAnswer:
        self.asked.append((run, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.takes_s)
        if waiting := self.first.get(run):
            return waiting.pop(0)
        return self.last.get(run, RunGone(404, "run not found"))

    async def balance(self, workspace: str) -> float | None:
        return None

    @property
    def runs(self) -> list[str]:
        return [run for run, _ in self.asked]

    def finish(self, run: str, *keys: bytes, **outputs: Any) -> None:
        """Let a run have finished, with an item of each of these leads."""
        results = outputs or {"title": "CTO", "credits": 7, "actions": 1}
        items = (RunItem(item_id(key), "complete", results) for key in keys)
        self.last[run] = RunFinished(tuple(items))


class RoutineBench(Bench):
    """A bench whose leads go to routines."""

    def __init__(self, setup: Setup = ROUTINE, **others: Any) -> None:
        self.at_clay = RunsAtClay()
        super().__init__(setup, runs=self.at_clay, **others)
        self.change_destination(run_webhook="wh_1")


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


@virtual_time
async def test_an_announcement_before_the_answer_to_the_post_asks_nobody() -> None:
    """The POST is under way: its answer names the run, and the lead is asked about then."""
    bench = RoutineBench(clay_takes_s=3.0)
    bench.clay.first = [Accepted(202, 3_000, run="run-1")]
    await bench.serve()
    bench.publish_leads(1)
    await asyncio.sleep(1.0)
    bench.announce("run-1")
    bench.announce("run-2")
    await asyncio.sleep(1.0)
    assert bench.at_clay.asked == []
    await asyncio.sleep(5.0)
    assert bench.unmatched(0) == []
    assert bench.unmatched(1) == [("callback_unmatched", "unknown_run")]


@virtual_time
async def test_a_run_whose_lead_becomes_known_while_clay_is_asked_settles_that_lead() -> None:
    """Another lead is in doubt, so Clay is asked; meanwhile the answer to the POST comes."""
    bench = RoutineBench(clay_takes_s=3.0)
    bench.leave_row("send_uncertain", sends=1)
    bench.clay.first = [Accepted(202, 3_000, run="run-1")]
    bench.at_clay.takes_s = 4.0
    bench.at_clay.finish("run-1", delivery_key("acme", "acme-main", "id1"))
    await bench.serve()
    bench.publish("id1", "p1")
    await asyncio.sleep(1.0)
    bench.announce("run-1")
    await asyncio.sleep(1.0)
    assert bench.at_clay.runs == ["run-1"]
    assert bench.history("id1")[-1] == "sending"
    await asyncio.sleep(3.5)
    assert bench.history("id1")[-1] == "enriched"
    assert bench.unmatched(0) == []


@virtual_time
async def test_pending_announcements_keep_no_lead_waiting_when_a_worker_takes_over() -> None:
    bench = RoutineBench()
    bench.at_clay.takes_s = 30.0
    bench.leave_row("parked", sends=1, **HELD_NOW)
    bench.at_clay.finish("run-1", bench.key)
    bench.announce("run-1")
    bench.publish("id1", "p1")
    await bench.serve_for(10.0)
    assert "accepted" in bench.history("id1")
    await asyncio.sleep(60.0)
    assert bench.history("id0")[-1] == "enriched"


@virtual_time
async def test_another_owner_asks_again_about_what_was_not_concluded() -> None:
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.first["run-1"] = [RunUnread("reset", "reset")]
    bench.at_clay.finish("run-1", bench.key)
    bench.announce("run-1")
    await bench.serve_for(2.0)
    await bench.kill()
    await bench.start()
    await asyncio.sleep(10.0)
    assert bench.at_clay.runs == ["run-1", "run-1"]
    assert bench.states(LEAD)[-1] == "enriched"


@virtual_time
async def test_a_stream_that_is_suspended_gives_the_announcement_up_at_once() -> None:
    bench = RoutineBench()
    bench.at_clay.takes_s = 1_000.0
    bench.leave_row("send_uncertain", sends=1)
    bench.announce("run-1")
    await bench.serve_for(2.0)
    stream = bench.streams["callback"]
    stream.suspend()
    async with asyncio.timeout(1.0):
        await stream.drained()
    assert stream.committed() in (None, 0)


@virtual_time
async def test_callbacks_and_leads_go_on_beside_as_many_unknown_runs_as_there_are() -> None:
    bench = RoutineBench(Setup(routines=True, max_in_flight=2))
    bench.at_clay.takes_s = 1_000.0
    bench.leave_row("send_uncertain", sends=1)
    await bench.serve_for(1.0)
    for number in range(20):
        bench.announce(f"run-{number}")
    bench.call_back()
    await asyncio.sleep(10.0)
    assert bench.states(LEAD)[-1] == "enriched", "by a callback of the table that it had before"
    assert bench.unmatched(5) == [("callback_unmatched", "too_many_runs")]
    assert len(bench.at_clay.asked) == 4


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
async def test_only_some_settled_runs_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is forgotten is reported again, and that is all."""
    monkeypatch.setattr(open_runs, "MOST_SETTLED", 2)
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    for number in (0, 1, 2, 2, 0):
        bench.at_clay.last[f"run-{number}"] = RunFinished(())
        bench.announce(f"run-{number}")
        await bench.serve() if number == 0 and not bench.at_clay.asked else None
        await asyncio.sleep(2.0)
    assert bench.at_clay.runs == ["run-0", "run-1", "run-2", "run-0"]


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
    monkeypatch.setattr(open_runs, "MOST_SETTLED", 3)
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


def settled_row(run: str) -> bytes:
    row = Delivery(ROW_VERSION, "enriched", LEAD, 3, 1, 1, "t", final=True, run=run)
    return msgspec.json.encode(row)


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
    runs = bench.partition.state.runs
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


@virtual_time
async def test_an_announced_result_whose_commit_fails_is_asked_for_again() -> None:
    """What was noted of a run belongs to the rows that were lost, and is forgotten with them."""
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.finish("run-1", bench.key)
    await bench.serve_for(2.0)
    commit = bench.store.transact
    failed = 0

    async def transact(records: Sequence[Record]) -> None:
        nonlocal failed
        if not failed and any(record.topic == bench.plan.topics.enriched for record in records):
            failed += 1
            raise Aborted("the transaction failed")
        await commit(records)

    bench.store.transact = transact  # type: ignore[method-assign]  # a Kafka that aborts once
    bench.announce("run-1")
    await asyncio.sleep(20.0)
    assert failed == 1
    assert bench.at_clay.runs == ["run-1", "run-1"]
    assert bench.states(LEAD)[-1] == "enriched"


@virtual_time
async def test_a_run_that_was_known_by_a_step_that_is_lost_is_asked_about_again() -> None:
    """The answer to the POST named it, and was not committed: its announcement must not be acked
    before.
    """
    clay = RoutineClay()
    clay.finishes_s = 1.0
    bench = Bench(ROUTINE, clay=lambda _: clay, runs=clay)
    bench.change_destination(run_webhook="wh_1", poll_after_s=(60.0,), callback_deadline_s=1_000.0)
    await bench.serve()
    commit = bench.store.transact
    failed = 0

    async def transact(records: Sequence[Record]) -> None:
        nonlocal failed
        if not failed and any(b'"accepted"' in (record.value or b"") for record in records):
            failed += 1
            await asyncio.sleep(10.0)
            raise Aborted("the transaction failed")
        await commit(records)

    bench.store.transact = transact  # type: ignore[method-assign]  # a Kafka that aborts once
    bench.publish_leads(1)
    await asyncio.sleep(5.0)
    bench.announce("run_1")
    await asyncio.sleep(30.0)
    assert failed == 1
    assert bench.history("id0")[-2:] == ["accepted", "enriched"]
    assert len(clay.bodies) == 1


@virtual_time
async def test_an_announcement_that_waits_for_its_lead_when_its_stream_goes_comes_again() -> None:
    """The results are known, and the POST is still under way: nothing is concluded before it ends.

    The same process gets the stream again, and has not forgotten the rows.
    """
    bench = RoutineBench(clay_takes_s=30.0)
    bench.clay.first = [Uncertain("reset", 1)]
    bench.leave_row("send_uncertain", sends=1, at_ms=now_ms())
    await bench.serve_for(1.0)
    bench.publish("id1", "p1")
    await asyncio.sleep(1.0)
    bench.at_clay.finish("run-2", delivery_key("acme", "acme-main", "id1"))
    bench.announce("run-2")
    await asyncio.sleep(2.0)
    assert bench.at_clay.runs == ["run-2"]
    stream = bench.streams["callback"]
    stream.suspend()
    async with asyncio.timeout(1.0):
        await stream.drained()
    await stream.end()
    bench.kafka.next_generation("g")
    bench.join()
    again = bench.partition.runner.serve(bench.streams["callback"], "callback")
    serving = asyncio.create_task(again)
    await asyncio.sleep(60.0)
    assert bench.history("id1")[-2:] == ["accepted", "enriched"]
    assert len(bench.clay.bodies) == 1
    serving.cancel()


@virtual_time
async def test_a_second_announcement_waits_until_the_first_one_is_concluded() -> None:
    """A later owner may get them in another order, and must find the one that is not concluded."""
    bench = RoutineBench()
    bench.leave_row("send_uncertain", sends=1)
    bench.at_clay.first["run-1"] = [RunUnread("reset", "reset")]
    bench.at_clay.finish("run-1", bench.key)
    for _ in range(2):
        bench.announce("run-1")
    await bench.serve_for(3.0)
    assert len(bench.partition.runner._unfinished) == 2
    await asyncio.sleep(10.0)
    assert bench.partition.runner._unfinished == {}
    assert bench.states(LEAD)[-1] == "enriched"
    assert bench.at_clay.runs == ["run-1", "run-1"]
