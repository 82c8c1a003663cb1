"""What the books add up: the history of one record, and the money of a lane."""

from typing import Any

import msgspec
import pytest

from stream_app.domain.books.money import Accounts, LaneAccount, OpenCost
from stream_app.domain.books.records import (
    IN_MOTION,
    BookEvent,
    BookRow,
    KeptRecord,
    Rank,
    RecordEvents,
    RecordFacts,
    Terms,
    advance,
    audit,
    elect,
    is_at_rest,
    is_same_lead,
    rank_of,
    state_of,
)
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Period, Reservation

DOUBLE = "a double"
GAP = "a gap"
BEGINS = "its first event is missing"
ILLEGAL = "no legal step"
Step = tuple[str, int]


@pytest.mark.parametrize(
    ("steps", "kept", "problems", "last", "headless", "rerouted"),
    [
        (
            (("received", 1), ("sending", 2), ("accepted", 3)),
            True,
            ("", "", ""),
            ("accepted", 3),
            False,
            False,
        ),
        ((("received", 1), ("received", 1)), True, ("", DOUBLE), ("received", 1), False, False),
        (
            (("received", 1), ("sending", 2), ("received", 1)),
            True,
            ("", "", DOUBLE),
            ("sending", 2),
            False,
            False,
        ),
        ((("received", 1), ("accepted", 3)), True, ("", GAP), ("accepted", 3), False, False),
        ((("received", 1), ("enriched", 2)), True, ("", ILLEGAL), ("enriched", 2), False, False),
        ((("rerouted", 1),), True, ("",), ("rerouted", 1), False, True),
        ((("rerouted", 1), ("received", 2)), True, ("", ""), ("received", 2), False, True),
        ((("received", 2), ("rerouted", 1)), True, ("", ""), ("received", 2), True, True),
        (
            (("received", 2), ("rerouted", 1), ("rerouted", 1)),
            True,
            ("", "", DOUBLE),
            ("received", 2),
            True,
            True,
        ),
        ((("received", 1), ("rerouted", 2)), True, ("", ILLEGAL), ("rerouted", 2), False, False),
        ((("sending", 2),), True, (BEGINS,), ("sending", 2), True, False),
        ((("sending", 2),), False, ("",), ("sending", 2), True, False),
        ((("accepted", 3),), True, (GAP,), ("accepted", 3), False, False),
        ((("accepted", 3), ("enriched", 4)), False, ("", ""), ("enriched", 4), True, False),
        ((("sending", 1),), True, (ILLEGAL,), ("sending", 1), False, False),
    ],
)
def test_what_a_history_says(
    steps: tuple[Step, ...],
    kept: bool,
    problems: tuple[str, ...],
    last: Step,
    headless: bool,
    rerouted: bool,
) -> None:
    history = RecordEvents()
    for (status, seq), problem in zip(steps, problems, strict=True):
        event = BookEvent("crm-1", status, seq, seq * 10, "leads/0/1", "acme")
        counts, text = advance(history, event, kept=kept)
        assert counts == (problem != DOUBLE), text
        assert text.endswith(problem) is True, text
        assert bool(text) == bool(problem), text
    status, seq = last
    assert history.status == status
    assert history.seq == seq
    assert history.at_ms == seq * 10
    assert history.lead_id == "crm-1"
    assert history.headless == headless
    assert history.rerouted == rerouted


def row(status: str, seq: int) -> BookRow:
    return BookRow("acme", "people", "crm-1", status, seq, None, ())


NO_ROW = ", but it has no row"
TOO_EARLY = ", and its row is gone before the freshness window: it could be paid twice"


