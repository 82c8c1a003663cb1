"""The fallback: which leads are served without Clay, and which never are; a partition in memory."""

import asyncio
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from stream_app.cache.filler import MemoryCache
from stream_app.domain.cached_results import CacheEntry
from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.lead.identity import company, people
from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.outcome import Refused
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Workspace
from stream_app.partition import fallback
from tests.simulation.client import MemoryStateStore
from tests.support.narrow import present
from tests.support.partition.degrading import ADA, DegradingBench, SlowCache
from tests.support.partition.virtual import virtual_time


@virtual_time
async def test_a_held_lead_gets_a_provisional_result_from_the_cache() -> None:
    bench = await DegradingBench.started()
    await bench.remember("fresh@a.example", days=2, title="CEO")
    await bench.remember("stale@b.example", days=40, title="CTO")
    await bench.remember("gone@c.example", days=200, title="old")
    assert await bench.lead("1", "fresh@a.example") == ["received", "served_from_cache"]
    assert await bench.lead("2", "stale@b.example") == ["received", "served_from_cache"]
    assert await bench.lead("3", "gone@c.example") == ["received", "served_locally", "deferred"]
    (one,) = bench.results("1")
    (two,) = bench.results("2")
    (three,) = bench.results("3")
    assert one.source == "cache"
    assert one.version == 1
    assert one.age_s // 86_400 == 2
    assert one.fields == {"title": "CEO"}
    assert two.source == "stale"
    assert two.age_s // 86_400 == 40
    assert two.provenance["title"].source == "acme-main"
    assert three.source == "local"
    assert three.fields == {"company_name": "acme"}
    assert three.provenance["company_name"].source == "domain"
    assert [event.saved for event in bench.events() if event.saved] == [6, 6], (
        "the estimate of each"
    )
    assert bench.clay.lead_ids == []


@virtual_time
async def test_a_deferred_lead_is_upgraded_once_when_its_lane_goes_on() -> None:
    bench = await DegradingBench.started()
    await bench.lead("1", ADA)
    await bench.open_and_return()
    await bench.enrich("1", title="CEO")
    expected = [
        "received",
        "served_locally",
        "deferred",
        "replayed",
        "sending",
        "accepted",
        "enriched",
    ]
    assert bench.history("1") == expected
    assert [(result.source, result.version) for result in bench.results("1")] == [
        ("local", 1),
        ("clay", 2),
    ]
    (person,) = people({"email": ADA})
    assert {result.person for result in bench.results("1")} == {person}
    assert {result.company for result in bench.results("1")} == {company({"email": ADA})}


@virtual_time
async def test_a_lead_deferred_twice_has_one_provisional_result() -> None:
    bench = await DegradingBench.started()
    await bench.lead("1", ADA)
    await bench.all_return()
    assert bench.history("1") == ["received", "served_locally", "deferred", "replayed", "deferred"]
    assert len(bench.results("1")) == 1


@virtual_time
async def test_others_of_a_company_complete_a_provisional_result() -> None:
    bench = await DegradingBench.started()
    await bench.remember("bob@acme.example", days=2, title="CTO", industry="bikes")
    await bench.lead("1", ADA)
    (local,) = bench.results("1")
    assert local.fields == {"industry": "bikes", "company_name": "acme"}
    assert local.provenance["industry"].shared


@pytest.mark.parametrize(
    ("workspace", "days", "status"),
    [({"fallback": ("cache",)}, 40, "deferred"), ({"hold": "pause"}, 2, "held_budget")],
)
@virtual_time
async def test_an_operator_chooses_what_may_be_served(
    workspace: Any,
    days: float,
    status: str,
) -> None:
    """Nothing is, where leads wait."""
    bench = await DegradingBench.started(**workspace)
    await bench.remember(ADA, days=days, title="CTO")
    assert await bench.lead("1", ADA) == ["received", status]
    assert bench.results("1") == []


@virtual_time
async def test_a_forced_lead_waits_for_clay_and_is_not_answered_from_the_cache() -> None:
    bench = await DegradingBench.started()
    await bench.remember(ADA, days=2, title="CTO")
    assert await bench.lead("1", ADA, force=True) == ["received", "deferred"]
    assert bench.results("1") == []


