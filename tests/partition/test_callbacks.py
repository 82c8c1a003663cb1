"""Callbacks on a partition with an in-memory Kafka: which settle their lead, and how the others are
reported.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.model.messages import Callback, Meter, Status
from stream_app.domain.model.seen import Seen
from stream_app.partition.ports import Observer
from tests.support.partition.bench import HELD, LEAD, PAID, Bench
from tests.support.partition.virtual import now_ms, virtual_time


@pytest.mark.parametrize("outcome", ["enriched", "partial", "no_data", "enrich_error"])
@virtual_time
async def test_a_callback_settles_an_accepted_lead_and_charges_its_lane(outcome: Status) -> None:
    bench = Bench()
    bench.leave_row("accepted")
    bench.call_back(outcome)
    await bench.serve_callbacks()
    [event] = bench.events(LEAD)
    assert event.status == outcome
    assert event.seq == 4
    assert event.credits == 7
    assert event.actions == 1
    assert event.day == HELD.day
    assert event.month == HELD.month
    row = bench.row()
    assert row.final
    assert row.reservation is None
    day = bench.day()
    assert day.credits_reserved == 0
    assert day.credits_spent == 7
    assert day.actions_reserved == 0
    assert day.actions_spent == 1
    if outcome in ("enriched", "partial"):
        [result] = bench.results()
        assert result.source == "clay"
        assert result.version == 1
        assert result.age_s == 1
        assert result.fields == {"title": "CTO"}
        assert result.partial == (outcome == "partial")
    else:
        assert bench.results() == []


@pytest.mark.parametrize(
    ("reported", "estimated"),
    [
        ({}, ()),
        ({"credits": None}, ("credits",)),
        ({"actions": None}, ("actions",)),
        ({"credits": None, "actions": None}, ("credits", "actions")),
        ({"credits": 0, "actions": 0}, ()),
    ],
)
@virtual_time
async def test_a_cost_that_nobody_reported_is_called_an_estimate(
    reported: dict[str, Any],
    estimated: tuple[Meter, ...],
) -> None:
    bench = Bench()
    bench.change_destination(estimate_credits=3, estimate_actions=2)
    bench.publish_leads(1)
    await bench.serve_for(10.0)
    bench.call_back(**reported)
    await asyncio.sleep(10.0)
    *before, event = bench.events(LEAD)
    assert event.status == "enriched"
    assert {earlier.estimated for earlier in before} == {()}, "only what was booked can be one"
    assert event.estimated == estimated
    if "credits" in estimated:
        assert event.credits == 3
    accounts = {
        (account.period, account.meter): account.estimated for account in bench.books().accounts
    }
    booked: dict[Meter, int | None] = {"credits": event.credits, "actions": event.actions}
    for meter, guess in booked.items():
        expected = guess if meter in estimated else 0
        assert {accounts[period, meter] for period in (event.day, event.month)} == {expected}


@virtual_time
async def test_the_event_of_a_test_lead_says_what_came() -> None:
    bench = Bench()
    bench.leave_row("send_uncertain")
    seen = Seen(body={"title": "text"})
    bench.call_back(seen=seen)
    await bench.serve_callbacks()
    assert [(event.status, event.seen) for event in bench.events(LEAD)] == [
        ("accepted", None),
        ("enriched", seen),
    ]
    (result,) = bench.results()
    assert b"seen" not in msgspec.json.encode(result)


@pytest.mark.parametrize(
    ("outcome", "fields", "filled", "empty"),
    [
        ("enriched", {"work_email": "ada@example.com", "phone": ""}, ["work_email"], ["phone"]),
        ("partial", {"phone": 0, "title": "CTO"}, ["phone"], ["work_email"]),
        ("enriched", {"work_email": "  ", "phone": False}, ["phone"], ["work_email"]),
        ("no_data", {}, [], ["work_email", "phone"]),
        ("enrich_error", {"phone": "1"}, [], ["work_email", "phone"]),
    ],
)
@virtual_time
async def test_the_event_of_an_answer_names_the_columns_that_have_a_value(
    outcome: str,
    fields: dict[str, object],
    filled: list[str],
    empty: list[str],
) -> None:
    bench = Bench()
    bench.change_destination(yield_=("work_email", "phone"))
    bench.leave_row("accepted")
    bench.call_back(outcome, fields=fields)
    await bench.serve_callbacks()
    [record] = bench.committed(bench.plan.topics.status)
    event = json.loads(record.value or b"")
    assert event.get("filled", []) == filled
    assert event.get("empty", []) == empty
    assert b"ada@" not in (record.value or b"")


@virtual_time
async def test_the_event_of_a_destination_that_names_no_column_is_as_before() -> None:
    bench = Bench()
    bench.change_destination(yield_=())
    bench.leave_row("accepted")
    bench.call_back()
    await bench.serve_callbacks()
    [record] = bench.committed(bench.plan.topics.status)
    assert not {"filled", "empty"} & json.loads(record.value or b"").keys()


@pytest.mark.parametrize("repaired", [False, True])
@virtual_time
async def test_the_event_has_the_words_of_a_callback_without_personal_data(repaired: bool) -> None:
    bench = Bench()
    bench.leave_row("accepted")
    bench.call_back("enrich_error", text="no profile of ada@example.com", repaired=repaired)
    await bench.serve_callbacks()
    [event] = bench.events(LEAD)
    assert event.reason == ("repaired" if repaired else "")
    assert event.text.startswith("no profile of ")
    assert "ada@" not in event.text


@virtual_time
async def test_the_event_of_a_callback_without_words_has_none() -> None:
    bench = Bench()
    bench.leave_row("accepted")
    bench.call_back()
    await bench.serve_callbacks()
    [event] = bench.events(LEAD)
    assert event.reason == ""
    assert event.text == ""


class Timed(Observer):
    """Keeps how long leads took, in seconds."""

    def __init__(self) -> None:
        self.took: list[tuple[str, int]] = []

    def committed(self, steps: Sequence[CommitStep], records: int, seconds: float) -> None:
        self.took += [
            (duration.until, duration.ms // 1_000) for step in steps for duration in step.durations
        ]


@pytest.mark.parametrize(
    ("state", "accepted_s", "took"),
    [
        ("callback_overdue", 940, [("callback", 940), ("done", 999)]),
        ("accepted", 0, [("done", 999)]),  # by a worker that did not note it
        ("sending", 0, [("done", 999)]),  # only the callback shows that Clay has accepted it
    ],
)
@virtual_time
async def test_a_callback_shows_how_long_its_lead_took(
    state: Status,
    accepted_s: int,
    took: list[tuple[str, int]],
) -> None:
    bench = Bench()
    timed = Timed()
    now = now_ms()
    bench.partition = bench.owner(observer=timed)
    accepted_at_ms = accepted_s and now - accepted_s * 1_000
    bench.leave_row(state, at_ms=1_000, first_at_ms=now - 999_000, accepted_at_ms=accepted_at_ms)
    for outcome in ("partial", "enriched"):
        bench.call_back(outcome)
    await bench.serve_callbacks()
    assert sorted(timed.took) == took, "a second callback does not count again"


@pytest.mark.parametrize(("off_s", "age_s"), [(3_600, 0), (-3_600, 3_601)])
@virtual_time
async def test_a_callback_settles_its_lead_when_the_gateway_clock_is_an_hour_off(
    off_s: int,
    age_s: int,
) -> None:
    bench = Bench()
    bench.leave_row("accepted", at_ms=now_ms())
    for _ in range(2):
        bench.call_back(at_ms=1_796_083_139_000 + off_s * 1_000)
    await bench.serve_callbacks()
    assert [event.status for event in bench.events(LEAD)] == ["enriched"]
    assert bench.unmatched(1) == [("callback_duplicate", "answered")]
    assert [result.age_s for result in bench.results()] == [age_s]
    assert bench.day().credits_reserved == 0
    assert bench.day().credits_spent == 7


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("sending", {}),  # its worker died, and no other has got the record again yet
        ("send_uncertain", {"sends": 1}),
        ("refused", {"sends": 1, "reservation": None, "booked": HELD}),
        ("replayed", {"sends": 1, "reservation": None, "booked": HELD}),
        ("held_paused", {"sends": 1, "reservation": None, "booked": HELD}),
        ("held_budget", {"sends": 1, "reservation": None, "booked": PAID}),
        ("deferred", {"reservation": None, "booked": PAID}),
        ("dead_lettered", {"reservation": None, "booked": PAID}),
        ("parked", {"sends": 1, "reservation": None, "booked": HELD}),
        ("expired", {"sends": 1, "reservation": None, "booked": HELD, "final": True}),
        ("rejected_invalid", {"reservation": None, "booked": PAID, "final": True}),
    ],
)
@virtual_time
async def test_a_callback_settles_an_uncertain_lead(
    state: Status,
    changes: dict[str, object],
) -> None:
    """Whatever was thought of the lead: its answer is published, its cost is exact, and it is not
    sent again.
    """
    bench = Bench()
    bench.leave_row(state, **changes)
    bench.call_back()
    await bench.serve_callbacks()
    assert [(event.status, event.reason) for event in bench.events(LEAD)] == [
        ("accepted", "callback"),
        ("enriched", ""),
    ]
    assert bench.day().credits_spent == 7
    assert bench.day().credits_reserved == 0
    bench.publish("id0", "p0")
    await asyncio.sleep(10.0)
    assert bench.clay.bodies == []
    assert bench.stream.committed() == 1


@virtual_time
async def test_a_second_callback_is_a_duplicate_and_partial_may_become_enriched() -> None:
    bench = Bench()
    bench.leave_row("accepted")
    bench.call_back("partial", attempt=2, credits=4)
    bench.call_back("partial", attempt=1)
    bench.call_back("enriched", attempt=3, credits=9)
    bench.call_back("enriched", attempt=3)
    bench.call_back("no_data")
    await bench.serve_callbacks()
    assert [(event.status, event.credits) for event in bench.events(LEAD)] == [
        ("partial", 4),
        ("enriched", 5),
    ]
    assert [bench.unmatched(offset) for offset in (1, 3, 4)] == [
        [("callback_duplicate", "answered")],
    ] * 3
    assert [(result.version, result.partial) for result in bench.results()] == [
        (1, True),
        (2, False),
    ]
    assert bench.day().credits_spent == 9


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "unreadable"),
        (b"\xff\xfe", "unreadable"),
        (b"[" * 100_000, "unreadable"),
        (b'{"lead_id": 1}', "unreadable"),
        (
            msgspec.json.encode(Callback("id0", "nowhere", "acme-main", 1, "enriched", {})),
            "unknown_destination",
        ),
        (
            msgspec.json.encode(Callback("id0", "acme", "nowhere", 1, "enriched", {})),
            "unknown_destination",
        ),
        (
            msgspec.json.encode(Callback("id0", "beta", "acme-main", 1, "enriched", {})),
            "unknown_destination",
        ),
        (
            msgspec.json.encode(Callback("id0", "beta", "beta-main", 1, "enriched", {})),
            "wrong_partition",
        ),
        (
            msgspec.json.encode(
                Callback("ada@example.com", "acme", "acme-main", 1, "enriched", {}),
            ),
            "unknown_lead",
        ),
        (
            msgspec.json.encode(Callback("id9", "acme", "acme-main", 1, "enriched", {})),
            "unknown_lead",
        ),
        (
            msgspec.json.encode(
                Callback("id0", "acme", "acme-main", 1, "enriched", {"x": "y" * 950_000}),
            ),
            "oversize",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@virtual_time
async def test_an_invalid_callback_is_reported_with_its_reason(
    value: bytes | None,
    reason: str,
) -> None:
    bench = Bench()
    bench.leave_row("accepted")
    bench.put(bench.plan.topics.callbacks, value)
    bench.call_back()
    await bench.serve_callbacks()
    assert bench.unmatched() == [("callback_unmatched", reason)]
    assert b"ada@" not in b"".join(
        consumed.key or b"" for consumed in bench.kafka.log("leads.status", 0).committed()
    )
    assert [event.status for event in bench.events(LEAD)] == ["enriched"]
