"""A lane or a destination that gets no callbacks is suspended, and probes find out when they come
again.
"""

import asyncio

from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import virtual_time


@virtual_time
async def test_a_lane_without_callbacks_is_suspended_with_causes_until_a_probe_is_answered() -> (
    None
):
    bench = Bench(Setup(silent_after=3))
    bench.publish_leads(4)
    await bench.serve_for(60.0)
    emitted = [event for event in bench.events() if event.status == "credits_exhausted_suspected"]
    assert [event.lead_id for event in emitted] == ["id2"], "the lead that made it certain, once"
    assert "Likely, in this order: 1. the credits" in emitted[0].text
    bench.publish_leads(4, 7)
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


def leads_of_firms(bench: Bench) -> list[str]:
    """The ids of the leads of the destination firms that Clay got."""
    return [lead_id for lead_id in bench.clay.lead_ids if lead_id.startswith("firm")]


@virtual_time
async def test_callbacks_of_one_table_do_not_hide_the_silence_of_another() -> None:
    bench = Bench(Setup(silent_after=3))
    bench.add_destination("firms")
    await bench.serve()
    for number in range(20):
        bench.publish(f"id{number}", f"p{number}")
        bench.publish(f"firm{number}", f"firm{number}", destination="firms")
        await asyncio.sleep(5.0)
        bench.call_back(lead_id=f"id{number}")
    sent = len(leads_of_firms(bench))
    assert sent <= 13, "3 are overdue after 60 s, and one was sent in 5 s"
    [emitted] = [event for event in bench.events() if event.status == "credits_exhausted_suspected"]
    assert emitted.lead_id == "firm2"
    assert "3 leads of firms are overdue" in emitted.text
    assert "1. auto-run is off in the table of firms" in emitted.text
    seen = bench.partition.state.lanes.view("acme")
    assert seen.holds == "", "the other table is not held"
    assert [(part.destinations, part.holds) for part in seen.partly] == [
        (("firms",), "no_callbacks"),
    ]
    await asyncio.sleep(400.0)
    assert len(leads_of_firms(bench)) == sent + 1, "one probe"
    bench.call_back(lead_id=leads_of_firms(bench)[-1], destination="firms")
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 40