@pytest.mark.parametrize(
    ("last", "facts", "terms", "says"),
    [
        (("enriched", 4), {"row": row("enriched", 4)}, {}, ""),
        (
            ("enriched", 4),
            {"row": row("enriched", 3)},
            {},
            "its row says enriched (event 3), its events enriched (e",
        ),
        (
            ("", 0),
            {"row": row("received", 1), "passed": False},
            {},
            "its row says received (event 1), its events n",
        ),
        (("enriched", 4), {}, {}, f"enriched{TOO_EARLY}"),
        (("enriched", 4), {}, {"stale_ms": 40}, f"enriched{TOO_EARLY}"),
        (("enriched", 4), {}, {"stale_ms": 41}, ""),
        (("accepted", 3), {}, {"stale_ms": 31}, f"accepted{NO_ROW}"),
        (("accepted", 3), {"final": True}, {"stale_ms": 31}, ""),
        (("accepted", 3), {"final": True}, {}, f"accepted{TOO_EARLY}"),
        (("accepted", 3), {"headless": True}, {}, "its first event is missing"),
        (("accepted", 3), {"headless": True, "copy": True}, {}, IN_MOTION),
        (("accepted", 3), {"headless": True}, {"trimmed": True}, f"accepted{NO_ROW}"),
        (("accepted", 3), {"headless": True, "rerouted": True}, {}, f"accepted{NO_ROW}"),
        (("duplicate", 2), {}, {}, ""),
        (("parked", 2), {}, {}, f"parked{NO_ROW}"),
        (("parked", 2), {"rerouted": True}, {}, ""),
        (("parked", 3), {"rerouted": True}, {}, f"parked{NO_ROW}"),
        (("accepted", 3), {}, {"inexact": {0}}, IN_MOTION),
        (("accepted", 3), {}, {"inexact": {1}}, f"accepted{NO_ROW}"),
        (("accepted", 3), {"rerouted": True}, {"inexact": {1}}, IN_MOTION),
        (("sending", 2), {"row": row("sending", 2)}, {}, "left at sending: its group has passed"),
        (("sending", 2), {"row": row("sending", 2), "passed": False}, {}, ""),
        (("sending", 2), {"row": row("sending", 2), "copy": True}, {}, ""),
        (
            ("deferred", 2),
            {"row": row("deferred", 2)},
            {},
            "left at deferred: no copy of it is on its way back",
        ),
        (("", 0), {}, {}, "lost: the worker's group has passed it, and it has no event"),
        (
            ("", 0),
            {},
            {"trimmed": True},
            "lost: the worker's group has passed it, and it has no event; retention has",
        ),
        (("", 0), {"passed": False}, {}, ""),
        (
            ("", 0),
            {"is_input": False, "row": row("received", 1)},
            {},
            "it has a row, but no record",
        ),
        (("", 0), {"is_input": False, "gone": True}, {}, ""),
    ],
)
def test_what_does_not_add_up(
    last: Step,
    facts: dict[str, Any],
    terms: dict[str, Any],
    says: str,
) -> None:
    more = {name: facts.pop(name, False) for name in ("headless", "rerouted")}
    history = RecordEvents(status=last[0], seq=last[1], at_ms=10 * last[1], **more)
    evidence = msgspec.structs.replace(
        RecordFacts(0, True, True, False, None, False, False),
        **facts,
    )
    wrong = audit(history, evidence, msgspec.structs.replace(Terms(0, False, frozenset()), **terms))
    assert wrong.startswith(says) is True, wrong
    assert bool(wrong) == bool(says), wrong


RANKS: dict[Rank, str] = {
    0: "erased cost_corrected callback_duplicate callback_unmatched",
    1: "duplicate rerouted",
    2: "rejected_invalid suppressed parked",
    3: (
        "received replaced confirmed expired deferred sending accepted enriched "
        "served_from_cache dead_lettered"
    ),
}
AT_REST = (
    "rejected_invalid suppressed duplicate replaced confirmed expired enriched served_locally "
    "parked"
)


