"""`dlq resolve`: what a lead cost reaches its row, its lane and the books in one step, once; a
parked lead ends.
"""

import asyncio
from typing import Any

import pytest

from stream_app.domain.books.money import BooksReport
from stream_app.domain.dead_letter.replay import redriven
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.model.messages import RESEND_ORDERED
from stream_app.domain.model.outcome import Poison, Uncertain
from tests.support.partition.bench import HELD, LEAD, Bench
from tests.support.partition.virtual import virtual_time

PARKED_S = 160.0


async def parked() -> Bench:
    """One lead that Clay took and did not call back about."""
    bench = Bench(clay_takes_s=0.1)
    bench.publish("id0", "p0")
    await bench.serve_for(PARKED_S)
    assert bench.states(LEAD)[-1] == "parked"
    return bench


async def uncertain() -> Bench:
    """One lead whose POST was cut, so that nobody knows whether Clay has it.

    It is parked, booked at its ceiling.
    """
    bench = Bench(clay_takes_s=0.1)
    bench.clay.first = [Uncertain("timeout", 1)]
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    await bench.grace_ends()
    assert bench.states(LEAD) == ["received", "sending", "send_uncertain", "parked"]
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
    assert lead.workspace == "acme"
    assert lead.destination == "acme-main"
    assert lead.lead_id == "id0"
    assert lead.booked == HELD
    assert before.open_cost_count == 1
    answer = await bench.resolve(credits=4)
    assert answer.applied
    assert answer.text == (
        "id0: 20 credits and 2 actions were booked, now it is 4 and 2, in the budget of 2026-11-30"
    )
    event = bench.events("leads/0/0")[-1]
    assert event.status == "confirmed"
    assert event.credits == -16
    assert event.actions == 0
    assert event.lead_id == "id0"
    assert bench.row().state == "confirmed"
    assert bench.row().final is True
    assert bench.partition.state.rows.parked["acme"] == 0, "nobody is sent to look for it any more"
    after = bench.books()
    assert money(after)["2026-11-30", "credits"] == (4, 4, 0)
    assert after.open_costs == []
    assert after.open_cost_count == 0
    assert after.columns["parked"].leads == 0
    assert after.columns["accepted_final"].leads == before.columns["parked"].leads == 1


def of_lead(bench: Bench) -> int:
    """What all events about the lead have booked."""
    events = [event for event in bench.events() if event.lead_id == "id0"]
    return sum(event.credits or 0 for event in events)


async def sent_again(bench: Bench) -> None:
    """An operator sends the parked lead back."""
    letter = bench.parked()[-1]
    await bench.come_back(letter, redriven(read_envelope(letter), letter.record_id))


@virtual_time
async def test_what_was_booked_is_returned_at_once_if_clay_has_no_such_row() -> None:
    bench = await uncertain()
    assert money(bench.books())["2026-11-30", "credits"] == (20, 20, 20)
    answer = await bench.resolve(not_at_clay=True)
    assert answer.applied, answer.text
    assert answer.text == (
        "id0: 20 credits and 2 actions were booked, now it is 0 and 0, in the budget of "
        "2026-11-30, because Clay has "
        "no such row; it is still parked, and can be sent"
    )
    assert money(bench.books())["2026-11-30", "credits"] == (0, 0, 0)
    assert money(bench.books())["2026-11-30", "actions"] == (0, 0, 0)
    assert bench.books().open_costs == []
    assert of_lead(bench) == 0
    assert bench.row().state == "parked"
    assert bench.partition.state.rows.parked["acme"] == 1
    await sent_again(bench)
    assert bench.events(LEAD)[-3].reason == RESEND_ORDERED, (
        "the operator may be wrong: a possible double spend"
    )
    bench.call_back(credits=1, actions=0)
    await asyncio.sleep(1.0)
    assert bench.states(LEAD)[-1] == "enriched"
    after = bench.books()
    assert money(after)["2026-11-30", "credits"] == (1, 1, 0)
    assert after.open_cost_count == 0
    assert of_lead(bench) == 1
    assert bench.day().credits_spent == 1


@virtual_time
async def test_a_late_callback_of_a_lead_that_was_said_not_to_be_at_clay_books_its_price() -> None:
    bench = await uncertain()
    assert (await bench.resolve(not_at_clay=True)).applied
    bench.call_back(credits=3, actions=1)
    await asyncio.sleep(1.0)
    assert bench.states(LEAD)[-1] == "enriched"
    assert money(bench.books())["2026-11-30", "credits"] == (3, 3, 0)
    await sent_again(bench)
    assert len(bench.clay.bodies) == 1, "it is at Clay after all"


@virtual_time
async def test_a_second_word_that_clay_has_no_such_row_returns_nothing_more() -> None:
    bench = await uncertain()
    assert (await bench.resolve("c1", not_at_clay=True)).applied
    again = await bench.resolve("c2", not_at_clay=True)
    assert again.text == "id0: nothing is booked for it; it is still parked, and can be sent"
    assert money(bench.books())["2026-11-30", "credits"] == (0, 0, 0)
    assert (await bench.resolve("c3", credits=4)).applied, "it was found at Clay after all"
    assert money(bench.books())["2026-11-30", "credits"] == (4, 4, 0)
    late = await bench.resolve("c4", not_at_clay=True)
    assert late.applied is False
    assert late.text == "this lead is not parked: nothing is to be sent"


