"""What may happen to a lead, its owner or its stream while an announced run is asked about."""

import asyncio
from collections.abc import Sequence

from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.outcome import Accepted, Uncertain
from stream_app.domain.model.records import Record
from stream_app.domain.model.run import RunUnread
from tests.simulation.schedule import Setup
from tests.support.partition.announced import HELD_NOW, ROUTINE, RoutineBench
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import now_ms, virtual_time


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
