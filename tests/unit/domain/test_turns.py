"""When deferred leads come back: one by one at the lane's rate, returned ones ahead of new ones."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lane.concurrency import Concurrency
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.rate import Rate, RatePolicy
from stream_app.domain.lane.turns import Horizon, postpone, sends_per_s
from stream_app.domain.policy import Workspace

ACME = Workspace("acme", "people", rate=RatePolicy(rate_per_s=8.0))


def test_deferred_leads_come_back_at_the_rate_in_their_order() -> None:
    horizon, dues = Horizon(), []
    for _ in range(16):
        horizon, due_ms = postpone(horizon, 10_000, 8.0, returned=False)
        dues.append(due_ms)
    assert dues == [10_000 + 125 * number for number in range(1, 17)]


def test_a_lead_that_returned_before_comes_back_ahead_of_new_ones() -> None:
    horizon = Horizon(returned_ms=11_000, new_ms=900_000)
    _, due_ms = postpone(horizon, 10_000, 8.0, returned=True)
    assert due_ms == 11_125
    _, due_ms = postpone(horizon, 10_000, 8.0, returned=False)
    assert due_ms == 900_125


def test_new_leads_come_back_behind_those_that_returned_before() -> None:
    _, due_ms = postpone(Horizon(returned_ms=50_000), 10_000, 8.0, returned=False)
    assert due_ms == 50_125


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=50),
    st.floats(0.01, 1_000),
)
def test_no_two_leads_of_a_kind_have_the_same_turn(asked: list[tuple[int, bool]], per_s: float) -> None:
    horizon = Horizon()
    dues: dict[bool, list[int]] = {False: [], True: []}
    for at_ms, returned in asked:
        horizon, due_ms = postpone(horizon, at_ms, per_s, returned=returned)
        assert due_ms > at_ms
        dues[returned].append(due_ms)
    for times in dues.values():
        assert times == sorted(set(times))


def test_a_lane_sends_at_its_present_rate_and_no_faster_than_clay_answers() -> None:
    lane = Lane("acme", 0)
    assert sends_per_s(ACME, lane) == 8.0
    cut = msgspec.structs.replace(lane, rate=Rate(cut_per_s=6.0))
    assert sends_per_s(ACME, cut) == 2.0
    slow = msgspec.structs.replace(lane, concurrency=Concurrency(usual_ms=50_000.0, calls=100))
    assert sends_per_s(ACME, slow) == ACME.max_in_flight / 50
