"""When a lane is silent, what does not count as silence, and in which order the causes are named."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.callback.interpret import book
from stream_app.domain.callback.timeout import due_ms, evidence, silent
from stream_app.domain.callback.timeout import overdue as overdue_lead
from stream_app.domain.delivery.outcome import Accepted, Denied
from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery
from stream_app.domain.lane.callback_health import (
    CallbackHealthPolicy,
    Ear,
    Hearing,
    causes,
    ear,
    heard,
    is_news,
    keep,
    listening,
    over,
    overdue,
    problems,
    taken_over,
    told,
    unheard_ms,
)
from stream_app.domain.lane.lane import Grant, Held, Lane, admit, lifted, settle
from stream_app.domain.lane.rate import RatePolicy
from stream_app.domain.lane.takeover import take_over
from stream_app.domain.lane.view import view
from stream_app.domain.lane.webhook_quota import Quota, Webhook
from stream_app.domain.messages import Callback
from stream_app.domain.policy import Destination, Workspace

POLICY = CallbackHealthPolicy(overdue=3)
OTHER = Destination("firms", "acme", ("w2",))
THIRD = Destination("jobs", "acme", ("w3",))
MUTE = Destination("mute", "acme", ("w4",), callbacks=False)
THERE = Destination("people", "acme", ("w1",), callback_deadline_s=60, callback_grace_s=600)
ACME = Workspace("acme", "people", silence=POLICY, rate=RatePolicy(rate_per_s=1_000, burst=10_000))


def after(*accepted_ms: int, state: Ear | None = None) -> Ear:
    state = state or Ear()
    for at_ms in accepted_ms:
        state = overdue(state, at_ms)
    return state


def hears(state: Ear) -> Hearing:
    """As it is heard of people."""
    return keep(Hearing(), "people", state)


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
    state = ear(over(hears(told(after(1, 2, 3), 10))), "people")
    assert not is_news(POLICY, after(4, 9, 10, state=state))
    assert is_news(POLICY, after(11, 12, 13, state=state))


def test_a_row_from_before_destinations_were_told_apart_is_read() -> None:
    raw = b'{"heard_ms":5,"overdue":3,"oldest_ms":6,"told_ms":10,"listened_ms":9}'
    state = msgspec.json.decode(raw, type=Hearing)
    assert state.listened_ms == 9
    for name in ("people", "firms"):
        assert not is_news(POLICY, after(6, 7, 10, state=ear(state, name)))
        assert is_news(POLICY, after(11, 12, 13, state=ear(state, name)))


@given(st.lists(st.one_of(st.integers(1, 1_000), st.none()), max_size=40))
def test_it_is_told_if_and_only_if_enough_are_overdue_since_the_last_callback(steps: list[int | None]) -> None:
    """None: a callback, at the time of the step's place; a number: a lead accepted then is overdue."""
    state, last_ms = Ear(), 0
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
    lane = Lane("acme", 0, hearing=hears(after(1_000, 2_000, 3_000)))
    text = causes(evidence(ACME, lane, THERE, "", 10_000))
    assert [text.index(word) for word in ("credits", "auto-run", "50,000", "callback URL")] == sorted(
        text.index(word) for word in ("credits", "auto-run", "50,000", "callback URL")
    )
    assert "3 leads of people are overdue and no callback of it came since 1970-01-01 00:00:01 UTC" in text
    assert "it has never called back; its newest rows in Clay show whether they ran" in text
    full = msgspec.structs.replace(lane, quota=Quota({"w1": Webhook(49_900), "other": Webhook(50_000)}))
    text = causes(evidence(ACME, full, THERE, "HTTP 502", 10_000))
    assert text.index("callback URL") < text.index("50,000") < text.index("credits"), text
    assert "HTTP 502" in text
    assert "w1 has had 49900" in text
    assert "other" not in text


def test_a_table_that_calls_back_meanwhile_shows_that_it_is_not_the_credits() -> None:
    hearing = hears(after(3_000, 4_000, 5_000, state=heard(Ear(), 2_000)))
    before = Lane("acme", 0, hearing=keep(hearing, "firms", heard(Ear(), 3_000)))
    text = causes(evidence(ACME, before, THERE, "", 10_000))
    assert text.index("credits of this workspace") < text.index("auto-run")
    assert "(it called back last at 1970-01-01 00:00:02 UTC; its newest rows" in text
    since = Lane("acme", 0, hearing=keep(hearing, "firms", heard(Ear(), 3_001)))
    text = causes(evidence(ACME, since, THERE, "", 10_000))
    assert text.index("auto-run") < text.index("credits of this workspace")
    assert "00:00:02 UTC, while firms did since, with the same credits; its newest rows" in text


def test_the_lane_stops_and_counts_anew_when_it_goes_on() -> None:
    lane = silent(ACME, Lane("acme", 0, hearing=hears(after(1, 2, 3))), THERE, "why", 10)
    assert lane.stop is not None
    assert (lane.stop.reason, lane.stop.text, lane.stop.destination) == ("silence", "why", "people")
    lane = lifted(lane)
    assert lane.stop is None
    assert not is_news(POLICY, after(4, 5, 6, state=ear(lane.hearing, "people")))


