"""One table of a workspace fails, and the others do not; a partition in memory."""

import asyncio
from typing import Final

import msgspec

from stream_app.domain.dead_letter.replay import returning
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.model.outcome import Outcome, Refused
from stream_app.domain.views.lane import LaneView
from tests.simulation.schedule import Setup
from tests.support.narrow import present
from tests.support.partition.bench import Bench
from tests.support.partition.clay import SlowClay
from tests.support.partition.virtual import virtual_time

_view: Final = msgspec.json.Decoder(LaneView)


class OneSick(SlowClay):
    """Answers 503 for the destinations in `sick`, and takes all other leads."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.sick: set[str] = set()
        self.sent: dict[str, int] = {}

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.sent[destination] = self.sent.get(destination, 0) + 1
        took = await super().send(destination, webhook_id, body, trace_id)
        return Refused("http_503", 100, 503) if destination in self.sick else took


class TwoDestinations(Bench):
    """A workspace with the destinations acme-main and acme-firms."""

    clay: OneSick

    def __init__(self) -> None:
        super().__init__(Setup(callbacks=False), clay=lambda _: OneSick())
        self.add_destination("acme-firms")

    def lead(self, number: int, destination: str) -> None:
        self.publish(f"{destination}-{number}", f"p{destination}{number}", destination=destination)

    async def all_return(self) -> None:
        """What was deferred comes back, a copy for each."""
        for copy in self.committed(self.plan.topics.deferred):
            back = present(returning(read_envelope(copy), copy.record_id))
            self.put(self.plan.topics.retry, copy.value, copy.key, back)
            await asyncio.sleep(1)

    def view(self) -> LaneView:
        records = self.committed(self.plan.topics.lanes)
        return [
            seen
            for seen in (_view.decode(record.value or b"") for record in records)
            if seen.workspace == "acme"
        ][-1]


@virtual_time
async def test_a_sick_table_is_held_alone_and_its_leads_go_when_it_is_well() -> None:
    bench = await TwoDestinations.started()
    bench.clay.sick = {"acme-main"}
    for number in range(40):
        bench.lead(number, "acme-main")
        bench.lead(number, "acme-firms")
    await asyncio.sleep(60)
    well = [bench.history(f"acme-firms-{number}") for number in range(40)]
    assert {tuple(history) for history in well} == {("received", "sending", "accepted")}
    assert bench.clay.sent["acme-main"] < 40, "five failures in a row, then one probe at a time"
    seen = bench.view()
    assert seen.breaker == "closed"
    assert seen.destinations["acme-firms"].score == 100
    assert seen.destinations["acme-main"].score == 0
    assert seen.destinations["acme-main"].breaker != "closed"
    held = [bench.history(f"acme-main-{number}") for number in range(40)]
    assert [history[-1] for history in held].count("deferred") >= 35
    assert bench.view().turns.keys() == {"acme-main"}, "when they come back"
    bench.clay.sick.clear()
    await bench.all_return()
    await bench.all_return()
    ends = {bench.history(f"acme-main-{number}")[-1] for number in range(40)}
    assert ends == {"accepted"}, "an outage makes no dead letters"
    assert bench.view().destinations["acme-main"].breaker == "closed"


@virtual_time
async def test_what_a_sick_table_holds_is_held_by_the_next_owner_too() -> None:
    bench = await TwoDestinations.started()
    bench.clay.sick = {"acme-main"}
    for number in range(10):
        bench.lead(number, "acme-main")
    await asyncio.sleep(5)
    assert bench.lane().destinations["acme-main"].breaker.phase != "closed"
    sent = bench.clay.sent["acme-main"]
    await bench.kill()
    await bench.start()
    bench.lead(99, "acme-firms")
    await asyncio.sleep(5)
    assert bench.history("acme-firms-99")[-1] == "accepted"
    assert bench.clay.sent["acme-main"] - sent <= 4, "probes only"
    assert bench.lane().breaker.phase == "closed"