@virtual_time
async def test_cache_first_needs_no_grant_and_uses_only_fresh_results() -> None:
    bench = await DegradingBench.started(cache_first=True, hold="pause")
    await bench.remember(ADA, days=2, title="CEO")
    await bench.remember("stale@b.example", days=40, title="CTO")
    assert await bench.lead("1", ADA) == ["received", "served_from_cache"]
    assert [event.reason for event in bench.events()][-1] == "cache_first"
    assert await bench.lead("1", ADA) == ["received", "served_from_cache", "duplicate"], "once"
    row = present(bench.partition.state.rows.delivery(delivery_key("acme", "acme-main", "1")))
    assert row.final is True
    assert row.reservation is None
    assert await bench.lead("2", "stale@b.example") == ["received", "held_budget"]


@virtual_time
async def test_the_same_person_under_another_id_is_served_or_a_duplicate() -> None:
    bench = await DegradingBench.started(cache_first=True, budget=BudgetPolicy())
    await bench.lead("1", ADA)
    assert await bench.lead("2", ADA) == ["duplicate"], "nothing is known yet"
    await bench.enrich("1", title="CEO")
    await bench.remember(ADA, days=0, title="CEO")
    assert await bench.lead("3", ADA) == ["received", "served_from_cache"]
    assert [result.source for result in bench.results("3")] == ["cache"]
    assert await bench.lead("4", ADA, force=True) == ["received", "sending", "accepted"], (
        "in spite of the cache"
    )
    assert bench.clay.lead_ids == ["1", "4"]


@virtual_time
async def test_a_known_person_under_another_id_is_served_while_the_lane_is_held() -> None:
    """Without `cache_first`: in health it stays a duplicate, since its answer was bought under the
    first id.
    """
    bench = await DegradingBench.started(budget=BudgetPolicy())
    await bench.lead("1", ADA)
    await bench.enrich("1", title="CEO")
    bench.change_workspaces(budget=BudgetPolicy(credits_per_day=0))
    assert await bench.lead("0", ADA) == ["duplicate"], "nothing of it is in the cache"
    bench.change_workspaces(budget=BudgetPolicy())
    await bench.remember(ADA, days=40, title="CEO")
    assert await bench.lead("2", ADA) == ["duplicate"], "the lane moves"
    bench.change_workspaces(budget=BudgetPolicy(credits_per_day=0))
    assert await bench.lead("3", ADA) == ["received", "served_from_cache"]
    (result,) = bench.results("3")
    (event,) = [of_lead for of_lead in bench.events() if of_lead.lead_id == "3"][1:]
    assert result.source == "stale"
    assert result.fields["title"] == "CEO"
    assert event.reason == "stale"
    assert await bench.lead("3", ADA) == ["received", "served_from_cache", "duplicate"], "once"
    bench.change_workspaces(fallback=("cache", "local"))
    assert await bench.lead("4", ADA) == ["duplicate"], "an old result is not wanted"
    bench.change_workspaces(fallback=("cache", "stale"), hold="pause")
    assert await bench.lead("5", ADA) == ["duplicate"], (
        "leads wait here, and are not answered otherwise"
    )
    bench.change_workspaces(hold="degrade", budget=BudgetPolicy())
    assert await bench.lead("6", ADA) == ["duplicate"]
    assert bench.clay.lead_ids == ["1"]


@virtual_time
async def test_a_person_under_another_id_is_served_in_an_outage_even_while_a_probe_is_due() -> None:
    bench = await DegradingBench.started(budget=BudgetPolicy())
    await bench.lead("1", ADA)
    await bench.enrich("1", title="CEO")
    await bench.remember(ADA, days=2, title="CEO")
    bench.clay.first = [Refused("connect_error", 1)] * 1_000
    for number in range(8):
        await bench.lead(f"x{number}", f"x{number}@other.example")
    ids = [f"a{number}" for number in range(40)]
    for lead_id in ids:
        await bench.lead(lead_id, ADA)
    assert {tuple(bench.history(lead_id)) for lead_id in ids} == {("received", "served_from_cache")}
    assert not set(ids) & set(bench.clay.lead_ids)


class AskedCache(MemoryCache):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def find(self, slots: Sequence[str]) -> list[CacheEntry]:
        self.asked += 1
        return await super().find(slots)


