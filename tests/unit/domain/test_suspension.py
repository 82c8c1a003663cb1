"""Each step of a suspension, with every field of what it leaves."""

import pytest
from msgspec.structs import replace

from stream_app.domain.limits import suspension
from stream_app.domain.limits.suspension import Probe, Suspension, SuspensionPolicy
from stream_app.domain.model.ranges import Wait

POLICY = SuspensionPolicy(probe_s=300, probe_cap_s=1_000, probe_lease_s=120)
NOW_MS = 1_796_083_140_000
STATE = Suspension(
    "http_401",
    "refused",
    NOW_MS - 9,
    NOW_MS,
    300_000,
    4,
    NOW_MS + 50,
    "people",
    "one",
)
ITS = Probe(4, NOW_MS - 9)
OTHERS = (None, Probe(3, NOW_MS - 9), Probe(4, NOW_MS - 8))
FRESH = suspension.begin(POLICY, "http_403", "forbidden", NOW_MS + 7, "people", "two")


def changed(**changes: object) -> Suspension:
    return replace(STATE, **changes)


def test_it_begins_with_a_probe_after_the_shortest_interval() -> None:
    fresh = suspension.begin(POLICY, "http_403", "forbidden", NOW_MS + 7, "people", "two")
    assert fresh == Suspension(
        "http_403",
        "forbidden",
        NOW_MS + 7,
        NOW_MS + 7 + 300_000,
        300_000,
        0,
        0,
        "people",
        "two",
        False,
    )
    assert suspension.begin(POLICY, "r", "t", 1, one_destination=True).one_destination


@pytest.mark.parametrize(
    ("late_ms", "answer"),
    [(-1, Wait(NOW_MS)), (0, Probe(5, NOW_MS - 9)), (10, Probe(5, NOW_MS - 9))],
)
def test_a_probe_goes_when_it_is_due_and_no_other_is_under_way(
    late_ms: int,
    answer: Wait | Probe,
) -> None:
    now_ms = NOW_MS + late_ms
    free = changed(lease_until_ms=0)
    after = free if late_ms < 0 else replace(free, probe=5, lease_until_ms=now_ms + 120_000)
    assert suspension.permit(POLICY, free, now_ms) == (after, answer)
    assert suspension.permit(POLICY, STATE, NOW_MS + 49) == (STATE, Wait(NOW_MS + 50)), (
        "one is under way"
    )
    assert suspension.permit(POLICY, STATE, NOW_MS + 50)[1] == Probe(5, NOW_MS - 9), (
        "its lease has ended"
    )
    back_ms = NOW_MS - 10**9
    bounded = changed(probe_at_ms=back_ms + 1_000_000, lease_until_ms=back_ms + 120_000)
    assert suspension.permit(POLICY, STATE, back_ms) == (bounded, Wait(back_ms + 1_000_000)), (
        "the clock stepped back"
    )


def test_only_its_own_probe_ends_it_or_makes_its_interval_longer() -> None:
    later = changed(probe_at_ms=NOW_MS + 7 + 600_000, backoff_ms=600_000, lease_until_ms=0)
    assert suspension.postpone_probe(POLICY, STATE, NOW_MS + 7) == later
    longest = suspension.postpone_probe(POLICY, changed(backoff_ms=600_000), NOW_MS)
    assert longest.backoff_ms == 1_000_000
    assert longest.probe_at_ms == NOW_MS + 1_000_000
    again = changed(
        reason="http_403",
        text="forbidden",
        setup_id="two",
        probe_at_ms=NOW_MS + 7 + 600_000,
        backoff_ms=600_000,
        lease_until_ms=0,
    )
    assert suspension.suspend(POLICY, STATE, FRESH, ITS) == again
    assert suspension.lift(STATE, ITS) is None
    assert suspension.release_probe(STATE, ITS, NOW_MS) == changed(
        probe_at_ms=NOW_MS + 300_000,
        lease_until_ms=0,
    )
    for probe in OTHERS:
        assert suspension.suspend(POLICY, STATE, FRESH, probe) is STATE
        assert suspension.lift(STATE, probe) is STATE
        assert suspension.release_probe(STATE, probe, NOW_MS) is STATE
    free = changed(lease_until_ms=0)
    assert suspension.lift(free, ITS) is free, "its lease was freed"
    assert suspension.suspend(POLICY, None, FRESH) is FRESH
    assert suspension.probe_now(STATE, "new", 7) == changed(setup_id="new", probe_at_ms=7)


def test_only_polls_were_refused_until_a_lead_is() -> None:
    polls = changed(by_poll=True, one_destination=True)
    refused_poll = replace(FRESH, by_poll=True)
    elsewhere = replace(refused_poll, destination="firms")
    assert suspension.suspend(POLICY, polls, refused_poll, ITS).by_poll
    assert suspension.suspend(POLICY, polls, elsewhere).by_poll
    assert not suspension.suspend(POLICY, changed(one_destination=True), elsewhere).by_poll
    for probe in (ITS, *OTHERS):
        assert not suspension.suspend(POLICY, polls, FRESH, probe).by_poll
        assert not suspension.suspend(POLICY, STATE, refused_poll, probe).by_poll


@pytest.mark.parametrize("new_is_one", [True, False])
@pytest.mark.parametrize(("reason", "stays_one"), [("http_401", True), ("http_403", False)])
def test_a_hold_of_one_destination_becomes_one_of_all_where_another_cause_or_destination_is_refused(
    reason: str,
    stays_one: bool,
    new_is_one: bool,
) -> None:
    alone = changed(one_destination=True)
    fresh = replace(FRESH, reason=reason, one_destination=new_is_one)
    assert suspension.suspend(POLICY, alone, fresh, ITS).one_destination is stays_one
    assert not suspension.suspend(POLICY, STATE, fresh, ITS).one_destination
    other = replace(fresh, destination="firms", one_destination=new_is_one)
    assert suspension.suspend(POLICY, alone, other) == replace(other, one_destination=False)


def test_which_destinations_it_holds() -> None:
    states = (None, STATE, changed(one_destination=True), changed(exempt=("firms",)))
    held = [
        [name for name in ("people", "firms") if suspension.holds(state, name)] for state in states
    ]
    assert held == [[], ["people", "firms"], ["people"], ["people"]]
    soon = changed(text="t", destination="a", setup_id="", backoff_ms=300_000)
    for others, left in (
        (["a"], {"one_destination": True}),
        (["a", "b"], {"exempt": ("firms", "zoo")}),
    ):
        state = changed(exempt=("zoo",))
        assert suspension.exempt(POLICY, state, "firms", others, "t", NOW_MS - 1) == replace(
            soon,
            **left,
        )
    later = suspension.exempt(
        POLICY,
        changed(probe_at_ms=NOW_MS + 10**9),
        "firms",
        ["a"],
        "t",
        NOW_MS,
    )
    assert later.probe_at_ms == NOW_MS + 300_000
