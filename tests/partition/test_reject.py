"""Records that get no row: their events name the lead as far as it can be read."""

import asyncio
import json

import msgspec
import pytest

from stream_app.domain.messages import StatusEvent
from stream_app.domain.record import Record
from tests.partition.test_owner import Bench
from tests.partition.virtual import run
from tests.simulation.schedule import Setup

ADA = {"email": "ada@example.com"}


def _events(bench: Bench) -> list[StatusEvent]:
    emitted = bench.kafka.log(bench.plan.topics.status, 0).committed()
    return [msgspec.json.decode(consumed.value or b"", type=StatusEvent) for consumed in emitted]


@pytest.mark.parametrize(
    ("document", "lead_id"),
    [
        ({"lead_id": "r-1", "workspace": "unknown", "fields": ADA}, "r-1"),
        ({"lead_id": "r-2", "workspace": "acme", "destination": "peple", "fields": ADA}, "r-2"),
        ({"lead_id": "r-3", "workspace": "acme", "fields": {}}, "r-3"),
        ({"lead_id": "r-4", "workspace": "ac me", "fields": ADA}, "r-4"),
        ({"lead_id": "r-5", "workspace": "acme", "fields": {**ADA, "size": 2**70}}, "r-5"),
        ({"workspace": "acme", "fields": {"title": "CEO"}}, "record:leads/0/0"),
        ([], "record:leads/0/0"),
    ],
)
def test_a_rejected_lead_is_found_by_its_id(document: object, lead_id: str) -> None:
    async def main() -> None:
        bench = Bench(Setup(callbacks=False))
        bench.kafka.produce(0, Record(bench.plan.topics.leads, b"acme", json.dumps(document).encode()))
        await bench.serve()
        await asyncio.sleep(10.0)
        (event,) = _events(bench)
        assert (event.status, event.lead_id) == ("rejected_invalid", lead_id)

    run(main())


def test_a_rejected_lead_whose_id_is_an_address_is_known_by_its_hash() -> None:
    async def main() -> None:
        bench = Bench(Setup(callbacks=False))
        document = {"lead_id": "ada@example.com", "workspace": "unknown", "fields": ADA}
        bench.kafka.produce(0, Record(bench.plan.topics.leads, b"acme", json.dumps(document).encode()))
        await bench.serve()
        await asyncio.sleep(10.0)
        assert _events(bench)[0].lead_id.startswith("h-")

    run(main())


def test_a_duplicate_names_its_destination_and_the_first_lead() -> None:
    async def main() -> None:
        bench = Bench(Setup(callbacks=False))
        bench.publish("id0", "p0")
        bench.publish("id1", "p0")
        await bench.serve()
        await asyncio.sleep(10.0)
        event = next(event for event in _events(bench) if event.lead_id == "id1")
        assert (event.status, event.reason) == ("duplicate", "same_person")
        assert (event.workspace, event.destination) == ("acme", "acme-main")
        assert "id0" in event.text

    run(main())
