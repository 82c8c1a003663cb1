"""An erasure: what it removes, also from Kafka by compaction, and that none of it comes back."""

import asyncio
import json
from contextlib import nullcontext
from unittest.mock import patch

import pytest

from stream_app.domain.cached_results import erased_by
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.lead.identity import people
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.topics import ERASED_LAG_MS
from tests.support.partition.degrading import ADA, DegradingBench
from tests.support.partition.virtual import fail, virtual_time

(PERSON,) = people({"email": ADA})


async def erase(bench: DegradingBench, lead_id: str) -> CommandAnswer:
    await bench.order(
        "erase",
        lead_id=lead_id,
        destinations=["acme-main"],
        people=[PERSON],
        for_s=5,
    )
    return bench.answers()[-1]


def enriched(bench: DegradingBench) -> list[ConsumedRecord]:
    return list(bench.kafka.log("leads.enriched", 0).committed())


@virtual_time
async def test_an_erased_lead_leaves_a_tombstone_an_event_and_no_way_to_its_person() -> None:
    bench = await DegradingBench.started(budget=BudgetPolicy())
    await bench.lead("1", ADA)
    await bench.enrich("1", title="CEO")
    answer = await erase(bench, "1")
    assert answer.applied
    last = enriched(bench)[-1]
    assert last.key == b"acme/acme-main/1"
    assert last.value is None
    assert erased_by(last.key, last.headers) == ("acme", "acme-main", [PERSON])
    assert bench.history("1")[-1] == "erased"
    event = bench.events()[-1]
    assert "delete its row in Clay by hand, in the tables of acme-main" in event.text
    assert bench.partition.state.rows.get(f"p/acme/acme-main/{PERSON}".encode()) is None
    again = await erase(bench, "1")
    assert again.applied is False
    assert again.reason == "repeated"
    assert [record.value is None for record in enriched(bench)].count(True) == 1


@pytest.mark.parametrize("fields", [{"title": "CEO"}, {}], ids=["as_it_came", "without_its_fields"])
@virtual_time
async def test_a_callback_of_an_erased_lead_settles_its_money_and_publishes_nothing(
    fields: dict[str, str],
) -> None:
    bench = await DegradingBench.started(budget=BudgetPolicy(credits_per_day=100))
    await bench.lead("1", ADA)
    await erase(bench, "1")
    await bench.enrich("1", **fields)
    assert bench.history("1") == ["received", "sending", "accepted", "erased", "enriched"]
    assert [record.value for record in enriched(bench)] == [None]
    lanes = [
        record
        for record in bench.kafka.log(bench.plan.topics.state, 0).committed()
        if record.key == b"l/acme"
    ]
    (day,) = json.loads(lanes[-1].value or b"")["budget"]["days"]
    assert day.get("credits_reserved", 0) == 0


@virtual_time
async def test_a_deferred_lead_that_was_erased_is_not_sent_and_one_published_later_is() -> None:
    bench = await DegradingBench.started()
    await bench.lead("1", ADA)
    await erase(bench, "1")
    await bench.open_and_return()
    assert bench.history("1")[-2:] == ["replayed", "suppressed"]
    assert bench.clay.lead_ids == []
    await bench.lead("1", ADA)
    assert bench.clay.lead_ids == ["1"], "the person is not on the suppression list"


DAY_S = 86_400


@pytest.mark.parametrize("fails", [False, True], ids=["at_once", "after_failed_transactions"])
@virtual_time
async def test_a_day_after_an_erasure_a_seal_is_written_once_and_deletes_nothing(
    fails: bool,
) -> None:
    bench = await DegradingBench.started(budget=BudgetPolicy())
    await bench.lead("1", ADA)
    await bench.enrich("1", title="CEO")
    await erase(bench, "1")
    before = len(enriched(bench))
    await asyncio.sleep(ERASED_LAG_MS / 1000)
    assert len(enriched(bench)) == before, "Kafka would not compact the segment yet"
    with patch.object(bench.store, "transact", side_effect=Aborted) if fails else nullcontext():
        await asyncio.sleep(DAY_S / 12)
    await asyncio.sleep(60)
    sealed = enriched(bench)[before:]
    assert [(record.key, record.value) for record in sealed] == [(b"acme//", None)]
    assert erased_by(sealed[0].key, sealed[0].headers) is None
    await asyncio.sleep(20 * DAY_S)
    assert len(enriched(bench)) == before + 1


@pytest.mark.parametrize(("days", "seals"), [(6.9, 1), (7.1, 0)])
@virtual_time
async def test_a_new_owner_writes_a_seal_again_for_a_week(days: float, seals: int) -> None:
    bench = await DegradingBench.started(budget=BudgetPolicy())
    await bench.lead("1", ADA)
    await bench.enrich("1", title="CEO")
    await erase(bench, "1")
    await asyncio.sleep(days * DAY_S)
    before = len(enriched(bench))
    await bench.partition.close()
    await bench.owner(alarm=fail).take_over()
    await asyncio.sleep(60)
    assert len(enriched(bench)) - before == seals


@virtual_time
async def test_without_an_erasure_nothing_is_written() -> None:
    bench = await DegradingBench.started(budget=BudgetPolicy())
    await bench.lead("1", ADA)
    await asyncio.sleep(3 * DAY_S)
    assert not [record for record in enriched(bench) if record.key == b"acme//"]