@pytest.mark.parametrize("cache_first", [False, True])
@virtual_time
async def test_a_lead_that_was_ever_sent_is_not_concluded_from_the_cache(cache_first: bool) -> None:
    """Not while its lane is held after it was refused, nor when it comes back: its callback may
    still bring a result, which follows the provisional one.

    Another lead of the same age that was never sent is answered, so the cache has what it needs.
    """
    cache = AskedCache()
    breaker = BreakerPolicy(consecutive_failures=1, open_s=600.0)
    bench = await DegradingBench.started(
        cache=cache,
        budget=BudgetPolicy(),
        breaker=breaker,
        fallback=("cache", "stale"),
    )
    await bench.remember(ADA, days=2, title="CEO")
    await bench.remember("new@b.example", days=2, title="CTO")
    bench.clay.first = [Refused("connect_error", 1)]
    assert await bench.lead("1", ADA) == ["received", "sending", "refused", "deferred"]
    assert cache.asked == 1, "it has its answer, so the cache is not asked when its lane is held"
    assert await bench.lead("2", "new@b.example") == ["received", "served_from_cache"]
    if cache_first:
        main = bench.plan.destinations["acme-main"]
        bench.plan.destinations["acme-main"] = msgspec.structs.replace(main, cache_first=True)
    await bench.all_return()
    assert bench.history("1")[4:] == ["replayed", "deferred"]
    await bench.enrich("1", title="from Clay")
    assert bench.history("1")[-2:] == ["accepted", "enriched"]
    assert [(result.source, result.fields) for result in bench.results("1")] == [
        ("cache", {"title": "CEO"}),
        ("clay", {"title": "from Clay"}),
    ]


@virtual_time
async def test_a_person_who_is_suppressed_during_the_lookup_is_not_served() -> None:
    bench = await DegradingBench.started(cache_first=True, cache=SlowCache())
    await bench.remember(ADA, days=2, title="CEO")
    (person,) = people({"email": ADA})
    bench.produce({"lead_id": "1", "fields": {"email": ADA}})
    await asyncio.sleep(0.5)
    await bench.order("suppress", workspace="", people=[person], for_s=5)
    assert bench.history("1") == ["received", "suppressed"]
    assert bench.results("1") == []


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (0, "0 minutes"),
        (60, "1 minute"),
        (120, "2 minutes"),
        (7_199, "119 minutes"),
        (7_200, "2 hours"),
        (2 * 86_400 - 1, "47 hours"),
        (2 * 86_400, "2 days"),
        (90 * 86_400, "90 days"),
    ],
)
def test_the_age_of_a_result_in_words(age_s: int, words: str) -> None:
    assert fallback._in_words(age_s) == words


@pytest.mark.parametrize("shared", [False, True])
@virtual_time
async def test_a_lead_that_comes_during_the_bootstrap_is_not_answered_if_it_is_suppressed(
    shared: bool,
) -> None:
    """The command is older than the take-over.

    As long as it is not applied, the cache would answer the lead.
    """
    bench = DegradingBench(cache_first=True)
    if shared:
        bench.plan.put_workspace(Workspace("gamma", "gamma"), 0)
    await bench.remember(ADA, days=2, title="CEO")
    bench.command("suppress", workspace="", people=list(people({"email": ADA})))
    waiting = MemoryStateStore.waiting

    async def slow(
        self: MemoryStateStore,
        topic: str,
        offset: int,
        max_records: int,
    ) -> list[ConsumedRecord]:
        await asyncio.sleep(3.0)
        return await waiting(self, topic, offset, max_records)

    with patch.object(MemoryStateStore, "waiting", slow):
        # The topic of commands is read by the bootstrap first: the group assigns its partitions one
        # after the other.
        await bench.partition.take_over()
        serving = asyncio.create_task(bench.partition.runner.serve(bench.stream, "hot"))
        statuses = await bench.lead("1", ADA)
        assert statuses == [], "it waits for the bootstrap"
        await asyncio.sleep(5.0)
    assert bench.history("1") == ["received", "suppressed"]
    assert bench.results("1") == []
    assert bench.stream.committed() == 1
    await bench.leave(serving)


@virtual_time
async def test_a_lead_that_waits_for_the_bootstrap_is_given_up_at_a_rebalance() -> None:
    bench = DegradingBench(cache_first=True)

    async def never(
        self: MemoryStateStore,
        topic: str,
        offset: int,
        max_records: int,
    ) -> list[ConsumedRecord]:
        await asyncio.Event().wait()
        return []

    with patch.object(MemoryStateStore, "waiting", never):
        await bench.partition.take_over()
        serving = asyncio.create_task(bench.partition.runner.serve(bench.stream, "hot"))
        bench.publish_leads(5)
        await asyncio.sleep(2.0)
        assert bench.events() == []
        await bench.leave(serving)
    assert bench.stream.committed() is None
