"""A lane whose yield falls: who is told, what is held, and what ends it."""

import asyncio
from typing import Any

import msgspec
import pytest

from stream_app.board.notify import alert_of
from stream_app.client.messages import body_of
from stream_app.domain.delivery.state_machine import lane_key
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.yield_health import (
    YIELD_FELL,
    ColumnYieldHealth,
    ListYield,
    falls,
)
from stream_app.domain.views.explain import (
    ConsumerGroup,
    Facts,
    Finding,
    LaneFacts,
    explain,
)
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms, virtual_time

ALMOST = ListYield(0, 1_000, 600, 30, 1, 210)
"""A list of 60 % whose last answers were empty: the next empty ones prove a fall."""


def bench_of(known: ListYield = ALMOST, **destination: object) -> Bench:
    """A lane that knows so much of its column."""
    bench = Bench(clay_takes_s=0.1)
    bench.change_destination(**{"yield_": ("work_email",), **destination})
    yields = {"acme-main": {"work_email": ColumnYieldHealth((known,))}}
    lane = Lane("acme", 0, yields=yields)
    bench.put(bench.plan.topics.state, msgspec.json.encode(lane), lane_key("acme"))
    return bench


async def answered(bench: Bench, first: int, many: int, **answer: Any) -> None:
    """Publish so many leads, and have each answered."""
    bench.publish_leads(first, first + many)
    await asyncio.sleep(5.0)
    for number in range(first, first + many):
        bench.call_back(lead_id=f"id{number}", **{"fields": {"title": "CTO"}, **answer})
    await asyncio.sleep(5.0)


def explained(bench: Bench) -> list[Finding]:
    group = ConsumerGroup("Stable", 1)
    view = bench.partition.state.lanes.view("acme")
    facts = Facts(now_ms(), group, group, [LaneFacts("acme", 0, view, {})])
    return list(explain(facts))


def findings(bench: Bench) -> list[tuple[str, bool]]:
    return [(finding.code, finding.holds) for finding in explained(bench)]


@virtual_time
async def test_a_fall_is_told_once_with_its_cost_and_holds_nothing() -> None:
    bench = bench_of()
    await bench.serve()
    await answered(bench, 0, 10)
    (fall,) = bench.partition.state.lanes.view("acme").falls
    assert fall.destination == "acme-main"
    assert fall.column == "work_email"
    assert fall.was == pytest.approx(0.6, abs=0.01)
    assert fall.credits == 210 + 10 * 7
    assert (YIELD_FELL, False) in findings(bench)
    assert len(bench.clay.bodies) == 10
    await answered(bench, 10, 5)
    views = [
        msgspec.json.decode(record.value or b"")
        for record in bench.committed(bench.plan.topics.lanes)
    ]
    news = [change for view in views for change in view.get("news", [])]
    (text,) = [change["text"] for change in news if change["kind"] == YIELD_FELL]
    assert "Clay finds work_email for" in text
    assert len(bench.clay.bodies) == 15, "leads go on"


@virtual_time
async def test_a_fall_is_a_message_to_people_although_it_holds_nothing() -> None:
    bench = bench_of()
    await bench.serve()
    await answered(bench, 0, 10)
    alerts = [alert_of(finding, now_ms()) for finding in explained(bench)]
    (alert,) = [alert for alert in alerts if alert is not None]
    assert alert.name == YIELD_FELL
    assert alert.severity == "warning"
    (told,) = msgspec.json.decode(body_of([alert], [], "slack", now_ms())).values()
    (fall,) = falls(bench.lane().yields, now_ms())
    assert f"acme: {fall.text}. Does a provider fail?" in told


@virtual_time
async def test_by_option_a_fall_suspends_its_destination_until_a_probe_has_the_column() -> None:
    bench = bench_of(yield_suspends=True)
    await bench.serve()
    await answered(bench, 0, 10)
    view = bench.partition.state.lanes.view("acme")
    assert view.holds == YIELD_FELL
    assert "have cost" in view.text
    assert [code for code, _ in findings(bench)] == [YIELD_FELL], "told once, by what holds"
    bench.publish_leads(10, 14)
    await asyncio.sleep(400.0)
    assert len(bench.clay.bodies) == 11, "one probe"
    bench.call_back(lead_id="id10", fields={"title": "CTO"})
    await asyncio.sleep(5.0)
    assert bench.partition.state.lanes.view("acme").holds == YIELD_FELL, "it lacks the column"
    await asyncio.sleep(1_500.0)
    assert len(bench.clay.bodies) == 12, "another one"
    bench.call_back(lead_id="id11", fields={"work_email": "a@b.example"})
    await asyncio.sleep(5.0)
    view = bench.partition.state.lanes.view("acme")
    assert view.holds == ""
    assert view.falls == ()
    assert len(bench.clay.bodies) == 14


@virtual_time
async def test_an_operator_who_resumes_accepts_the_low_yield() -> None:
    bench = bench_of(yield_suspends=True)
    await bench.serve()
    await answered(bench, 0, 10)
    await bench.order("resume")
    assert bench.partition.state.lanes.view("acme").holds == ""
    await answered(bench, 10, 60)
    assert len(bench.clay.bodies) == 70
    assert bench.partition.state.lanes.view("acme").falls == ()


@virtual_time
async def test_an_answer_in_parts_counts_once() -> None:
    bench = bench_of(ListYield(0))
    await bench.serve()
    bench.publish_leads(1)
    await asyncio.sleep(5.0)
    bench.call_back("partial")
    await asyncio.sleep(5.0)
    bench.call_back(fields={"work_email": "a@b.example"})
    await asyncio.sleep(5.0)
    (known,) = bench.lane().yields["acme-main"]["work_email"].lists
    assert known.answered == 1
    assert known.filled == 0


@virtual_time
async def test_the_answers_of_an_import_are_those_of_its_list() -> None:
    bench = bench_of()
    await bench.serve()
    bench.publish("id0", "p0", import_id="tuesday")
    bench.publish("id1", "p1")
    await asyncio.sleep(5.0)
    for lead_id in ("id0", "id1"):
        bench.call_back(lead_id=lead_id, fields={"work_email": "a@b.example"})
        await asyncio.sleep(5.0)
    lists = bench.lane().yields["acme-main"]["work_email"].lists
    stream, tuesday = lists
    assert stream.id == 0
    assert stream.since == 31
    assert tuesday.id > 0
    assert tuesday.answered == 1
    assert tuesday.filled == 1


@virtual_time
async def test_a_destination_that_names_no_column_keeps_nothing() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.change_destination(yield_=())
    await bench.serve()
    await answered(bench, 0, 3)
    assert bench.lane().yields == {}
    assert all(row.list_id == 0 for row in [bench.row()])


@virtual_time
async def test_values_of_the_columns_that_count_are_in_results_alone() -> None:
    bench = bench_of(ListYield(0))
    await bench.serve()
    bench.publish("id0", "p0", import_id="tuesday")
    await asyncio.sleep(5.0)
    value = "ada.of.nowhere@b.example"
    bench.call_back(fields={"work_email": value})
    await asyncio.sleep(5.0)
    assert bench.events()[-1].filled == ("work_email",)
    with_value = {
        log.topic
        for log in bench.kafka.logs
        for record in log.committed()
        if value.encode() in repr(record).encode()
    }
    names = bench.plan.topics
    assert with_value == {names.callbacks, names.enriched}
