"""What the result of a run does to its lead, and to the money of its lane."""

import asyncio
import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.messages import Status
from stream_app.domain.model.run import (
    RunAnswer,
    RunFinished,
    RunGone,
    RunItem,
    RunTooLarge,
    RunUnfinished,
)
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.routines import AT_CLAY, SETUP, Routines
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import now_ms, virtual_time


def failed(text: str = "Missing input") -> dict[str, Any]:
    """What an item that failed has."""
    return {"status": "failed", "outputs": {}, "text": text}


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
    ("item", "outcome", "says"),
    [
        ({}, "enriched", {}),
        ({"outputs": {"title": "CTO"}}, "enriched", {"credits": None, "actions": None}),
        ({"outputs": {}}, "no_data", {"credits": None, "actions": None}),
        (failed("Ask"), "enrich_error", {"credits": None, "actions": None, "text": "Ask"}),
    ],
)
@virtual_time
async def test_a_result_leaves_what_a_callback_leaves(
    item: dict[str, Any],
    outcome: str,
    says: dict[str, Any],
) -> None:
    """The result for the cache and for readers, the last event, the row, budget and health."""
    routine = Routines()
    routine.publish("id0", "p0")
    await routine.serve_for(1.0)
    routine.clay.of_run["run_1"] = routine.clay.finished("run_1", **item)
    await asyncio.sleep(9.0)
    table = Bench(dataclasses.replace(SETUP, routines=False), 0.1)
    table.publish("id0", "p0")
    await table.serve_for(1.0)
    table.call_back(outcome, at_ms=now_ms(), **says)
    await asyncio.sleep(9.0)
    left = [
        (
            [replace(result, at_ms=0) for result in bench.results()],
            replace(bench.events(LEAD)[-1], at_ms=0, waited_ms=0, waited_as=""),
            replace(bench.row(), at_ms=0, first_at_ms=0, accepted_at_ms=0, run="", webhook_id=""),
            bench.lane().budget,
            bench.lane().estimates,
            bench.lane().yields,
            bench.lane().paid,
        )
        for bench in (routine, table)
    ]
    assert left[0] == left[1]


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
async def test_a_run_over_midnight_takes_nothing_of_the_cap_of_the_next_day() -> None:
    """The cap has room for one lead a day, and the second one waits for the next day."""
    bench = Routines()
    bench.change_workspaces(budget=BudgetPolicy(credits_per_day=20))
    bench.change_destination(callback_deadline_s=600.0)
    bench.clay.finishes_s = 70.0
    bench.publish_leads(2)
    await bench.serve_for(50.0)
    assert [event.status for event in bench.events() if event.lead_id == "id1"][-1] == "held_budget"
    await asyncio.sleep(1_000.0)
    booked = {
        event.lead_id: (event.day, event.credits) for event in bench.events() if event.credits
    }
    assert booked == {"id0": ("2026-11-30", 7), "id1": ("2026-12-01", 7)}
    assert bench.clay.posts_ms[1] < bench.clay.polls["run_1"][-1], "nobody waits for the first run"
    spent = {day.id: (day.credits_spent, day.credits_reserved) for day in bench.lane().budget.days}
    assert spent == {"2026-11-30": (7, 0), "2026-12-01": (7, 0)}
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