def test_a_record_stands_to_the_row_of_its_lead_as_its_last_status_says() -> None:
    for rank, names in RANKS.items():
        assert {rank_of(KeptRecord(status=status, seq=2)) for status in names.split()} == {rank}
    assert [rank_of(KeptRecord(status="parked", seq=seq)) for seq in (1, 2, 3)] == [2, 2, 3], (
        "it took the row before"
    )
    given_up = KeptRecord(status="suppressed", seq=3)
    assert rank_of(given_up) == 3
    given_up.rank = 2
    assert rank_of(given_up) == 2, "it was given up, and never had the row"
    assert all(is_at_rest(status, final=False) for status in AT_REST.split())
    assert not any(
        is_at_rest(status, final=True)
        for status in ("", "unheard_of", "received", "deferred", "sending")
    )
    assert [is_at_rest("accepted", final=final) for final in (True, False)] == [True, False]


@pytest.mark.parametrize(
    ("own", "follower", "state"),
    [
        (None, None, "open"),
        (("dead_lettered", 5), None, "open"),
        (("replayed", 6), None, "coming_back"),
        (("replayed", 6), "enriched", "coming_back"),
        (("replayed", 5), "enriched", "solved"),
        (("dead_lettered", 6), None, "solved"),
        (("suppressed", 6), None, "given_up"),
        (("expired", 6), None, "given_up"),
        (None, "suppressed", "given_up"),
        (None, "replaced", "solved"),
        (None, "accepted", "coming_back"),
        (("confirmed", 6), None, "solved"),
    ],
)
def test_what_became_of_a_dead_letter(
    own: tuple[str, int] | None,
    follower: str | None,
    state: str,
) -> None:
    returning = "coming_back" if state == "open" else state
    assert state_of(5, False, own, follower, final=False) == state
    assert state_of(5, True, own, follower, final=False) == returning
    assert state_of(5, True, None, "accepted", final=True) == "solved"


PLACED = KeptRecord(workspace="acme", destination="people", rank=3, took=7)


@pytest.mark.parametrize(
    ("records", "counts"),
    [
        ([PLACED], {0}),
        ([KeptRecord(workspace="acme", destination="people", rank=0, took=9)], set()),
        ([PLACED, KeptRecord(workspace="acme", destination="people", rank=2, took=9)], {0}),
        ([PLACED, KeptRecord(workspace="acme", destination="people", rank=3, took=8)], {1}),
        ([PLACED, KeptRecord(workspace="acme", destination="people", rank=3, took=7)], {1}),
        ([PLACED, KeptRecord(workspace="acme", destination="firms", rank=1)], {0, 1}),
        ([PLACED, KeptRecord(workspace="beta", destination="people", rank=1)], {0, 1}),
        ([PLACED, KeptRecord(workspace="acme", rank=2)], {0}),
        ([PLACED, KeptRecord(workspace="beta", rank=2)], {0, 1}),
        ([PLACED, KeptRecord(rank=2)], {0}),
        ([KeptRecord(rank=2)], {0}),
        ([KeptRecord(workspace="acme", rank=2), KeptRecord(rank=2)], {0}),
    ],
)
def test_one_record_counts_for_each_destination_of_a_lead(
    records: list[KeptRecord],
    counts: set[int],
) -> None:
    assert elect(enumerate(records)) == counts


@pytest.mark.parametrize(
    ("workspace", "destination", "same"),
    [
        ("acme", "people", True),
        ("acme", "", True),
        ("", "", True),
        ("", "firms", False),
        ("beta", "people", False),
        ("beta", "", False),
    ],
)
def test_a_record_without_an_address_is_of_the_lead_with_one(
    workspace: str,
    destination: str,
    same: bool,
) -> None:
    assert is_same_lead(KeptRecord(workspace=workspace, destination=destination), PLACED) is same


