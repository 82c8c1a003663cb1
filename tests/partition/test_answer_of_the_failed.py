"""The provisional result of a hot lead whose POST was refused; a partition in memory."""

import asyncio
from typing import Any, Final

import pytest

from stream_app.domain.dead_letter.replay import returning
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.lead.identity import people
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.outcome import (
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
)
from tests.support.narrow import present
from tests.support.partition.degrading import ADA, DegradingBench, SlowCache
from tests.support.partition.virtual import now_ms, virtual_time

BUSY: Final = Refused("http_503", 1, 503)
NOT_SENT: Final = Refused("connect_failed", 1)


async def free_lane(**of_workspace: Any) -> DegradingBench:
    """A lane that holds nothing, and degrades if it does."""
    return await DegradingBench.started(budget=BudgetPolicy(), **of_workspace)


def sources(bench: DegradingBench, lead_id: str = "1") -> list[tuple[str, int]]:
    return [(result.source, result.version) for result in bench.results(lead_id)]


@pytest.mark.parametrize("failure", [BUSY, NOT_SENT, RateLimited(429, 1, "60")])
@virtual_time
async def test_a_refused_lead_is_answered_within_a_second_and_goes_on(failure: Outcome) -> None:
    bench = await free_lane()
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [failure]
    began_ms = now_ms()
    bench.produce({"lead_id": "1", "fields": {"email": ADA}})
    await asyncio.sleep(0.9)
    (answer,) = bench.results("1")
    assert answer.source == "cache"
    assert answer.fields == {"title": "CEO"}
    assert answer.age_s // 86_400 == 2
    assert answer.at_ms - began_ms < 1_000
    row = present(bench.partition.state.rows.delivery(delivery_key("acme", "acme-main", "1")))
    assert not row.final
    await asyncio.sleep(70)
    assert bench.history("1")[:5] == ["received", "sending", "refused", "sending", "accepted"]
    await bench.enrich("1", title="CTO")
    assert bench.history("1")[-1] == "enriched"
    assert sources(bench) == [("cache", 1), ("clay", 2)]


@virtual_time
async def test_an_old_result_or_its_own_fields_answer_where_nothing_better_is_known() -> None:
    bench = await free_lane()
    await bench.remember("stale@b.example", days=40, title="CTO")
    for lead_id, email, source in (("1", "stale@b.example", "stale"), ("2", ADA, "local")):
        bench.clay.first = [BUSY]
        await bench.lead(lead_id, email)
        assert sources(bench, lead_id) == [(source, 1)]
    assert bench.results("2")[0].fields == {"company_name": "acme"}


@virtual_time
async def test_a_lead_that_fails_again_is_not_answered_again() -> None:
    bench = await free_lane()
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [BUSY, NOT_SENT]
    assert await bench.lead("1", ADA) == [
        *("received", "sending", "refused", "sending", "refused", "sending", "accepted"),
    ]
    assert sources(bench) == [("cache", 1)]


@virtual_time
async def test_a_lead_that_was_answered_is_not_answered_again_by_its_next_owner() -> None:
    bench = await free_lane()
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [RateLimited(429, 1, "10")]
    bench.produce({"lead_id": "1", "fields": {"email": ADA}})
    await asyncio.sleep(1)
    await bench.kill()
    bench.clay.first = [BUSY]
    await bench.start()
    await asyncio.sleep(12)
    await bench.all_return()
    assert bench.history("1")[3:] == [
        *("deferred", "replayed", "sending", "refused", "sending", "accepted"),
    ]
    assert sources(bench) == [("cache", 1)]


@virtual_time
async def test_a_lead_that_was_answered_is_not_answered_again_as_a_dead_letter() -> None:
    bench = DegradingBench()
    bench.change_workspaces(budget=BudgetPolicy())
    await bench.start()
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [BUSY, BUSY, BUSY, BUSY]
    await bench.lead("1", ADA)
    assert "dead_lettered" in bench.history("1"), bench.history("1")
    assert sources(bench) == [("cache", 1)]
    (letter,) = bench.dlq()
    bench.clay.first = [BUSY]
    await bench.come_back(letter, returning(read_envelope(letter), letter.record_id))
    assert bench.history("1")[-4:] == ["sending", "refused", "sending", "accepted"]
    assert sources(bench) == [("cache", 1)]


