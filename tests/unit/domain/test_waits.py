"""Where the time of a lead went: waits without gaps, and the limit that holds it now."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lane.holds import WaitKind
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.views.lane import LaneView, PartHold
from stream_app.domain.views.waits import RecordWait, held_now, kind_of, sums, waits
from tests.support.legal import LEGAL


def event(
    status: Status,
    at_ms: int,
    reason: str = "",
    due_at_ms: int | None = None,
    text: str = "",
) -> StatusEvent:
    about = "leads/0/1#1", "crm-17", status, 1, at_ms, "leads/0/1"
    return StatusEvent(*about, reason=reason, text=text, due_at_ms=due_at_ms)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        ("refused", "http_429", "rate"),
        ("refused", "http_503", "retry"),
        ("deferred", "breaker_open", "outage"),
        ("deferred", "budget_actions_month", "budget"),
        ("deferred", "webhook_out", "pause"),
        ("held_budget", "budget_credits_day", "budget"),
        ("of_a_newer_worker", "", "rest"),
    ],
)
def test_what_a_lead_waits_for_after_an_event(status: str, reason: str, kind: WaitKind) -> None:
    assert kind_of(status, reason) == kind


@st.composite
def histories(draw: st.DrawFn) -> list[StatusEvent]:
    """A legal path of any length, with any reasons.

    The clock of a worker may be behind that of the one before.
    """
    at_ms = 1_000_000
    events = list[StatusEvent]()
    for _ in range(draw(st.integers(1, 40))):
        before = events[-1].status if events else None
        if not (after := sorted(LEGAL.get(before, ()))):
            break
        at_ms += draw(st.integers(-5_000 if before == "rerouted" else 0, 100_000))
        reason = draw(st.sampled_from(["", "http_429", "budget_credits_day"]))
        events.append(event(draw(st.sampled_from(after)), at_ms, reason))
    return events


@given(histories(), st.booleans(), st.integers(0, 10_000))
def test_the_waits_are_as_long_as_the_history_and_none_is_negative(
    events: list[StatusEvent],
    moves: bool,
    queued_ms: int,
) -> None:
    timeline = waits(events, moves=moves, queued_ms=queued_ms)
    now_ms = max(step.at_ms for step in events)
    last_ms = now_ms
    if moves:
        now_ms += 7
    first_ms = events[0].at_ms - queued_ms
    assert sum(wait.length_ms(now_ms) for wait in timeline) == now_ms - first_ms
    assert sum(length_ms for _, length_ms, _ in sums(timeline, now_ms)) == now_ms - first_ms
    assert all(wait.end_ms is None or wait.end_ms > wait.begin_ms for wait in timeline)
    assert [wait.begin_ms for wait in timeline[1:]] == [wait.end_ms for wait in timeline[:-1]], (
        "one begins as another ends"
    )
    assert [wait.end_ms for wait in timeline[-1:]] == (
        [None] if moves else [last_ms] * bool(timeline)
    )


def test_a_clock_behind_the_beginning_of_a_wait_makes_it_no_length_below_zero() -> None:
    assert [
        RecordWait("rate", "", "", 10, None, None).length_ms(now_ms) for now_ms in (9, 10, 11)
    ] == [
        0,
        0,
        1,
    ]


def test_what_waits_now_names_its_limit_since_when_and_until_when() -> None:
    text = "the next lead may cost 9 credits, and the budget credits_day has less left"
    steps = [event("received", 0), event("held_budget", 5, "budget_credits_day", 90_000, text)]
    assert waits(steps, moves=True) == [
        RecordWait("rate", "rate", "its worker has it, and its turn has not come yet", 0, 5, None),
        RecordWait("budget", "budget_credits_day", text, 5, None, 90_000),
    ]


@pytest.mark.parametrize(
    ("status", "reason", "limit"),
    [
        ("accepted", "", "callback_deadline"),
        ("callback_overdue", "no_callback", "callback_grace"),
        ("send_uncertain", "timeout", "uncertain_grace"),
        ("dead_lettered", "http_503", "replay_delay"),
        ("refused", "http_503", "retry_delay"),
        ("refused", "http_429", "rate_limited"),
        ("deferred", "breaker_open", "breaker_open"),
    ],
)
def test_a_limit_is_what_ends_the_wait_not_what_went_wrong_before(
    status: Status,
    reason: str,
    limit: str,
) -> None:
    (now,) = waits([event(status, 1, reason, 2)], moves=True)
    assert now.limit == limit
    assert now.until_ms == 2


def test_holds_that_follow_each_other_for_the_same_limit_are_one_wait() -> None:
    wall = [
        event(name, at, "breaker_open")
        for at in range(0, 50, 10)
        for name in ("held_outage", "deferred")
    ]
    assert [(wait.kind, wait.length_ms(99)) for wait in waits(wall, moves=True)] == [("outage", 99)]
    caps = [
        event("held_budget", at, f"budget_{cap}")
        for at, cap in enumerate(["day", "month", "month", "day"])
    ]
    assert [(wait.limit, wait.begin_ms, wait.end_ms) for wait in waits(caps, moves=True)] == [
        ("budget_day", 0, 1),
        ("budget_month", 1, 3),
        ("budget_day", 3, None),
    ]


HELD = RecordWait("budget", "budget_credits_day", "of the event", 1_000, None, 5_000)
NOW_MS = 3_000
LANE = LaneView("acme", 0, 2_000, "closed", "healthy", 100, 5)


def test_what_the_lane_says_now_counts_more_than_the_event() -> None:
    full = msgspec.structs.replace(
        LANE,
        holds="budget_credits_day",
        text="4,000 of 4,000 used",
        until_ms=9_000,
    )
    now = held_now(HELD, "people", full, NOW_MS)
    assert now.limit == HELD.limit
    assert now.text == "4,000 of 4,000 used"
    assert now.begin_ms == 1_000
    assert now.until_ms == 9_000
    part = PartHold(("people",), "budget_credits_day", "of people", 8_000)
    paused = msgspec.structs.replace(LANE, holds="paused", text="paused by ada", partly=(part,))
    assert held_now(HELD, "people", paused, NOW_MS).until_ms == 8_000, "the same limit first"
    now = held_now(HELD, "firms", paused, NOW_MS)
    assert now.limit == "paused"
    assert now.text == "paused by ada"
    assert now.until_ms is None
    forced = msgspec.structs.replace(
        LANE,
        holds="breaker_open",
        text="forced",
        until_ms=9_000,
        mode="open",
    )
    assert held_now(HELD, "people", forced, NOW_MS).until_ms is None, "an operator ends it"


@pytest.mark.parametrize(
    ("status", "reason", "is_probed"),
    [
        ("held_outage", "breaker_open", True),
        ("held_paused", "http_402", True),
        ("held_paused", "no_callbacks", True),
        ("held_budget", "budget_credits_day", False),
        ("deferred", "breaker_open", False),
        ("refused", "http_503", False),
        ("accepted", "", False),
    ],
)
def test_the_time_of_a_wait_is_a_probe_where_one_ends_the_hold_of_its_lane(
    status: Status,
    reason: str,
    is_probed: bool,
) -> None:
    (now,) = waits([event(status, 1_000, reason, due_at_ms=5_000)], moves=True)
    assert now.until_ms == 5_000
    assert now.until_probe is is_probed
    part = PartHold(("people",), "no_callbacks", "of people", 8_000)
    held = held_now(HELD, "people", msgspec.structs.replace(LANE, partly=(part,)), NOW_MS)
    assert held.until_probe is True
    assert held_now(held, "people", LANE, NOW_MS).until_probe is False


def test_a_lead_whose_lane_moves_again_waits_for_its_turn() -> None:
    now = held_now(HELD, "people", LANE, NOW_MS)
    assert now.limit == "rate"
    assert now.until_ms is None
    for at_ms in (500, HELD.begin_ms):
        older = msgspec.structs.replace(LANE, at_ms=at_ms)
        assert held_now(HELD, "people", older, NOW_MS) == HELD, "the lane has said nothing since"
    others = [
        msgspec.structs.replace(HELD, end_ms=2_000),
        msgspec.structs.replace(HELD, kind="callback"),
    ]
    assert [held_now(wait, "people", LANE, NOW_MS) for wait in others] == others, (
        "its lane does not hold it"
    )