@virtual_time
async def test_what_the_first_send_cost_stays_not_known_if_a_lead_is_sent_again_all_the_same() -> (
    None
):
    bench = await uncertain()
    await sent_again(bench)
    bench.call_back(credits=1, actions=0)
    await asyncio.sleep(1.0)
    books = bench.books()
    assert money(books)["2026-11-30", "credits"] == (21, 21, 20)
    assert money(books)["2026-11-30", "actions"] == (2, 2, 2)
    assert [(cost.lead_id, cost.booked.credits) for cost in books.open_costs] == [("id0", 20)]
    answer = await bench.resolve(credits=0, actions=0)
    assert answer.applied, answer.text
    assert money(bench.books())["2026-11-30", "credits"] == (1, 1, 0)
    assert bench.row().state == "enriched"
    assert bench.books().open_costs == []
    assert of_lead(bench) == 1
    assert not (await bench.resolve("c2", credits=9)).applied, "all of its costs are known"


@virtual_time
async def test_a_callback_corrects_the_first_send_if_clay_refused_the_second_one() -> None:
    bench = await uncertain()
    bench.clay.first = [Poison(422, 1)]
    await sent_again(bench)
    assert bench.states(LEAD)[-1] == "rejected_invalid"
    assert money(bench.books())["2026-11-30", "credits"] == (20, 20, 20)
    bench.call_back(credits=3, actions=0)
    await asyncio.sleep(1.0)
    assert money(bench.books())["2026-11-30", "credits"] == (3, 3, 0)


@virtual_time
async def test_both_sends_of_a_lead_are_not_known_until_an_operator_says_what_they_cost() -> None:
    bench = await uncertain()
    bench.clay.first = [Uncertain("timeout", 1)]
    await sent_again(bench)
    await bench.grace_ends()
    assert bench.states(LEAD)[-1] == "parked"
    assert money(bench.books())["2026-11", "credits"] == (40, 40, 40)
    assert bench.books().open_cost_count == 2
    while bench.books().open_costs:
        day = bench.books().open_costs[-1].booked.day
        assert (await bench.resolve(f"c-{day}", not_at_clay=True)).applied
    assert money(bench.books())["2026-11", "credits"] == (0, 0, 0)


@pytest.mark.parametrize("credits_", [0, 7, 45])
@virtual_time
async def test_a_callback_that_comes_after_all_has_the_last_word(credits_: int) -> None:
    bench = await parked()
    assert (await bench.resolve(credits=credits_, actions=0)).applied
    assert money(bench.books())["2026-11-30", "credits"] == (credits_, credits_, 0)
    bench.call_back(credits=9, actions=3)
    await asyncio.sleep(1.0)
    assert bench.states(LEAD)[-1] == "enriched"
    assert money(bench.books())["2026-11-30", "credits"] == (9, 9, 0)
    assert money(bench.books())["2026-11-30", "actions"] == (3, 3, 0)


@virtual_time
async def test_it_may_be_corrected_again() -> None:
    bench = await parked()
    assert (await bench.resolve("c1", credits=4)).applied
    assert (await bench.resolve("c2", credits=6, actions=1)).applied
    assert not (await bench.resolve("c2", credits=9)).applied, "one id is one command"
    assert money(bench.books())["2026-11-30", "credits"] == (6, 6, 0)
    assert bench.day().credits_spent == 6
    assert bench.day().actions_spent == 1


@virtual_time
async def test_a_lead_that_is_on_its_way_is_not_touched() -> None:
    """Its next step would write the row as it was before the correction, and book the difference
    twice.
    """
    bench = await parked()
    holders: dict[bytes, object] = bench.partition.state.locks._holders  # type: ignore[assignment]  # any holder will do
    key = delivery_key("acme", "acme-main", "id0")
    holders[key] = object()
    answer = await bench.resolve("c1", credits=4)
    assert answer.applied is False
    assert answer.reason == "busy"
    del holders[key]
    assert (await bench.resolve("c2", credits=4)).applied


@virtual_time
async def test_the_cost_of_a_forced_lead_without_a_callback_is_corrected() -> None:
    bench = Bench(clay_takes_s=0.1)
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
    [
        ("resolve", {"give_up": True}, "given_up"),
        ("cancel_lead", {}, "cancelled"),
        ("erase", {}, "erased"),
    ],
)
@virtual_time
async def test_a_parked_lead_that_is_given_up_cancelled_or_erased_waits_for_nobody(
    kind: str,
    args: dict[str, Any],
    reason: str,
) -> None:
    bench = await parked()
    assert bench.partition.state.rows.parked["acme"] == 1
    assert (await bench.resolve(kind=kind, **args)).applied
    event = bench.events("leads/0/0")[-1]
    assert event.status == "suppressed"
    assert event.reason == reason
    assert bench.partition.state.rows.parked["acme"] == 0
    assert bench.books().columns["rejected"].leads == 1
    assert not (await bench.resolve("c2", give_up=True)).applied, "it is not parked any more"