@pytest.mark.parametrize(
    "outcome",
    [
        Uncertain("request_timeout", 1),
        Poison(422, 1),
        Denied(401, 1),
        RateLimited(429, 1, "1"),
    ],
)
@virtual_time
async def test_what_is_uncertain_final_or_soon_tried_again_is_not_answered(
    outcome: Outcome,
) -> None:
    bench = await free_lane(fallback=("cache", "stale"))
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [outcome]
    assert "sending" in await bench.lead("1", ADA)
    assert bench.results("1") == []


@virtual_time
async def test_a_wait_as_long_as_the_patience_of_a_lead_is_not_long() -> None:
    bench = await free_lane()
    patience_s = int(bench.plan.delivery.patience_s)
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [RateLimited(429, 1, str(patience_s))]
    await bench.lead("1", ADA)
    assert bench.results("1") == []


@pytest.mark.parametrize(
    ("workspace", "destination"),
    [
        ({"hold": "pause"}, {}),
        ({"fallback": ()}, {}),
        ({"fallback": ("stale",)}, {}),
        ({}, {"callbacks": False}),
    ],
)
@virtual_time
async def test_nothing_changes_for_leads_without_a_fallback(
    workspace: Any,
    destination: Any,
) -> None:
    """Without callbacks nothing better would ever follow."""
    bench = await free_lane(**workspace)
    bench.change_destination(**destination)
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [BUSY]
    history = await bench.lead("1", ADA)
    assert history[:5] == ["received", "sending", "refused", "sending", "accepted"]
    assert bench.results("1") == []


@virtual_time
async def test_bulk_and_forced_leads_wait_for_clay() -> None:
    bench = await free_lane()
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [BUSY]
    bench.produce({"lead_id": "1", "fields": {"email": ADA}}, bench.plan.topics.bulk)
    await asyncio.sleep(5)
    bench.clay.first = [BUSY]
    await bench.lead("2", ADA, force=True)
    assert [event.status for event in bench.events()].count("refused") == 2
    assert bench.results() == []


@virtual_time
async def test_a_person_who_is_suppressed_during_the_lookup_gets_no_answer() -> None:
    bench = await free_lane(cache=SlowCache())
    await bench.remember(ADA, days=2, title="CEO")
    (person,) = people({"email": ADA})
    bench.clay.first = [BUSY]
    bench.produce({"lead_id": "1", "fields": {"email": ADA}})
    await asyncio.sleep(0.5)
    await bench.order("suppress", workspace="", people=[person], for_s=5)
    assert bench.history("1") == ["received", "sending", "refused", "suppressed"]
    assert bench.results("1") == []


@virtual_time
async def test_a_lead_that_was_answered_has_no_second_answer_when_its_lane_is_held() -> None:
    bench = await free_lane()
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [RateLimited(429, 1, "60")]
    bench.produce({"lead_id": "1", "fields": {"email": ADA}})
    await asyncio.sleep(1)
    bench.change_workspaces(budget=BudgetPolicy(credits_per_day=0))
    await asyncio.sleep(70)
    assert bench.history("1")[-1] == "deferred"
    assert sources(bench) == [("cache", 1)]
    await bench.open_and_return()
    await bench.enrich("1", title="CTO")
    assert sources(bench) == [("cache", 1), ("clay", 2)]


@virtual_time
async def test_a_lead_that_was_answered_while_its_lane_was_held_has_no_second_answer() -> None:
    bench = await DegradingBench.started()
    await bench.lead("1", ADA)
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [BUSY]
    await bench.open_and_return()
    assert bench.history("1")[-2:] == ["sending", "accepted"]
    assert sources(bench) == [("local", 1)]
