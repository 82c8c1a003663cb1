"""When callbacks are missing, which leads prove it, and in which order the causes are named."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.callback.interpret import booked, due_ms, suspend_silent, why_missing
from stream_app.domain.callback.interpret import overdue as overdue_lead
from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery
from stream_app.domain.lane.admission import Grant, decide
from stream_app.domain.lane.lane import Lane, for_new_owner, lifted
from stream_app.domain.lane.settlement import probe_succeeded, settled
from stream_app.domain.limits import callback_health, suspension
from stream_app.domain.limits.budget import Budget, Period, Reservation
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.limits.webhook_quota import Quota, Webhook
from stream_app.domain.model.messages import AnsweredColumns, Callback
from stream_app.domain.model.outcome import Accepted, Denied
from stream_app.domain.plan import Destination, InForce
from tests.unit.domain.lanes import granted

POLICY = callback_health.CallbackHealthPolicy(overdue=3)
OTHER = Destination("firms", "acme", ("w2",))
THIRD = Destination("jobs", "acme", ("w3",))
MUTE = Destination("mute", "acme", ("w4",), callbacks=False)
THERE = Destination("people", "acme", ("w1",), callback_deadline_s=60, callback_grace_s=600)
ACME = InForce(
    "acme",
    "people",
    callback_health=POLICY,
    rate=RatePolicy(rate_per_s=1_000, burst=10_000),
)


def after(
    *accepted_ms: int,
    state: callback_health.CallbackHealth | None = None,
) -> callback_health.CallbackHealth:
    """Return the state after overdue leads of people that were accepted at these times."""
    state = state or callback_health.CallbackHealth()
    for at_ms in accepted_ms:
        state = callback_health.record_overdue(state, "people", at_ms)
    return state


def missing(state: callback_health.CallbackHealth, destination: str = "people") -> bool:
    return callback_health.are_missing(POLICY, state, destination)


@given(st.lists(st.one_of(st.integers(1, 1_000), st.none()), max_size=40))
def test_callbacks_are_missing_if_and_only_if_enough_leads_since_the_last_one_are_overdue(
    steps: list[int | None],
) -> None:
    """None: a callback at the time of the step. A number: a lead accepted then is overdue."""
    state = callback_health.CallbackHealth()
    last_ms = 0
    since: list[int] = []
    for now_ms, step in enumerate(steps):
        if step is None:
            state = callback_health.record_callback(state, "people", now_ms)
            last_ms = now_ms
            since = []
        else:
            state = callback_health.record_overdue(state, "people", step)
            since += [step] if step > last_ms else []
        assert missing(state) == (len(since) >= POLICY.overdue)
        assert callback_health.of(state, "people").oldest_ms == min(since, default=0)


def test_a_report_is_made_once_and_after_it_has_ended_leads_of_before_prove_nothing() -> None:
    state = callback_health.record_callback(callback_health.CallbackHealth(), "people", 100)
    state = callback_health.record_report(after(105, 101, 110, state=state), "people", 500)
    assert not missing(state)
    assert not missing(state, "firms")
    assert [callback_health.still_missing(state, name) for name in ("firms", "people")] == [
        ["people"],
        [],
    ]
    state = callback_health.reset_reported(state)
    assert state.destinations["people"] == callback_health.DestinationCallbacks(
        100,
        ignored_until_ms=500,
    )
    assert after(500, state=state) is state
    assert after(501, state=state).destinations["people"].overdue == 1
    state = callback_health.record_callback(state, "people", 600)
    assert state.destinations["people"] == callback_health.DestinationCallbacks(
        600,
        ignored_until_ms=500,
    )


def test_times_without_an_owner_are_known() -> None:
    state = callback_health.taken_over(callback_health.CallbackHealth(), 1_000)
    assert state.owned_ms == 1_000
    assert state.gaps == ()
    state = callback_health.record_owner(callback_health.record_owner(state, 5_000), 4_000)
    assert state.owned_ms == 5_000
    assert callback_health.taken_over(state, 9_000).gaps == (), "a short absence is none"
    state = callback_health.taken_over(state, 10_000_000)
    assert state.gaps == ((5_000, 10_000_000),)
    state = callback_health.taken_over(callback_health.record_owner(state, 11_000_000), 20_000_000)
    times_ms = (0, 5_001, 12_000_000, 20_000_000, 30_000_000)
    unowned_ms = [callback_health.unowned_ms(state, since_ms) for since_ms in times_ms]
    assert unowned_ms == [9_995_000 + 9_000_000, 9_994_999 + 9_000_000, 8_000_000, 0, 0]


def test_an_absence_of_more_than_five_seconds_is_time_without_an_owner() -> None:
    state = callback_health.record_owner(callback_health.CallbackHealth(), 1_000)
    assert callback_health.taken_over(state, 6_000).gaps == ()
    assert callback_health.taken_over(state, 6_001).gaps == ((1_000, 6_001),)


def test_time_without_an_owner_is_no_waiting() -> None:
    lane = Lane(
        "acme",
        0,
        callback_health=callback_health.record_owner(callback_health.CallbackHealth(), 100_000),
    )
    lane = for_new_owner(lane, 400_000)
    row = Delivery(ROW_VERSION, "accepted", "leads/0/0", 3, 90_000, 1, "t")
    assert due_ms(row, THERE, lane) == 90_000 + 60_000 + 300_000
    assert (
        due_ms(msgspec.structs.replace(row, at_ms=250_000), THERE, lane)
        == 250_000 + 60_000 + 150_000
    )
    assert due_ms(msgspec.structs.replace(row, at_ms=400_000), THERE, lane) == 460_000
    assert (
        due_ms(msgspec.structs.replace(row, state="callback_overdue"), THERE, lane)
        == 90_000 + 600_000 + 300_000
    )


@given(st.lists(st.integers(0, 100_000), min_size=2, max_size=30), st.integers(0, 1_000_000))
def test_deadlines_stay_in_order_over_any_number_of_owners(steps: list[int], since_ms: int) -> None:
    state = callback_health.CallbackHealth()
    now_ms = 0
    for number, step in enumerate(steps):
        now_ms += step
        state = (
            callback_health.record_owner(state, now_ms)
            if number % 2
            else callback_health.taken_over(state, now_ms)
        )
    assert len(state.gaps) <= 8
    first = since_ms
    second = since_ms + 1
    assert first + callback_health.unowned_ms(state, first) <= second + callback_health.unowned_ms(
        state,
        second,
    )
    assert 0 <= callback_health.unowned_ms(state, since_ms) <= max(0, now_ms - since_ms)


def test_the_likely_causes_come_in_order_with_their_evidence() -> None:
    lane = Lane("acme", 0, callback_health=after(1_000, 2_000, 3_000))
    text = why_missing(ACME, lane, THERE, 10_000)
    assert (
        text.index("credits")
        < text.index("auto-run")
        < text.index("run condition")
        < text.index("50,000 rows")
        < text.index("the gateway")
    )
    assert "no count yet" in text
    assert "then run the rows in Clay again" in text
    assert "silently" not in text
    assert (
        "3 leads of people are overdue and no callback of it came since 1970-01-01 00:00:01 UTC"
        in text
    )
    assert "it has never called back; its newest rows in Clay show whether they ran" in text
    full = msgspec.structs.replace(
        lane,
        quota=Quota({"w1": Webhook(49_900), "other": Webhook(50_000)}),
    )
    text = why_missing(ACME, full, THERE, 10_000)
    assert text.index("50,000 rows") < text.index("credits") < text.index("the gateway"), text
    assert "49,900 were submitted here" in text
    begun = msgspec.structs.replace(lane, quota=Quota({"w1": Webhook(1)}))
    assert "1 was submitted here" in why_missing(ACME, begun, THERE, 10_000)
    spent = msgspec.structs.replace(begun, budget=Budget(months=(Period("1970-01", 4_321),)))
    assert "(booked here this month: 4321)" in why_missing(ACME, spent, THERE, 10_000)
    emptied = msgspec.structs.replace(THERE, quota_lifetime=0)
    text = why_missing(ACME, full, emptied, 10_000)
    assert text.index("credits") < text.index("50,000 rows"), "auto-delete empties its table"


def test_a_silent_workflow_is_not_told_of_tables() -> None:
    place = msgspec.structs.replace(THERE, kind="workflow")
    webhooks = {"w1": Webhook(60_000)}
    lane = Lane("acme", 0, callback_health=after(1_000), quota=Quota(webhooks))
    text = why_missing(ACME, lane, place, 10_000)
    assert text.index("credits") < text.index("HTTP step") < text.index("the gateway")
    for word in ("table", "rows", "auto-run", "column"):
        assert word not in text, word


def test_a_silent_routine_is_told_of_neither_tables_nor_the_gateway() -> None:
    place = msgspec.structs.replace(THERE, kind="routine", webhook_ids=("function:t_1",))
    lane = Lane("acme", 0, callback_health=after(1_000, 2_000))
    text = why_missing(ACME, lane, place, 10_000)
    assert "2 leads of people are overdue and no result of it came since" in text
    assert "while Clay takes every lead" in text
    assert text.index("1. the credits") < text.index("2. a step of the routine of people hangs")
    assert "it has never had a result" in text
    for word in ("table", "rows", "auto-run", "column", "gateway", "webhook", "call"):
        assert word not in text, word


def test_all_webhooks_of_a_pool_fill_one_table() -> None:
    place = msgspec.structs.replace(THERE, webhook_ids=("w1", "w2"))
    for counts, comes_first in (((25_000, 19_999), False), ((25_000, 20_000), True)):
        webhooks = dict(zip(place.webhook_ids, map(Webhook, counts), strict=True))
        lane = Lane("acme", 0, callback_health=after(1_000), quota=Quota(webhooks))
        text = why_missing(ACME, lane, place, 10_000)
        assert (text.index("50,000 rows") < text.index("credits")) is comes_first


def test_a_table_that_calls_back_meanwhile_shows_that_it_is_not_the_credits() -> None:
    health = after(
        3_000,
        4_000,
        5_000,
        state=callback_health.record_callback(callback_health.CallbackHealth(), "people", 2_000),
    )
    before = Lane(
        "acme",
        0,
        callback_health=callback_health.record_callback(health, "firms", 3_000),
    )
    text = why_missing(ACME, before, THERE, 10_000)
    assert text.index("credits of this workspace") < text.index("auto-run")
    assert "(it called back last at 1970-01-01 00:00:02 UTC; its newest rows" in text
    since = Lane("acme", 0, callback_health=callback_health.record_callback(health, "firms", 3_001))
    text = why_missing(ACME, since, THERE, 10_000)
    assert text.index("auto-run") < text.index("credits of this workspace")
    assert "00:00:02 UTC, while firms did since, with the same credits; its newest rows" in text


def _two_are_silent() -> Lane:
    """people since 10, firms since 40."""
    lane = Lane("acme", 0)
    for table, now_ms in ((THERE, 10), (OTHER, 40)):
        for accepted_ms in range(now_ms - 3, now_ms):
            lane, news = overdue_lead(ACME, lane, table.alias, accepted_ms)
        assert news
        lane = suspend_silent(ACME, lane, table, "why", now_ms)
    return lane


def _probed(lane: Lane, table: Destination, called_back: bool = True) -> Lane:
    """The lane after a probe of this destination, which Clay takes."""
    assert lane.suspension is not None
    now_ms = lane.suspension.probe_at_ms
    before = _goes(lane, now_ms)
    lane, entry = granted(ACME, lane, table, now_ms)
    assert entry.suspension_probe is not None
    lane, _ = settled(ACME, lane, entry, Accepted(200, 50), now_ms + 10, 0.5)
    if not called_back:
        return lane
    assert _goes(lane, now_ms + 15) == before, "the 2xx proves nothing"
    row = Delivery(
        ROW_VERSION,
        "accepted",
        "leads/0/0",
        3,
        now_ms,
        now_ms,
        "t",
        reservation=entry.reservation,
        probed_ms=entry.suspension_probe.since_ms,
    )
    callback = Callback("id0", "acme", table.alias, now_ms + 20, "enriched", {})
    return booked(ACME, lane, row, table, callback, AnsweredColumns(), now_ms + 20)[0]


def _goes(lane: Lane, now_ms: int = 301_000) -> set[str]:
    """The destinations of which any number of leads go."""
    tables = (THERE, OTHER, THIRD, MUTE)
    answers = {table.alias: decide(ACME, lane, table, now_ms, 0)[1] for table in tables}
    return {
        name
        for name, answer in answers.items()
        if isinstance(answer, Grant) and answer.suspension_probe is None
    }


def test_of_two_silent_destinations_the_probe_of_one_lets_only_that_one_go() -> None:
    lane = _probed(_two_are_silent(), OTHER)
    assert _goes(lane) == {"firms", "jobs", "mute"}
    assert lane.suspension is not None
    held = lane.suspension
    assert held.destination == "people"
    assert held.one_destination is True
    assert held.probe_at_ms == 600_060
    assert held.text.startswith("no callback of people comes, while firms has called back")
    assert _probed(lane, THERE).suspension is None
    assert _goes(_two_are_silent()) == set()


def test_a_third_destination_proves_only_itself_while_two_are_silent() -> None:
    lane = _probed(_two_are_silent(), THIRD)
    assert _goes(lane) == {"jobs"}
    assert _goes(_probed(lane, MUTE, called_back=False)) == {"jobs"}, "it never calls back"
    assert _goes(_probed(lane, THERE)) == {"people", "jobs", "mute"}
    assert _probed(_probed(lane, THERE), OTHER).suspension is None


def test_a_destination_that_calls_back_no_more_by_its_configuration_is_held_no_more() -> None:
    lane = suspend_silent(
        ACME,
        Lane("acme", 0, callback_health=after(1, 2, 3)),
        THERE,
        "why",
        10,
    )
    lane = _probed(lane, msgspec.structs.replace(THERE, callbacks=False), called_back=False)
    assert lane.suspension is None


def test_limits_of_the_lane_hold_beside_a_silent_destination() -> None:
    lane = suspend_silent(
        ACME,
        Lane("acme", 0, callback_health=after(1, 2, 3)),
        THERE,
        "why",
        10,
    )
    lane, entry = granted(ACME, lane, OTHER, 20)
    lane, _ = settled(ACME, lane, entry, Denied(401, 50, "refused"), 30, 0.5)
    assert lane.suspension is not None
    stopped = lane.suspension
    assert stopped.reason == "http_401"
    assert stopped.destination == "firms"
    assert stopped.one_destination is False
    lane = lifted(lane)
    assert missing(after(11, 12, 13, state=lane.callback_health)), (
        "reported again if callbacks are still missing"
    )


def test_a_probe_lifts_another_suspension_although_callbacks_of_others_are_missing() -> None:
    stopped = suspension.begin(ACME.suspension, "http_401", "refused", 1, "people")
    health = callback_health.record_report(after(1, 2, 3), "people", 10)
    lane = Lane("acme", 0, suspension=stopped, callback_health=health)
    assert probe_succeeded(ACME, lane, "firms", 20).suspension is None


@pytest.mark.parametrize(
    ("reported_cost", "counts"),
    [(None, None), (-5, 0), (0, 0), (10**6, 10**6), (10**6 + 1, 10**6)],
)
def test_a_cost_counts_as_reported_within_reason(
    reported_cost: int | None,
    counts: int | None,
) -> None:
    held = Reservation("2026-11-30", "2026-11", 20, 5)
    row = Delivery(ROW_VERSION, "accepted", "leads/0/1", 4, 1, 1, "t", reservation=held)
    callback = Callback(
        "1",
        "acme",
        "people",
        1,
        "enriched",
        {},
        credits=reported_cost,
        actions=reported_cost,
    )
    _, now, spent = booked(ACME, Lane("acme", 0), row, THERE, callback, AnsweredColumns(), 2)
    cost = (THERE.estimate.credits, THERE.estimate.actions) if counts is None else (counts, counts)
    assert now == spent == Reservation(held.day, held.month, *cost)
