"""Commands of an operator as they are read, and how one settles a lead: in every field, and why
nothing is done.
"""

from typing import Any

import msgspec
import pytest

from stream_app.domain.commands import (
    Command,
    CommandAnswer,
    Resolve,
    command_id,
    outcome_text,
    read_command,
    refusal,
)
from stream_app.domain.delivery.parked import Settled, resolved_rows, settle_lead
from stream_app.domain.delivery.state_machine import (
    ROW_VERSION,
    Delivery,
    delivery_key,
    forced_key,
    open_costs,
)
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, Period, Reservation
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.model.records import ConsumedRecord, trace_of
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Destination, Plan, Workspace
from tests.support.narrow import of_type

NOW_MS = 1_796_083_140_000
POLICY = Workspace("acme", "people")
PLAN = Plan(
    topics=TopicNames(""),
    partitions=4,
    workspaces={"acme": POLICY},
    destinations={name: Destination(name, "acme", ()) for name in ("firms", "people")},
    app="test",
)
DAY_MS = 86_400_000
DAY = "2026-11-30"
MONTH = "2026-11"
BOOKED = Reservation(DAY, MONTH, 20, 5)
LANE = Lane("acme", 0, budget=Budget((Period(DAY, 50, 7, 9, 1),), (Period(MONTH, 60, 7, 9, 1),)))
COMMAND = Command("c-1", "resolve", "acme", NOW_MS, "jane", "seen in Clay", {"lead_id": "crm-1"})
CONSUMED = ConsumedRecord("commands", 0, 8, b"acme", b"{}")
PEOPLE = delivery_key("acme", "people", "crm-1")
FIRMS = delivery_key("acme", "firms", "crm-1")
FORCED = delivery_key("acme", "people", "crm-1", "leads/0/9")


def row(state: Status = "accepted", **more: Any) -> Delivery:
    fields: dict[str, Any] = {
        "sends": 1,
        "attempt": 2,
        "replay": 3,
        "epoch": 1,
        "booked": BOOKED,
    } | more
    return Delivery(
        ROW_VERSION,
        state,
        "leads/0/1",
        4,
        fields.pop("at_ms", 1_000),
        1,
        "t",
        **fields,
    )


def settled(rows: dict[bytes, Delivery], **what: Any) -> Settled | str:
    values = {key: msgspec.json.encode(delivery) for key, delivery in rows.items()}
    if FORCED in values:
        values[forced_key("acme", "people", "crm-1")] = FORCED
    return settle_lead(PLAN, LANE, values.get, COMMAND, Resolve("crm-1", **what), CONSUMED, NOW_MS)


@pytest.mark.parametrize(
    ("what", "credits_", "actions"),
    [({"credits": 3}, 3, 5), ({"actions": 0}, 20, 0), ({"credits": 0, "actions": 9}, 0, 9)],
)
@pytest.mark.parametrize("state", ["accepted", "parked"])
def test_what_a_lead_did_cost_takes_the_place_of_what_was_booked(
    state: Status,
    what: dict[str, int],
    credits_: int,
    actions: int,
) -> None:
    before = row(state)
    answer = of_type(Settled, settled({PEOPLE: before}, **what))
    known = Reservation(DAY, MONTH, credits_, actions, known=True)
    text = (
        f"20 credits and 5 actions were booked, now it is {credits_} and {actions}, in the "
        f"budget of {DAY}"
    )
    more: dict[str, Any] = {
        "credits": credits_ - 20,
        "actions": actions - 5,
        "day": DAY,
        "month": MONTH,
        "estimated_credits": -20,
        "estimated_actions": -5,
    }
    about: dict[str, Any] = {
        "workspace": "acme",
        "destination": "people",
        "reason": "c-1",
        "text": text,
        "app": "test",
    }
    if state == "parked":
        after = msgspec.structs.replace(
            before,
            state="confirmed",
            seq=5,
            at_ms=NOW_MS,
            booked=known,
            final=True,
        )
        counts = {"attempt": 2, "replay": 3, "epoch": 1, "trace_id": "t"}
        event = StatusEvent(
            "leads/0/1#5",
            "crm-1",
            "confirmed",
            5,
            NOW_MS,
            "leads/0/1",
            **counts,  # type: ignore[arg-type]  # as named
            **about,
            **more,
        )
    else:
        after = msgspec.structs.replace(before, booked=known)
        place = "commands/0/8"
        event = StatusEvent(
            f"{place}#1",
            "crm-1",
            "cost_corrected",
            1,
            NOW_MS,
            place,
            trace_id=trace_of(place),
            **about,
            **more,
        )
    assert answer.event == event
    assert answer.text == f"crm-1: {text}"
    assert answer.row == (PEOPLE, msgspec.json.encode(after))
    for period, spent in zip(
        answer.lane.budget.days + answer.lane.budget.months,
        (50, 60),
        strict=True,
    ):
        assert period.credits_spent == spent + credits_ - 20
        assert period.actions_spent == 9 + actions - 5
        assert period.credits_reserved == 7
        assert period.actions_reserved == 1
    assert (
        settled({PEOPLE: msgspec.json.decode(answer.row[1], type=Delivery)}, give_up=True)
        == NOT_PARKED
    )


