"""`dlq resolve`: what a lead cost reaches its row, its lane and the books in one step, once; a parked lead ends."""

import asyncio
from typing import Any

import msgspec
import pytest

from stream_app.domain.books.money import BooksReport
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from tests.partition.test_callbacks import HELD
from tests.partition.test_timeouts import Bench as OverdueBench
from tests.partition.virtual import now_ms, virtual_time
from tests.simulation.tape import tape_of

PARKED_S = 160.0
_row = msgspec.json.Decoder(Delivery)


class Bench(OverdueBench):
    """Its lead's cost can be corrected, and the books be closed."""

    async def resolve(self, name: str = "c1", kind: str = "resolve", **args: Any) -> CommandAnswer:
        self.command(kind, name, **{"lead_id": "id0", **args})
        await asyncio.sleep(1.0)
        return self.answers()[-1]

    def books(self) -> BooksReport:
        report = tape_of(self.plan, self.kafka, now_ms()).close()
        assert report.balanced, report.problems
        return report

    def lead(self) -> Delivery:
        return _row.decode(self.last(self.key))


async def parked() -> Bench:
    """One lead that Clay took and did not call back about."""
    bench = Bench()
    bench.publish("id0", "p0")
    await bench.serve_for(PARKED_S)
    assert bench.states()[-1] == "parked"
    return bench


def money(report: BooksReport) -> dict[tuple[str, str], tuple[int, int | None, int]]:
    return {
        (account.period, account.meter): (account.spent, account.spent_by_events, account.unknown)
        for account in report.accounts
    }


@virtual_time
async def test_a_parked_lead_is_booked_at_its_ceiling_until_its_cost_is_corrected() -> None:
    bench = await parked()
    before = bench.books()
    assert money(before)["2026-11-30", "credits"] == (20, 20, 20)
    assert money(before)["2026-11", "actions"] == (2, 2, 2)
    [lead] = before.open_costs
    assert (lead.workspace, lead.destination, lead.lead_id, lead.booked) == ("acme", "acme-main", "id0", HELD)
    answer = await bench.resolve(credits=4)
    assert answer.applied
    assert answer.text == ("id0: 20 credits and 2 actions were booked, now it is 4 and 2, in the budget of 2026-11-30")
    event = bench.events("leads/0/0")[-1]
    assert (event.status, event.credits, event.actions, event.lead_id) == ("confirmed", -16, 0, "id0")
    assert (bench.lead().state, bench.lead().final) == ("confirmed", True)
    assert bench.partition.state.rows.parked["acme"] == 0, "nobody is sent to look for it any more"
    after = bench.books()
    assert money(after)["2026-11-30", "credits"] == (4, 4, 0)
    assert (after.open_costs, after.open_cost_count) == ([], 0)
    assert after.columns["parked"].leads == 0
    assert after.columns["accepted_final"].leads == before.columns["parked"].leads == 1


@pytest.mark.parametrize("credits_", [0, 7, 45])
@virtual_time
async def test_a_callback_that_comes_after_all_has_the_last_word(credits_: int) -> None:
    bench = await parked()
    assert (await bench.resolve(credits=credits_, actions=0)).applied
    assert money(bench.books())["2026-11-30", "credits"] == (credits_, credits_, 0)
    bench.call_back(credits=9, actions=3)
    await asyncio.sleep(1.0)
    assert bench.states()[-1] == "enriched"
    assert money(bench.books())["2026-11-30", "credits"] == (9, 9, 0)
    assert money(bench.books())["2026-11-30", "actions"] == (3, 3, 0)


@virtual_time
async def test_it_may_be_corrected_again() -> None:
    bench = await parked()
    assert (await bench.resolve("c1", credits=4)).applied
    assert (await bench.resolve("c2", credits=6, actions=1)).applied
    assert not (await bench.resolve("c2", credits=9)).applied, "one id is one command"
    assert money(bench.books())["2026-11-30", "credits"] == (6, 6, 0)
    assert (bench.day().credits_spent, bench.day().actions_spent) == (6, 1)


@virtual_time
async def test_a_lead_that_is_on_its_way_is_not_touched() -> None:
    """Its next step would write the row as it was before the correction, and book the difference twice."""
    bench = await parked()
    holders: dict[bytes, object] = bench.partition.state.locks._holders  # type: ignore[assignment]  # any holder will do
    key = delivery_key("acme", "acme-main", "id0")
    holders[key] = object()
    answer = await bench.resolve("c1", credits=4)
    assert (answer.applied, answer.reason) == (False, "busy")
    del holders[key]
    assert (await bench.resolve("c2", credits=4)).applied


@virtual_time
async def test_the_cost_of_a_forced_lead_without_a_callback_is_corrected() -> None:
    bench = Bench()
    for _ in range(2):
        bench.publish("id0", "p0", force=True)
    await bench.serve_for(PARKED_S)
    assert [lead.lead_id for lead in bench.books().open_costs] == ["id0"] * 2
    assert money(bench.books())["2026-11-30", "credits"] == (40, 40, 40)
    answer = await bench.resolve(credits=4)
    assert answer.applied, answer.text
    assert money(bench.books())["2026-11-30", "credits"] == (24, 24, 20), "of the last one"


@pytest.mark.parametrize(
    ("kind", "args", "reason"),
    [("resolve", {"give_up": True}, "given_up"), ("cancel_lead", {}, "cancelled"), ("erase", {}, "erased")],
)
@virtual_time
async def test_a_parked_lead_that_is_given_up_cancelled_or_erased_waits_for_nobody(
    kind: str, args: dict[str, Any], reason: str
) -> None:
    bench = await parked()
    assert bench.partition.state.rows.parked["acme"] == 1
    assert (await bench.resolve(kind=kind, **args)).applied
    event = bench.events("leads/0/0")[-1]
    assert (event.status, event.reason) == ("suppressed", reason)
    assert bench.partition.state.rows.parked["acme"] == 0
    assert bench.books().columns["rejected"].leads == 1
    assert not (await bench.resolve("c2", give_up=True)).applied, "it is not parked any more"
