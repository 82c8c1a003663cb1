"""When a lane is silent, what does not count as silence, and in which order the causes are named."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.delivery import ROW_VERSION, Delivery
from stream_app.core.lane import Lane, lifted, take_over
from stream_app.core.policy import Destination, Workspace
from stream_app.core.quota import Quota, Webhook
from stream_app.core.silence import (
    Hearing,
    SilencePolicy,
    causes,
    heard,
    is_news,
    listening,
    over,
    overdue,
    problems,
    taken_over,
    told,
    unheard_ms,
)
from stream_app.core.unanswered import due_ms, evidence, silent

POLICY = SilencePolicy(overdue=3)
THERE = Destination("people", "acme", ("w1",), callback_deadline_s=60, callback_grace_s=600)
ACME = Workspace("acme", "people", silence=POLICY)


def after(*accepted_ms: int, state: Hearing | None = None) -> Hearing:
    state = state or Hearing()
    for at_ms in accepted_ms:
        state = overdue(state, at_ms)
    return state


def test_as_many_overdue_leads_as_the_policy_says_are_a_silence_once() -> None:
    assert not is_news(POLICY, after(1, 2))
    state = after(1, 2, 3)
    assert is_news(POLICY, state)
    assert not is_news(POLICY, told(state, 10))
    assert not is_news(POLICY, after(4, 5, 6, state=told(state, 10)))


def test_a_callback_ends_it_and_older_leads_count_no_more() -> None:
    state = heard(told(after(1, 2, 3), 10), 20)
    assert not is_news(POLICY, after(5, 6, 7, 8, 20, state=state)), "they were accepted before that callback"
    assert is_news(POLICY, after(21, 22, 23, state=state))


def test_once_lifted_only_leads_from_after_it_was_told_count() -> None:
    state = over(told(after(1, 2, 3), 10))
    assert not is_news(POLICY, after(4, 9, 10, state=state))
    assert is_news(POLICY, after(11, 12, 13, state=state))


@given(st.lists(st.one_of(st.integers(1, 1_000), st.none()), max_size=40))
def test_it_is_told_if_and_only_if_enough_are_overdue_since_the_last_callback(steps: list[int | None]) -> None:
    """None: a callback, at the time of the step's place; a number: a lead accepted then is overdue."""
    state, last_ms = Hearing(), 0
    since: list[int] = []
    for now_ms, step in enumerate(steps):
        if step is None:
            state, last_ms, since = heard(state, now_ms), now_ms, []
        else:
            state = overdue(state, step)
            since += [step] if step > last_ms else []
        assert is_news(POLICY, state) == (len(since) >= POLICY.overdue)
        assert state.oldest_ms == min(since, default=0)


def test_time_without_an_owner_is_no_waiting() -> None:
    lane = Lane("acme", 0, hearing=listening(Hearing(), 100_000))
    lane = take_over(lane, 400_000)
    assert lane.hearing.gaps == ((100_000, 400_000),)
    row = Delivery(ROW_VERSION, "accepted", "leads/0/0", 3, 90_000, 1, "t")
    assert due_ms(row, THERE, lane) == 90_000 + 60_000 + 300_000
    assert due_ms(msgspec.structs.replace(row, at_ms=250_000), THERE, lane) == 250_000 + 60_000 + 150_000
    assert due_ms(msgspec.structs.replace(row, at_ms=400_000), THERE, lane) == 460_000
    assert due_ms(msgspec.structs.replace(row, state="callback_overdue"), THERE, lane) == 90_000 + 600_000 + 300_000


@given(st.lists(st.integers(0, 100_000), min_size=2, max_size=30), st.integers(0, 1_000_000))
def test_deadlines_stay_in_order_however_often_nobody_was_there(steps: list[int], since_ms: int) -> None:
    state, now_ms = Hearing(), 0
    for number, step in enumerate(steps):
        now_ms += step
        state = listening(state, now_ms) if number % 2 else taken_over(state, now_ms)
    assert len(state.gaps) <= 8
    first, second = since_ms, since_ms + 1
    assert first + unheard_ms(state, first) <= second + unheard_ms(state, second)
    assert 0 <= unheard_ms(state, since_ms) <= max(0, now_ms - since_ms)


def test_a_short_absence_is_none() -> None:
    state = listening(Hearing(), 1_000)
    assert taken_over(state, 5_000).gaps == ()


def test_the_likely_causes_come_in_their_order_with_what_speaks_for_them() -> None:
    lane = Lane("acme", 0, hearing=after(1_000, 2_000, 3_000))
    text = causes(evidence(ACME, lane, THERE, "", 10_000))
    assert [text.index(word) for word in ("credits", "auto-run", "50,000", "callback URL")] == sorted(
        text.index(word) for word in ("credits", "auto-run", "50,000", "callback URL")
    )
    assert "3 leads are overdue and no callback came since 1970-01-01 00:00:01 UTC" in text
    full = msgspec.structs.replace(lane, quota=Quota({"w1": Webhook(49_900), "other": Webhook(50_000)}))
    text = causes(evidence(ACME, full, THERE, "HTTP 502", 10_000))
    assert text.index("callback URL") < text.index("50,000") < text.index("credits"), text
    assert "HTTP 502" in text
    assert "w1 has had 49900" in text
    assert "other" not in text


def test_the_lane_stops_and_counts_anew_when_it_goes_on() -> None:
    lane = silent(ACME, Lane("acme", 0, hearing=after(1, 2, 3)), THERE, "why", 10)
    assert lane.stop is not None
    assert (lane.stop.reason, lane.stop.text, lane.stop.destination) == ("silence", "why", "people")
    lane = lifted(lane)
    assert lane.stop is None
    assert not is_news(POLICY, after(4, 5, 6, state=lane.hearing))


def test_a_policy_that_makes_no_sense_is_named() -> None:
    assert problems(SilencePolicy()) == []
    assert "overdue" in problems(SilencePolicy(overdue=0))[0]