NOT_PARKED = "this lead is not parked, so there is nothing to give up"


@pytest.mark.parametrize("why", ["", ": seen in Clay"])
def test_a_parked_lead_is_given_up_and_its_cost_stays(why: str) -> None:
    command = msgspec.structs.replace(COMMAND, why=why.removeprefix(": "))
    values = {PEOPLE: msgspec.json.encode(row("parked"))}
    what = Resolve("crm-1", give_up=True)
    answer = of_type(Settled, settle_lead(PLAN, LANE, values.get, command, what, CONSUMED, NOW_MS))
    assert answer.event.status == "suppressed"
    assert answer.event.reason == "given_up"
    assert answer.event.text == f"given up by jane{why}"
    assert answer.lane == LANE
    assert answer.event.credits is None
    after = msgspec.structs.replace(
        row("parked"),
        state="suppressed",
        seq=5,
        at_ms=NOW_MS,
        final=True,
    )
    assert answer.row == (PEOPLE, msgspec.json.encode(after))


@pytest.mark.parametrize(
    ("rows", "what", "says"),
    [
        (
            {},
            {"credits": 1},
            "no such lead is known here (any more): check its id and its destination",
        ),
        (
            {PEOPLE: row()},
            {"credits": 1, "destination": "firms"},
            "no such lead is known here (any more): check its id and its destination",
        ),
        (
            {PEOPLE: row(), FIRMS: row()},
            {"credits": 1},
            "the lead went to firms, people: say which destination",
        ),
        (
            {PEOPLE: row(reservation=BOOKED)},
            {"credits": 1},
            "Clay may still call back about this lead: what it cost is booked then",
        ),
        (
            {PEOPLE: row("parked", booked=None)},
            {"credits": 1},
            "Clay never had this lead: send it, or give it up",
        ),
        ({PEOPLE: row()}, {"give_up": True}, NOT_PARKED),
    ],
)
def test_nothing_is_done_where_it_is_not_clear_what(
    rows: dict[bytes, Delivery],
    what: Any,
    says: str,
) -> None:
    assert settled(rows, **what) == says
    known = settled({PEOPLE: row("enriched", booked=None)}, credits=1)
    assert isinstance(known, str)
    assert known.startswith("what this lead cost is known: correct the lane")


@pytest.mark.parametrize(
    ("plain", "forced", "chosen"),
    [
        (row(at_ms=2), row(at_ms=1), PEOPLE),
        (row(at_ms=1), row(at_ms=2), FORCED),
        (row("parked", at_ms=1), row(at_ms=2), PEOPLE),
        (row("callback_overdue", at_ms=1), row(at_ms=2), PEOPLE),
    ],
)
def test_of_the_deliveries_of_a_lead_the_parked_one_counts_then_an_open_cost_then_the_newest(
    plain: Delivery,
    forced: Delivery,
    chosen: bytes,
) -> None:
    assert of_type(Settled, settled({PEOPLE: plain, FORCED: forced}, credits=1)).row[0] == chosen
    assert (
        of_type(
            Settled,
            settled({PEOPLE: plain, FIRMS: forced}, credits=1, destination="firms"),
        ).row[0]
        == FIRMS
    )


