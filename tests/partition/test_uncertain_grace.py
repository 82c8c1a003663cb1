"""An uncertain lead waits in the delay tiers of the replay process until its grace ends, whatever
the length of it.
"""

import asyncio

import msgspec
import pytest

from stream_app.domain.model.outcome import Uncertain
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
