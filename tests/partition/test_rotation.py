"""A pepper is introduced and rotated under running leads: no duplicate send, and no send to a suppressed person."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stream_app.domain.lane.budget import BudgetPolicy
from stream_app.domain.lane_messages import Command
from stream_app.domain.lead.identity import people
from stream_app.domain.lead.pseudonyms import pseudonyms_of, use
from stream_app.domain.record import Record
from tests.partition.test_fallback import ADA, Bench
from tests.partition.virtual import now_ms, run

BEFORE_AND_AFTER = pytest.mark.parametrize(
    ("before", "after"), [([], ["new"]), (["old"], ["new", "old"])], ids=["introduced", "rotated"]
)


@BEFORE_AND_AFTER
@pytest.mark.parametrize("lead_id", ["2", "Ada King", "1"])
def test_a_known_person_is_not_sent_twice(before: list[str], after: list[str], lead_id: str) -> None:
    async def main() -> None:
        use(pseudonyms_of(before, False))
        bench = Bench(budget=BudgetPolicy())
        await bench.begin()
        await bench.lead("1", ADA)
        use(pseudonyms_of(after, False))
        await bench.lead(lead_id, ADA)
        use(pseudonyms_of(after[:1], False))
        await bench.lead("3", ADA)
        assert bench.clay.sent == ["1"], "the duplicate linked the person's new hash, too"

    run(main())


@BEFORE_AND_AFTER
def test_a_suppressed_person_is_not_sent(before: list[str], after: list[str]) -> None:
    async def main() -> None:
        use(pseudonyms_of(before, False))
        bench = Bench(budget=BudgetPolicy())
        await bench.begin()
        args = {"people": people({"email": ADA})}
        command = Command("s-1", "suppress", "", now_ms(), "ada", args=args)
        bench.kafka.produce(0, Record(bench.plan.topics.commands, b"", msgspec.json.encode(command)))
        await asyncio.sleep(5)
        use(pseudonyms_of(after, False))
        await bench.lead("1", ADA)
        assert bench.clay.sent == []
        assert bench.history("1")[-1] == "suppressed"

    run(main())


@BEFORE_AND_AFTER
def test_a_lead_whose_id_is_a_hash_is_sent_once(before: list[str], after: list[str]) -> None:
    async def main() -> None:
        use(pseudonyms_of(before, bool(before)))
        bench = Bench(budget=BudgetPolicy())
        await bench.begin()
        await bench.lead("1", ADA)
        use(pseudonyms_of(after, True))
        await bench.lead("1", "other@example.com")
        assert len(bench.clay.sent) == 1, "its row has the id that it had"

    run(main())
