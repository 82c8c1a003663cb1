"""A stopped lane: one probe at a time, at growing intervals, and only the probe's own answer counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lane import suspension
from stream_app.domain.lane.bounds import Wait
from stream_app.domain.lane.suspension import Probe, Suspension, SuspensionPolicy

POLICY = SuspensionPolicy(probe_s=300, probe_cap_s=1_000, probe_lease_s=120)
NOW_MS = 1_795_500_000_000


def _stopped() -> Suspension:
    return suspension.suspend(POLICY, None, _turned_away("unauthorized", NOW_MS))


def _turned_away(reason: str, now_ms: int) -> Suspension:
    return suspension.begin(POLICY, reason, "the token was refused", now_ms, "people", "setup-1")


def _probe(state: Suspension, now_ms: int) -> tuple[Suspension, Probe]:
    state, answer = suspension.permit(POLICY, state, now_ms)
    assert isinstance(answer, Probe)
    return state, answer


def test_probes_at_doubled_intervals_up_to_the_cap_and_success_lifts() -> None:
    state, now_ms, waits = _stopped(), NOW_MS, []
    for _ in range(4):
        state, answer = suspension.permit(POLICY, state, now_ms)
        assert isinstance(answer, Wait)
        waits.append(answer.until_ms - now_ms)
        now_ms = answer.until_ms
        state, probe = _probe(state, now_ms)
        assert suspension.permit(POLICY, state, now_ms)[1] == Wait(now_ms + 120_000), "one probe at a time"
        state = suspension.suspend(POLICY, state, _turned_away("forbidden", now_ms), probe)
    assert waits == [300_000, 600_000, 1_000_000, 1_000_000]
    assert (state.reason, state.since_ms) == ("forbidden", NOW_MS)
    state, probe = _probe(state, now_ms + 1_000_000)
    assert suspension.lift(state, probe) is None


def test_calls_from_before_the_stop_neither_lift_nor_lengthen_it() -> None:
    state = _stopped()
    assert suspension.suspend(POLICY, state, _turned_away("unauthorized", NOW_MS + 5)) is state
    assert suspension.lift(state, None) is state
    under_probe, probe = _probe(state, NOW_MS + 300_000)
    assert suspension.lift(under_probe, None) is under_probe
    assert suspension.lift(under_probe, Probe(probe.number - 1)) is under_probe


def test_a_lost_probe_is_replaced_after_its_lease_and_a_released_one_after_the_interval() -> None:
    state, _ = _probe(_stopped(), NOW_MS + 300_000)
    state, probe = _probe(state, NOW_MS + 420_000)
    state = suspension.release_probe(state, probe, NOW_MS + 421_000)
    assert suspension.permit(POLICY, state, NOW_MS + 421_000)[1] == Wait(NOW_MS + 721_000)


def test_when_the_cause_may_be_gone_exactly_one_probe_goes_at_once() -> None:
    state = suspension.probe_now(_stopped(), "setup-2", NOW_MS + 5)
    state, probe = _probe(state, NOW_MS + 5)
    assert suspension.permit(POLICY, state, NOW_MS + 6)[1] == Wait(NOW_MS + 5 + 120_000)
    again = suspension.begin(POLICY, "unauthorized", "refused", NOW_MS + 50, "people", "setup-2")
    state = suspension.suspend(POLICY, state, again, probe)
    assert (state.setup_id, state.since_ms, state.probe_at_ms) == ("setup-2", NOW_MS, NOW_MS + 50 + 600_000)


@pytest.mark.parametrize("held", [True, False], ids=["one_destination", "all"])
@pytest.mark.parametrize("reason", ["unauthorized", "forbidden"])
@pytest.mark.parametrize("anew", [True, False])
def test_a_refused_probe_holds_one_destination_only_if_it_was_one_for_the_same_reason(
    held: bool, reason: str, anew: bool
) -> None:
    stopped = suspension.begin(POLICY, "unauthorized", "refused", NOW_MS, "people", "setup-1", held)
    state, probe = _probe(stopped, NOW_MS + 300_000)
    fresh = suspension.begin(POLICY, reason, "refused", NOW_MS + 300_000, "people", "setup-1", anew)
    state = suspension.suspend(POLICY, state, fresh, probe)
    one = held and reason == "unauthorized"
    assert state.one_destination == one
    assert suspension.holds(state, "people")
    assert suspension.holds(state, "firms") == (not one)
    assert (state.reason, state.since_ms, state.probe_at_ms) == (reason, NOW_MS, NOW_MS + 900_000)


@pytest.mark.parametrize("one", [True, False])
def test_the_refusal_of_another_destination_holds_all(one: bool) -> None:
    stopped = suspension.begin(POLICY, "unauthorized", "refused", NOW_MS, "people", "setup-1", True)
    assert not suspension.holds(stopped, "firms")
    fresh = suspension.begin(POLICY, "unauthorized", "refused", NOW_MS + 5, "firms", "setup-1", one)
    state = suspension.suspend(POLICY, stopped, fresh)
    assert all(suspension.holds(state, each) for each in ("people", "firms", "others"))


@given(st.lists(st.integers(-(10**13), 10**13), max_size=20))
def test_no_clock_step_makes_it_wait_longer_than_the_cap(times: list[int]) -> None:
    state = _stopped()
    for now_ms in times:
        state, answer = suspension.permit(POLICY, state, now_ms)
        if isinstance(answer, Wait):
            assert now_ms < answer.until_ms <= now_ms + 1_000_000
            assert isinstance(suspension.permit(POLICY, state, answer.until_ms)[1], Probe)


def test_problems_name_the_key() -> None:
    assert SuspensionPolicy().problems() == []
    wrong = SuspensionPolicy(probe_s=50, probe_cap_s=10, probe_lease_s=0)
    assert [line.split(" ")[0] for line in wrong.problems()] == ["probe_lease_s", "probe_s"]
