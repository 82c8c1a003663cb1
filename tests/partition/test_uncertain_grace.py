"""An uncertain lead waits in the delay tiers of the replay process until its grace ends, whatever
the length of it.
"""

import asyncio

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.outcome import Refused, Uncertain
from stream_app.partition.lanes import Lanes
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.replaying import ReplayProcess
from tests.support.partition.virtual import virtual_time


@pytest.mark.parametrize("grace_s", [45, 60, 600, 1_800])
@virtual_time
async def test_an_uncertain_lead_is_sent_again_when_its_grace_ends_and_not_before(
    grace_s: int,
) -> None:
    """A grace that is no delay tier is waited for in several tiers, one after the other."""
    bench = Bench(Setup(uncertain="resend"))
    destination = bench.plan.destinations["acme-main"]
    bench.plan.destinations["acme-main"] = msgspec.structs.replace(
        destination,
        uncertain_grace_s=float(grace_s),
    )
    assert (grace_s in bench.plan.replay.tiers_s) is (grace_s in (60, 600)), (
        "two are tiers, and two are not"
    )
    bench.clay.first = [Uncertain("reset", 1)]
    bench.publish("id0", "p0")
    ReplayProcess(bench.kafka, bench.plan)
    await bench.serve()
    await asyncio.sleep(grace_s + 40)
    assert bench.states() == [
        "received",
        "sending",
        "send_uncertain",
        "replayed",
        "sending",
        "accepted",
    ]
    _, _, uncertain, _, again, _ = bench.events()
    grace_ends_ms = uncertain.at_ms + grace_s * 1_000
    assert uncertain.due_at_ms == grace_ends_ms
    shortest_ms = bench.plan.replay.tiers_s[0] * 1_000
    assert grace_ends_ms <= again.at_ms <= grace_ends_ms + shortest_ms, (
        "late by less than the shortest tier"
    )


@virtual_time
async def test_a_lead_that_is_sent_again_gives_its_reservation_away_in_one_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step of another lead could otherwise commit the lane that has booked the reservation
    beside the row that still has it, and a recovery would book it twice.
    """
    bench = Bench(Setup(uncertain="resend"))
    bench.clay.first = [Uncertain("timeout", 1)]
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    rows = bench.partition.state.rows
    uncertain = rows.delivery(bench.key)
    assert uncertain is not None
    assert uncertain.reservation is not None
    charge = Lanes.charge
    behind: list[Delivery | None] = []

    def charged(self: Lanes, workspace: str, reserved: Reservation | None) -> Reservation | None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: behind.append(rows.delivery(bench.key)))
        return charge(self, workspace, reserved)

    monkeypatch.setattr(Lanes, "charge", charged)
    await bench.grace_ends()
    [row] = behind
    assert row is not None
    assert row.state == "replayed"
    assert row.reservation is None


@virtual_time
async def test_an_uncertain_send_after_a_refused_one_keeps_the_time_of_the_first_failure() -> None:
    bench = Bench()
    bench.clay.first = [Refused("http_503", 1), Uncertain("reset", 1)]
    bench.publish("id0", "p0")
    await bench.serve_for(30.0)
    refused, uncertain = [
        event.at_ms for event in bench.events() if event.status in ("refused", "send_uncertain")
    ]
    assert refused < uncertain
    assert bench.row().state == "send_uncertain"
    assert bench.row().failed_at_ms == refused
