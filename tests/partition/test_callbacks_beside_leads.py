"""Callbacks beside other work of their partition: while a POST is under way, behind leads that
wait, at a close.
"""

import asyncio
import json

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import delivery_key, forced_key
from stream_app.domain.model.tokens import Keys, verify
from stream_app.partition.in_flight import InFlight
from tests.simulation.schedule import Setup
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.virtual import virtual_time


@virtual_time
async def test_callbacks_do_not_wait_behind_leads_that_fill_the_limiter() -> None:
    bench = Bench(Setup(credits_per_day=20, max_in_flight=1))
    bench.leave_row("accepted")  # holds the whole budget of the day
    for _ in range(12):
        bench.publish("id1", "p1")
    await bench.serve_for(10.0)
    assert bench.clay.bodies == []
    bench.call_back(credits=0)
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 1, "its settlement made room in the budget"


@pytest.mark.parametrize(("credits", "goes_on"), [(21, False), (20, True)])
@virtual_time
async def test_a_lane_that_a_costly_lead_stopped_goes_on_when_a_probe_costs_at_most_the_ceiling(
    credits: int,
    goes_on: bool,
) -> None:
    bench = Bench()
    bench.leave_row("accepted")
    bench.call_back(credits=21)
    await bench.serve_callbacks()
    assert bench.day().credits_spent == 21
    bench.publish_leads(1, 4)
    await asyncio.sleep(400.0)
    assert [event.reason for event in bench.events(LEAD) if event.status == "held_paused"] == [
        "over_ceiling",
    ]
    assert len(bench.clay.bodies) == 1, "the probe"
    bench.call_back(lead_id="id1", credits=credits)
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == (3 if goes_on else 1)


@pytest.mark.parametrize("force", [False, True])
@virtual_time
async def test_the_callback_token_sent_to_clay_matches_its_lead(force: bool) -> None:
    bench = Bench()
    keys = Keys(["a secret of at least thirty-two characters"])
    destination = msgspec.structs.replace(
        bench.plan.destinations["acme-main"],
        callback_url="https://example.com/callbacks/acme/acme-main",
    )
    plan = msgspec.structs.replace(
        bench.plan,
        destinations={"acme-main": destination},
        callback_keys=keys,
    )
    bench.plan = plan
    assert "thirty-two" not in repr(plan)
    bench.partition = bench.owner()
    lead = {
        "lead_id": "id0",
        "force": force,
        "fields": {"email": "ada@example.com", "callback_url": "mine"},
    }
    bench.produce(lead)
    await bench.serve_for(10.0)
    [body] = bench.clay.bodies
    row = json.loads(body)
    assert row["callback_url"] == "https://example.com/callbacks/acme/acme-main"
    verified = verify(keys, row["callback_token"], "acme", "acme-main", row["lead_id"])
    assert not isinstance(verified, str)
    assert verified.forced_origin == ("leads/0/0" if force else "")
    bench.call_back(forced_origin=verified.forced_origin)
    await asyncio.sleep(10.0)
    assert bench.states(LEAD) == ["received", "sending", "accepted", "enriched"]


@virtual_time
async def test_the_results_of_two_forced_deliveries_of_a_lead_have_two_versions() -> None:
    bench = Bench()
    for _ in range(2):
        bench.publish("id0", "p0", force=True)
    await bench.serve_for(10.0)
    assert bench.clay.lead_ids == ["id0", "id0"], "both are at Clay before either is answered"
    for origin in ("leads/0/0", "leads/0/1"):
        bench.call_back(forced_origin=origin)
        await asyncio.sleep(10.0)
    assert [(result.origin, result.version) for result in bench.results()] == [
        ("leads/0/0", 1),
        ("leads/0/1", 2),
    ]


@virtual_time
async def test_a_forced_delivery_can_be_corrected_after_the_callback_of_the_plain_one() -> None:
    """After the callback of the plain delivery, a correction still finds the forced one."""
    bench = Bench()
    bench.publish("id0", "p0")
    bench.publish("id0", "p0", force=True)
    await bench.serve_for(10.0)
    assert bench.clay.lead_ids == ["id0", "id0"]
    bench.call_back()
    await asyncio.sleep(200.0)
    plain = [event.status for event in bench.events("leads/0/0")]
    forced = [event.status for event in bench.events("leads/0/1")]
    assert plain[-1] == "enriched"
    assert forced[-1] == "parked"
    alias = bench.partition.state.rows.get(forced_key("acme", "acme-main", "id0"))
    assert alias == delivery_key("acme", "acme-main", "id0", "leads/0/1")
    assert bench.day().credits_spent == 7 + 20
    bench.command("resolve", lead_id="id0", credits=4)
    await asyncio.sleep(1.0)
    [answer] = bench.answers()
    assert answer.applied, answer.text
    assert bench.day().credits_spent == 7 + 4


@virtual_time
async def test_a_callback_that_settles_nothing_recalls_no_lead_that_waits() -> None:
    """The lane is paused, the lead was never sent, and somebody repeats an old callback."""
    bench = await Bench.started(Setup(callbacks=True))
    await bench.order("pause")
    bench.publish("id0", "p0")
    await asyncio.sleep(5.0)
    recalled: list[InFlight] = []
    bench.partition.state.locks.recall = recalled.append
    bench.call_back()
    await asyncio.sleep(5.0)
    assert recalled == []
    assert bench.unmatched() == [("callback_unmatched", "not_expected")]
