"""After an erasure the partition of `leads.enriched` gets one more record, so that Kafka compacts the result away."""

import asyncio

from stream_app.domain.lane.budget import BudgetPolicy
from stream_app.domain.result.tombstone import erased_by
from stream_app.domain.topics import ERASED_LAG_MS
from tests.partition.test_erase import enriched, erase
from tests.partition.test_fallback import ADA, Bench
from tests.partition.virtual import run

DAY_S = 86_400


def test_a_day_after_an_erasure_a_seal_is_written_once_and_deletes_nothing() -> None:
    async def main() -> None:
        bench = Bench(budget=BudgetPolicy())
        await bench.begin()
        await bench.lead("1", ADA)
        await bench.call_back("1", title="CEO")
        await erase(bench, "1")
        before = len(enriched(bench))
        await asyncio.sleep(ERASED_LAG_MS / 1000)
        assert len(enriched(bench)) == before, "Kafka would not compact the segment yet"
        await asyncio.sleep(DAY_S / 12)
        sealed = enriched(bench)[before:]
        assert [(each.key, each.value) for each in sealed] == [(b"acme//", None)]
        assert erased_by(sealed[0].key, sealed[0].headers) is None
        await asyncio.sleep(20 * DAY_S)
        assert len(enriched(bench)) == before + 1

    run(main())


def test_without_an_erasure_nothing_is_written() -> None:
    async def main() -> None:
        bench = Bench(budget=BudgetPolicy())
        await bench.begin()
        await bench.lead("1", ADA)
        await asyncio.sleep(3 * DAY_S)
        assert not [each for each in enriched(bench) if each.key == b"acme//"]

    run(main())