DAY = "2026-11-30"
MONTH = "2026-11"
# 2026-11-30T01:00Z, 2026-12-01T00:00Z
DAY_MS = 1_796_000_400_000
NIGHT_MS = 1_796_083_200_000
LANE = Lane(
    "acme",
    0,
    budget=Budget(
        (Period(DAY, 9, 20, 2, 5, credits_elsewhere=-1),),
        (Period(MONTH, 9, 20, 2, 5, 0, 3),),
    ),
)
HELD = Reservation(DAY, MONTH, 20, 5)
SPENT = Reservation(DAY, MONTH, 9, 2)


def closed(
    lanes: list[Lane],
    held: list[tuple[str, Reservation]],
    spent: list[tuple[str, Reservation]],
    known_from_ms: int | None = 0,
) -> tuple[list[LaneAccount], list[tuple[str, str]]]:
    accounts = Accounts({"acme": BudgetPolicy()})
    problems = list[tuple[str, str]]()
    for workspace, booked in spent:
        accounts.book(workspace, booked)
    costs = [OpenCost("acme", "people", "crm-1", Reservation(DAY, MONTH, 4, 1))]
    return accounts.lanes(
        lanes,
        held,
        costs,
        known_from_ms,
        lambda *text: problems.append(text),
    ), problems


def test_a_lane_is_compared_with_its_rows_and_events_in_each_period_and_meter() -> None:
    accounts_, problems = closed([LANE], [("acme", HELD)], [("acme", SPENT)])
    assert accounts_ == [
        LaneAccount("acme", DAY, "credits", 20, 20, 9, 9, 4, -1),
        LaneAccount("acme", DAY, "actions", 5, 5, 2, 2, 1, 0),
        LaneAccount("acme", MONTH, "credits", 20, 20, 9, 9, 4, 0),
        LaneAccount("acme", MONTH, "actions", 5, 5, 2, 2, 1, 3),
    ]
    assert problems == []
    one_more, problems = closed(
        [LANE, Lane("beta", 1)],
        [("acme", HELD)] * 2,
        [("acme", SPENT)] * 2,
    )
    assert [account.reserved_by_rows for account in one_more] == [40, 10, 40, 10]
    assert problems == [
        *(
            (("acme", f"the lane has {held} {meter} reserved in {period}, its rows {held * 2}"))
            if is_held
            else (
                "acme",
                f"the lane has {spent} {meter} spent in {period}, its leads' events {spent * 2}",
            )
            for period in (DAY, MONTH)
            for meter, held, spent in (("credits", 20, 9), ("actions", 5, 2))
            for is_held in (True, False)
        ),
    ]


def test_what_is_reserved_where_no_lane_has_it_is_a_problem() -> None:
    other = Reservation("2026-11-29", MONTH, 7, 1)
    _, problems = closed(
        [LANE],
        [("acme", HELD), ("acme", other), ("beta", HELD)],
        [("acme", SPENT)],
    )
    assert (
        "acme",
        "rows reserve 7 credits in 2026-11-29, which the lane does not have",
    ) in problems
    assert ("beta", "rows hold reservations, but the lane has no row") in problems
    assert len(problems) == 4, "and the month has more reserved by rows than by the lane"


@pytest.mark.parametrize(
    ("workspace", "known_from_ms", "day", "month"),
    [
        ("acme", 0, 9, 9),
        ("acme", 1, 9, 9),
        ("acme", DAY_MS - 86_400_000, 9, None),
        ("acme", DAY_MS, None, None),
        ("acme", NIGHT_MS, None, None),
        ("acme", None, None, None),
        ("gone", 0, None, None),
    ],
)
def test_events_say_what_was_spent_only_in_periods_that_they_cover(
    workspace: str,
    known_from_ms: int | None,
    day: int | None,
    month: int | None,
) -> None:
    lane = Lane(workspace, 0, budget=LANE.budget)
    accounts_, problems = closed([lane], [(workspace, HELD)], [(workspace, SPENT)], known_from_ms)
    assert [account.spent_by_events for account in accounts_ if account.meter == "credits"] == [
        day,
        month,
    ]
    assert problems == []
