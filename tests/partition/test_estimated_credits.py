"""What is booked without anyone having said what the lead cost: the events add up to it, whatever
comes later.
"""

import asyncio
from typing import Any, Final

import msgspec
import pytest

from stream_app.domain.model.messages import Meter, StatusEvent
from stream_app.domain.model.outcome import Uncertain
from tests.simulation.schedule import CEILING, Setup
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.virtual import virtual_time

USUAL: Final = 6
PARKED_S: Final = 160.0


def estimated(bench: Bench) -> int:
    """What all events say of it."""
    return sum(event.estimated_credits for event in bench.events())


def in_books(bench: Bench, meter: Meter) -> tuple[int, int, int]:
    """What the books have of the day: spent, estimated, and not known."""
    accounts = [
        account
        for account in bench.books().accounts
        if account.meter == meter and account.period == "2026-11-30"
    ]
    (account,) = accounts
    return account.spent, account.estimated, account.unknown


@pytest.mark.parametrize(
    ("answers", "booked", "not_reported"),
    [
        ([("enriched", {"credits": 4})], 4, 0),
        ([("enriched", {"credits": 0})], 0, 0),
        ([("enriched", {})], USUAL, USUAL),
        ([("no_data", {})], USUAL, USUAL),
        ([("enrich_error", {})], USUAL, USUAL),
        ([("partial", {})], USUAL, USUAL),
        ([("partial", {}), ("enriched", {"credits": 9})], 9, 0),
        ([("partial", {"credits": 4}), ("enriched", {})], USUAL, USUAL),
        ([("partial", {"credits": 4}), ("enriched", {"credits": 5})], 5, 0),
    ],
)
@pytest.mark.parametrize("late", [False, True])
@virtual_time
async def test_an_answer_replaces_what_was_booked_before_it(
    answers: list[tuple[str, dict[str, Any]]],
    booked: int,
    not_reported: int,
    late: bool,
) -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.publish("id0", "p0")
    await bench.serve_for(PARKED_S if late else 2.0)
    assert bench.states(LEAD)[-1] == ("parked" if late else "accepted")
    assert estimated(bench) == (CEILING.credits if late else 0), "of a parked lead its ceiling is"
    if late:
        assert in_books(bench, "credits") == (CEILING.credits, 0, CEILING.credits)
    for number, (outcome, cost) in enumerate(answers, 1):
        bench.call_back(outcome, attempt=number, **{"credits": None, "actions": None, **cost})
        await asyncio.sleep(2.0)
    assert sum(event.credits or 0 for event in bench.events()) == booked
    assert estimated(bench) == not_reported
    assert in_books(bench, "credits") == (booked, not_reported, 0)
    spent, guessed, unknown = in_books(bench, "actions")
    assert guessed == spent
    assert unknown == 0


@pytest.mark.parametrize("says", [{}, {"credits": 4}, {"actions": 3}, {"credits": 4, "actions": 3}])
@virtual_time
async def test_a_partial_answer_counts_each_meter_that_it_does_not_name(
    says: dict[str, int],
) -> None:
    """Seen: the Actions of an answer that named its credits were an estimate only at the end."""
    bench = Bench(clay_takes_s=0.1)
    bench.publish("id0", "p0")
    await bench.serve_for(2.0)
    costs: dict[str, Any] = {"credits": None, "actions": None, **says}
    bench.call_back("partial", attempt=1, **costs)
    await asyncio.sleep(2.0)
    event = bench.events(LEAD)[-1]
    assert event.status == "partial"
    booked: dict[Meter, int] = {"credits": event.credits or 0, "actions": event.actions or 0}
    amounts = {"credits": event.estimated_credits, "actions": event.estimated_actions}
    for meter, amount in booked.items():
        guess = 0 if meter in says else amount
        assert amounts[meter] == guess
        assert (meter in event.estimated) == (meter not in says)
        assert in_books(bench, meter) == (amount, guess, 0)
    assert booked["actions"] > 0
    bench.call_back("enriched", attempt=2, credits=5, actions=2)
    await asyncio.sleep(2.0)
    assert in_books(bench, "credits") == (5, 0, 0)
    assert in_books(bench, "actions") == (2, 0, 0)


@virtual_time
async def test_an_operator_says_what_a_parked_lead_has_cost() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.publish("id0", "p0")
    await bench.serve_for(PARKED_S)
    assert (await bench.resolve(credits=4)).applied
    assert estimated(bench) == 0


@virtual_time
async def test_each_post_whose_cost_nobody_says_counts() -> None:
    """The first POST may have reached Clay, and an operator has the lead sent again."""
    bench = Bench(Setup(uncertain="resend"), clay_takes_s=0.1)
    bench.clay.first = [Uncertain("timeout", 1)]
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    await bench.grace_ends()
    await asyncio.sleep(10.0)
    assert bench.states(LEAD)[-1] == "accepted"
    assert estimated(bench) == CEILING.credits
    bench.call_back(credits=4, actions=0)
    await asyncio.sleep(2.0)
    assert sum(event.credits or 0 for event in bench.events()) == CEILING.credits + 4
    assert estimated(bench) == CEILING.credits


@virtual_time
async def test_without_callbacks_the_estimate_is_called_one() -> None:
    bench = Bench(Setup(callbacks=False), clay_takes_s=0.1)
    bench.publish("id0", "p0")
    await bench.serve_for(3.0)
    event = bench.events(LEAD)[-1]
    assert event.status == "accepted"
    assert event.credits == USUAL
    assert event.estimated == ("credits", "actions")
    assert estimated(bench) == USUAL


def test_an_event_of_an_earlier_version_has_none() -> None:
    old = b'{"id":"a#1","lead_id":"a","status":"enriched","seq":1,"at_ms":1,"origin":"leads/0/1"}'
    assert msgspec.json.decode(old, type=StatusEvent).estimated_credits == 0
