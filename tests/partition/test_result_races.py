"""What may happen to a lead or to its owner while the results of its run are asked for."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from stream_app.domain.dead_letter.replay import redriven
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.run import (
    RunAnswer,
    RunFinished,
    RunUnfinished,
)
from stream_app.partition.poll_queue import OpenRun, PollQueue, RunningLead
from tests.simulation.client import NoAnswer
from tests.support.partition.bench import LEAD
from tests.support.partition.routines import AT_CLAY, Routines
from tests.support.partition.virtual import virtual_time

T = TypeVar("T")


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
async def test_a_result_settles_its_lead_in_the_turn_in_which_it_reads_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes no lock: a callback in between would settle the lead, too."""
    bench = Routines()
    bench.clay.finishes_s = 1.0
    find = PollQueue.find
    behind: list[str] = []

    def read(self: PollQueue, opened: OpenRun) -> RunningLead | None:
        asyncio.get_running_loop().call_soon(look)
        return find(self, opened)

    def look() -> None:
        row = bench.partition.state.rows.delivery(bench.key)
        assert row is not None
        behind.append(row.state)

    monkeypatch.setattr(PollQueue, "find", read)
    await bench.one()
    assert bench.states(LEAD) == [*AT_CLAY, "enriched"]
    assert behind[-1] == "enriched"


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


class AwayKafka:
    """A link that loses each request and each answer of these seconds of the loop's time."""

    def __init__(self, begins_s: float, ends_s: float) -> None:
        self._begins_s = begins_s
        self._ends_s = ends_s

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        await asyncio.sleep(0.01)
        if self._begins_s <= asyncio.get_running_loop().time() < self._ends_s:
            raise NoAnswer(what)
        return request()


@virtual_time
async def test_results_that_come_while_kafka_is_away_are_fetched_again_and_settled_once() -> None:
    bench = Routines(link=AwayKafka(8.0, 45.0))
    bench.change_destination(callback_deadline_s=600.0)
    bench.publish_leads(5)
    await bench.serve_for(6.0)
    assert bench.states().count("accepted") == 5
    assert len(bench.clay.all_polls) == 5, "their runs had not finished"
    await asyncio.sleep(32.0)
    assert len(bench.clay.all_polls) > 5
    assert bench.results() == []
    await asyncio.sleep(400.0)
    for number in range(5):
        assert bench.history(f"id{number}") == [*AT_CLAY, "enriched"]
    assert sorted(result.lead_id for result in bench.results()) == [
        f"id{number}" for number in range(5)
    ]
    assert len(bench.clay.posts_ms) == 5
    assert bench.day().credits_spent == 5 * 7
    bench.books()