@pytest.mark.parametrize(
    ("state", "booked", "open_"),
    [
        ("callback_overdue", BOOKED, True),
        ("callback_overdue", None, False),
        ("callback_overdue", Reservation(DAY, MONTH, 0, 1), True),
        ("callback_overdue", Reservation(DAY, MONTH, 1, 0), True),
        ("callback_overdue", Reservation(DAY, MONTH, 0, 0), False),
        ("callback_overdue", Reservation(DAY, MONTH, 20, 5, known=True), False),
        ("parked", BOOKED, True),
        ("suppressed", BOOKED, True),
        ("served_from_cache", BOOKED, True),
        ("enriched", BOOKED, False),
        ("accepted", BOOKED, False),
        ("partial", BOOKED, False),
    ],
)
def test_a_cost_is_open_until_clay_or_an_operator_confirms_it(
    state: Status,
    booked: Reservation | None,
    open_: bool,
) -> None:
    assert open_costs(row(state, booked=booked)) == ((booked,) if open_ else ())
    earlier = Reservation("2026-11-01", "2026-11", 3, 0)
    assert open_costs(row(state, booked=booked, unsettled=(earlier,))) == (
        (earlier, booked) if open_ else (earlier,)
    )


def test_the_rows_of_a_lead_are_locked_by_its_command_alone() -> None:
    alias = {forced_key("acme", "people", "crm-1"): FORCED}.get
    assert set(resolved_rows(PLAN, alias, COMMAND)) == {PEOPLE, FIRMS, FORCED}
    assert set(resolved_rows(PLAN, lambda _: None, COMMAND)) == {PEOPLE, FIRMS}
    others: tuple[dict[str, Any], ...] = ({"kind": "pause"}, {"args": {}}, {"args": {"lead_id": 5}})
    assert [
        resolved_rows(PLAN, alias, msgspec.structs.replace(COMMAND, **changes))
        for changes in others
    ] == [()] * 3


def as_record(timestamp_ms: int = NOW_MS, **changes: str) -> ConsumedRecord:
    value = msgspec.json.encode(msgspec.structs.replace(COMMAND, **changes))
    return ConsumedRecord("lanes", 3, 7, b"acme", value, timestamp_ms=timestamp_ms)


@pytest.mark.parametrize(("length", "is_read"), [(0, False), (1, True), (128, True), (129, False)])
def test_an_id_has_1_to_128_characters_and_another_is_answered_by_its_place(
    length: int,
    is_read: bool,
) -> None:
    record = as_record(id="x" * length)
    read = read_command(record, NOW_MS)
    assert isinstance(read, Command if is_read else CommandAnswer)
    assert read.id == ("x" * length if is_read else "lanes/3/7")
    assert command_id(record.value) == ("x" * length if is_read else "")
    if isinstance(read, CommandAnswer):
        assert read.applied is False
        assert read.reason == "unreadable"
        assert read.workspace == "acme"
        assert read.partition == 3
        assert read.at_ms == NOW_MS
        assert read.who == ""
        assert "1 to 128 characters" in read.text


def test_the_answer_to_what_is_no_command_is_short() -> None:
    read = of_type(CommandAnswer, read_command(as_record(kind="x\n" * 500_000), NOW_MS))
    assert read.text.startswith("this is no command that this version knows: Invalid enum value 'x")
    assert len(read.text) < 500
    assert len(read.text.splitlines()) == 1


def test_names_are_cut_to_what_a_row_may_hold() -> None:
    read = of_type(Command, read_command(as_record(who="w" * 200, workspace="a" * 200), NOW_MS))
    assert read.who == "w" * 128
    assert read.workspace == "a" * 128


@pytest.mark.parametrize(
    ("at_ms", "timestamp_ms", "stale"),
    [
        (0, 0, False),
        (-DAY_MS, 0, False),
        (-DAY_MS - 1, 0, True),
        (0, -DAY_MS, False),
        (0, -DAY_MS - 1, True),
    ],
)
def test_a_command_is_stale_a_day_after_its_own_time_or_the_brokers(
    at_ms: int,
    timestamp_ms: int,
    stale: bool,
) -> None:
    command = msgspec.structs.replace(COMMAND, at_ms=NOW_MS + at_ms)
    refused = refusal(command, as_record(NOW_MS + timestamp_ms), NOW_MS, is_answered=False)
    assert (refused is not None) is stale


def test_what_is_under_way_is_said_with_the_outcome() -> None:
    assert [outcome_text("paused", number) for number in (0, 1, 2)] == [
        "paused",
        "paused; 1 request in progress will finish",
        "paused; 2 requests in progress will finish",
    ]
