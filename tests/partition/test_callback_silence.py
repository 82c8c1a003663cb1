"""A lane or a destination that gets no callbacks is suspended, and probes find out when they come again."""

import asyncio
import json
from typing import Any

import msgspec

from stream_app.domain.model.records import Record
from stream_app.partition.owner import PartitionOwner
from tests.partition.test_timeouts import Bench
from tests.partition.virtual import virtual_time
from tests.simulation.schedule import Setup


def publish_leads(bench: Bench, first: int, count: int) -> None:
    for number in range(first, first + count):
        bench.publish(f"id{number}", f"p{number}")


def events_of(bench: Bench) -> list[dict[str, Any]]:
    log = bench.kafka.log(bench.plan.topics.status, 0).committed()
    return [msgspec.json.decode(consumed.value or b"") for consumed in log]


@virtual_time
async def test_a_lane_without_callbacks_is_suspended_with_causes_until_a_probe_is_answered() -> None:
    bench = Bench(Setup(silent_after=3))
    publish_leads(bench, 0, 4)
    await bench.serve()
    await asyncio.sleep(60.0)
    emitted = [event for event in events_of(bench) if event["status"] == "credits_exhausted_suspected"]
    assert [event["lead_id"] for event in emitted] == ["id2"], "the lead that made it certain, once"
    assert "Likely, in this order: 1. the credits" in emitted[0]["text"]
    publish_leads(bench, 4, 3)
    await asyncio.sleep(200.0)
    assert len(bench.clay.bodies) == 4, "nothing more is sent into the void"
    await asyncio.sleep(100.0)
    assert len(bench.clay.bodies) == 5, "one probe"
    bench.call_back(lead_id="id0")
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 5, "a late callback is no proof that Clay works now"
    bench.call_back(lead_id="id4")
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 7, "the probe's is"
    assert bench.alarms == []


class TwoTables(Bench):
    """A second destination in the same workspace: firms."""

    def owner(self, **others: Any) -> PartitionOwner:
        firms = msgspec.structs.replace(self.plan.destinations["acme-main"], alias="firms", webhook_ids=("firms-0",))
        self.plan = msgspec.structs.replace(self.plan, destinations={**self.plan.destinations, "firms": firms})
        return super().owner(**others)

    def publish_firm(self, name: str) -> None:
        lead = {"lead_id": name, "destination": "firms", "fields": {"email": f"{name}@example.com"}}
        self.kafka.produce(0, Record(self.plan.topics.leads, b"acme", json.dumps(lead).encode()))

    def firms(self) -> list[str]:
        """The ids of those that Clay got."""
        ids: list[str] = [json.loads(body)["lead_id"] for body in self.clay.bodies]
        return [lead_id for lead_id in ids if lead_id.startswith("firm")]


@virtual_time
async def test_callbacks_of_one_table_do_not_hide_the_silence_of_another() -> None:
    bench = TwoTables(Setup(silent_after=3))
    await bench.serve()
    for number in range(20):
        bench.publish(f"id{number}", f"p{number}")
        bench.publish_firm(f"firm{number}")
        await asyncio.sleep(5.0)
        bench.call_back(lead_id=f"id{number}")
    sent = len(bench.firms())
    assert sent <= 13, "3 are overdue after 60 s, and one was sent in 5 s"
    [emitted] = [event for event in events_of(bench) if event["status"] == "credits_exhausted_suspected"]
    assert emitted["lead_id"] == "firm2"
    assert "3 leads of firms are overdue" in emitted["text"]
    assert "1. auto-run is off in the table of firms" in emitted["text"]
    assert bench.partition.state.lanes.view("acme").holds == "no_callbacks"
    await asyncio.sleep(400.0)
    assert len(bench.firms()) == sent + 1, "one probe"
    bench.call_back(lead_id=bench.firms()[-1], destination="firms")
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 40
    assert bench.alarms == []


@virtual_time
async def test_a_lane_that_is_only_partly_silent_goes_on() -> None:
    bench = Bench(Setup(silent_after=3, rate_per_s=1000.0, burst=100))
    await bench.serve()
    for number in range(60):
        publish_leads(bench, number, 1)
        await asyncio.sleep(5.0)
        if number % 10 == 0:
            bench.call_back(lead_id=f"id{number}")
    assert len(bench.clay.bodies) == 60
    assert not any(event["status"] == "credits_exhausted_suspected" for event in events_of(bench))
    assert sum(event["status"] == "callback_overdue" for event in events_of(bench)) > 30