def test_one_silent_destination_is_held_alone_and_a_second_one_holds_the_lane() -> None:
    lane = silent(ACME, Lane("acme", 0, hearing=hears(after(1, 2, 3))), THERE, "why", 10)
    lane, entry = admit(ACME, lane, OTHER, 20, 0)
    assert isinstance(entry, Grant), "firms goes on"
    _, held = admit(ACME, lane, THERE, 20, 0)
    assert isinstance(held, Held)
    assert (held.reason, view(ACME, lane, [THERE, OTHER], 20).holds) == ("silence", "silence")
    for accepted_ms in (30, 31):
        lane, news = overdue_lead(ACME, lane, "firms", accepted_ms)
        assert not news
    lane, news = overdue_lead(ACME, lane, "firms", 32)
    assert news
    lane = silent(ACME, lane, OTHER, "both", 40)
    for there in (THERE, OTHER):
        _, held = admit(ACME, lane, there, 50, 0)
        assert isinstance(held, Held)
        assert held.text == "both"
    lane = lifted(lane)
    for name in ("people", "firms"):
        assert not is_news(POLICY, after(8, 9, 10, state=ear(lane.hearing, name)))


def _two_are_silent() -> Lane:
    """people since 10, firms since 40."""
    lane = Lane("acme", 0)
    for there, now_ms in ((THERE, 10), (OTHER, 40)):
        for accepted_ms in range(now_ms - 3, now_ms):
            lane, news = overdue_lead(ACME, lane, there.alias, accepted_ms)
        assert news
        lane = silent(ACME, lane, there, "why", now_ms)
    return lane


def _probed(lane: Lane, there: Destination, called_back: bool = True) -> Lane:
    """The lane after a probe of this destination, which Clay takes."""
    assert lane.stop is not None
    now_ms = lane.stop.probe_at_ms
    before = _goes(lane, now_ms)
    lane, entry = admit(ACME, lane, there, now_ms, 0)
    assert isinstance(entry, Grant)
    assert entry.probe is not None
    lane, _ = settle(ACME, lane, entry, Accepted(200, 50), now_ms + 10, 0.5)
    if not called_back:
        return lane
    assert _goes(lane, now_ms + 15) == before, "the 2xx proves nothing"
    row = Delivery(
        *(ROW_VERSION, "accepted", "leads/0/0", 3, now_ms, now_ms, "t"),
        reservation=entry.reservation,
        probe=entry.probe.since_ms,
    )
    said = Callback("id0", "acme", there.alias, now_ms + 20, "enriched", {})
    return book(ACME, lane, row, there, said, now_ms + 20).lane


def _goes(lane: Lane, now_ms: int = 301_000) -> set[str]:
    """The destinations of which any number of leads go."""
    tables = (THERE, OTHER, THIRD, MUTE)
    answers = {there.alias: admit(ACME, lane, there, now_ms, 0)[1] for there in tables}
    return {name for name, answer in answers.items() if isinstance(answer, Grant) and answer.probe is None}


def test_of_two_silent_destinations_the_probe_of_one_lets_only_that_one_go() -> None:
    lane = _probed(_two_are_silent(), OTHER)
    assert _goes(lane) == {"firms", "jobs", "mute"}
    assert lane.stop is not None
    assert (lane.stop.destination, lane.stop.alone, lane.stop.probe_at_ms) == ("people", True, 600_060)
    assert lane.stop.text.startswith("no callback of people comes, while firms has called back")
    assert _probed(lane, THERE).stop is None
    assert _goes(_two_are_silent()) == set()


def test_a_third_destination_proves_only_itself_while_two_are_silent() -> None:
    lane = _probed(_two_are_silent(), THIRD)
    assert _goes(lane) == {"jobs"}
    assert _goes(_probed(lane, MUTE, called_back=False)) == {"jobs"}, "it never calls back"
    assert _goes(_probed(lane, THERE)) == {"people", "jobs", "mute"}
    assert _probed(_probed(lane, THERE), OTHER).stop is None


def test_who_was_let_go_and_falls_silent_is_held_with_the_others() -> None:
    lane = _probed(_two_are_silent(), THIRD)
    for accepted_ms in (400_000, 400_001, 400_002):
        lane, news = overdue_lead(ACME, lane, "jobs", accepted_ms)
    assert news
    lane = silent(ACME, lane, THIRD, "why", 500_000)
    assert _goes(lane, 501_000) == set()
    lane = _probed(_probed(lane, OTHER), THIRD)
    assert _goes(lane, 1_200_000) == {"firms", "jobs", "mute"}


def test_a_destination_that_calls_back_no_more_by_its_configuration_is_held_no_more() -> None:
    lane = silent(ACME, Lane("acme", 0, hearing=hears(after(1, 2, 3))), THERE, "why", 10)
    lane = _probed(lane, msgspec.structs.replace(THERE, callbacks=False), called_back=False)
    assert lane.stop is None


def test_what_turns_the_lane_away_counts_beside_a_silent_destination() -> None:
    lane = silent(ACME, Lane("acme", 0, hearing=hears(after(1, 2, 3))), THERE, "why", 10)
    lane, entry = admit(ACME, lane, OTHER, 20, 0)
    assert isinstance(entry, Grant)
    lane, _ = settle(ACME, lane, entry, Denied(401, 50, "refused"), 30, 0.5)
    assert lane.stop is not None
    assert (lane.stop.reason, lane.stop.destination, lane.stop.alone) == ("http_401", "firms", False)
    lane = lifted(lane)
    assert is_news(POLICY, after(11, 12, 13, state=ear(lane.hearing, "people"))), "told anew if it is silent still"


def test_a_policy_that_makes_no_sense_is_named() -> None:
    assert problems(CallbackHealthPolicy()) == []
    assert "overdue" in problems(CallbackHealthPolicy(overdue=0))[0]
