"""When a run may be polled: its result is paid for, so that few things hold a poll."""

from typing import Any, Final

import msgspec
import pytest

from stream_app.domain.lane.admission import Poll, PollHeld, decide_poll
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.overrides import Close, Order, Pause, Shadow, Trip, obey
from stream_app.domain.limits import suspension
from stream_app.domain.limits.breaker import Breaker
from stream_app.domain.limits.rate import Rate
from stream_app.domain.plan import Actor, Destination, InForce

NOW_MS: Final = 1_796_083_140_000
PEOPLE: Final = Destination("people", "acme", ("function:t_1",), kind="routine")
POLICY: Final = InForce("acme", "people")
LANE: Final = Lane("acme", 0, rate=Rate(4.0, NOW_MS))
OPEN: Final = Breaker("open", 3, NOW_MS, NOW_MS + 5_000, "failure_rate", NOW_MS)
BY: Final = Actor("anna", "maintenance", NOW_MS)


def suspended(reason: str) -> suspension.Suspension:
    return suspension.begin(POLICY.suspension, reason, "refused", NOW_MS, "people")


@pytest.mark.parametrize(
    ("changes", "order", "expected"),
    [
        ({}, None, Poll()),
        ({}, Pause(), Poll()),
        ({"suspension": suspended("http_402")}, None, Poll()),
        ({"suspension": suspended("http_403")}, None, Poll()),
        ({"suspension": suspended("credits_exhausted_suspected")}, None, Poll()),
        (
            {"suspension": suspended("http_401")},
            None,
            PollHeld(NOW_MS + int(POLICY.suspension.probe_s * 1000)),
        ),
        ({"breaker": OPEN}, None, PollHeld(NOW_MS + 5_000, by_breaker=True)),
        ({"breaker": msgspec.structs.replace(OPEN, until_ms=NOW_MS)}, None, Poll()),
        ({"breaker": Breaker("half_open", 1)}, None, Poll()),
        ({}, Trip(), PollHeld(NOW_MS + 60_000, by_breaker=True)),
        ({"breaker": OPEN}, Close(), Poll()),
        ({"breaker": OPEN}, Shadow(), Poll()),
    ],
)
def test_what_holds_a_poll(
    changes: dict[str, Any],
    order: Order | None,
    expected: Poll | PollHeld,
) -> None:
    lane = msgspec.structs.replace(LANE, **changes)
    if order is not None:
        lane = obey(POLICY, lane, order, BY).lane
    after, answer = decide_poll(POLICY, lane, PEOPLE, NOW_MS)
    assert answer == expected
    took = lane.rate.tokens - after.rate.tokens
    assert took == (1 if isinstance(answer, Poll) else 0), "a poll takes a token, and a hold none"


def test_an_empty_bucket_says_when_its_next_token_comes() -> None:
    lane = msgspec.structs.replace(LANE, rate=Rate(0.0, NOW_MS))
    interval_ms = round(1000 / POLICY.rate.rate_per_s)
    assert decide_poll(POLICY, lane, PEOPLE, NOW_MS)[1] == PollHeld(
        NOW_MS + interval_ms,
        for_token=True,
    )


def found_by_a_poll(**changes: Any) -> Lane:
    stopped = msgspec.structs.replace(suspended("http_402"), by_poll=True, **changes)
    return msgspec.structs.replace(LANE, suspension=stopped)


def test_a_poll_goes_through_a_refusal_that_a_poll_has_found_and_one_is_its_probe() -> None:
    """None of them is held, because results are paid for."""
    lane = found_by_a_poll()
    early = decide_poll(POLICY, lane, PEOPLE, NOW_MS + 1)[1]
    assert early == Poll(None, through_ms=NOW_MS)
    due_ms = NOW_MS + int(POLICY.suspension.probe_s * 1000)
    after, poll = decide_poll(POLICY, lane, PEOPLE, due_ms)
    assert poll == Poll(suspension.Probe(1, NOW_MS), through_ms=NOW_MS)
    assert after.suspension is not None
    assert after.suspension.lease_until_ms > due_ms, "no lead goes as a probe, too"
    assert decide_poll(POLICY, after, PEOPLE, due_ms)[1] == Poll(None, through_ms=NOW_MS)
    firms = msgspec.structs.replace(PEOPLE, alias="firms")
    assert decide_poll(POLICY, lane, firms, due_ms)[1] == Poll(), "of another routine"


def test_one_poll_is_the_probe_of_a_refused_key() -> None:
    stopped = suspended("http_401")
    due_ms = NOW_MS + int(POLICY.suspension.probe_s * 1000)
    lane = msgspec.structs.replace(LANE, suspension=stopped)
    lane, probe = decide_poll(POLICY, lane, PEOPLE, due_ms)
    assert isinstance(probe, Poll)
    assert probe.probe is not None
    lane, other = decide_poll(POLICY, lane, PEOPLE, due_ms)
    assert isinstance(other, PollHeld)
    assert other.until_ms > due_ms


@pytest.mark.parametrize("reason", ["http_401", "http_402"])
def test_a_question_whose_answer_lifts_no_hold_takes_no_probe(reason: str) -> None:
    stopped = msgspec.structs.replace(suspended(reason), by_poll=True)
    lane = msgspec.structs.replace(LANE, suspension=stopped)
    due_ms = NOW_MS + int(POLICY.suspension.probe_s * 1000)
    after, answer = decide_poll(POLICY, lane, PEOPLE, due_ms, may_probe=False)
    assert after.suspension == stopped
    assert isinstance(answer, PollHeld if reason == "http_401" else Poll)
