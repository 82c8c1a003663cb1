"""The import of a lead on its events: on the first one in the home partition, whatever becomes of the lead."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from stream_app.domain.messages import ImportSummary, StatusEvent
from stream_app.domain.record import Record
from tests.partition.test_owner import Bench
from tests.partition.virtual import run
from tests.simulation.schedule import Setup

SUMMARY = {"rows": 12, "refused": 2, "leads": 10, "file": "for ada@example.com.csv", "who": "jane"}


async def events_of(*documents: dict[str, Any], partition: int = 0) -> list[StatusEvent]:
    bench = Bench(Setup(callbacks=False))
    for document in documents:
        value = json.dumps({"workspace": "acme", **document}).encode()
        bench.kafka.produce(partition, Record(bench.plan.topics.leads, b"acme", value))
    await bench.serve()
    await asyncio.sleep(10.0)
    found = bench.kafka.log(bench.plan.topics.status, 0).committed()
    return [msgspec.json.decode(consumed.value or b"", type=StatusEvent) for consumed in found]


def test_only_the_first_event_names_the_import() -> None:
    async def main() -> None:
        found = await events_of({"lead_id": "a", "fields": {"email": "ada@example.com"}, "import_id": "march"})
        assert len(found) > 2
        assert [event.import_id for event in found] == ["march", *[""] * (len(found) - 1)]

    run(main())


def test_the_summary_goes_on_without_personal_data() -> None:
    async def main() -> None:
        lead = {"lead_id": "a", "fields": {"email": "ada@example.com"}, "import_id": "march"}
        first = (await events_of({**lead, "import_summary": SUMMARY}))[0]
        assert first.import_summary == ImportSummary(12, 2, 10, "for [email]", "jane")

    run(main())


def test_a_duplicate_belongs_to_the_import_that_sent_it() -> None:
    async def main() -> None:
        lead = {"lead_id": "a", "fields": {"email": "ada@example.com"}}
        found = await events_of({**lead, "import_id": "march"}, {**lead, "import_id": "april"})
        assert [(event.status, event.import_id) for event in found if event.import_id] == [
            ("received", "march"),
            ("duplicate", "april"),
        ]

    run(main())


@pytest.mark.parametrize("import_id", ["ada@example.com", "x" * 201, None])
def test_a_name_that_may_be_personal_is_in_no_event(import_id: str | None) -> None:
    async def main() -> None:
        lead = {"lead_id": "a", "fields": {"email": "ada@example.com"}, "import_summary": SUMMARY}
        found = await events_of({**lead, "import_id": import_id})
        assert {(event.import_id, event.import_summary) for event in found} == {("", None)}

    run(main())
