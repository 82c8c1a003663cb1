"""All that each outcome of a POST does to its lane, while the lane probes after an outage and a
refused token.
"""

from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from stream_app.domain.lane.admission import Poll, without_webhook
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.settlement import Settlement, polled, settled
from stream_app.domain.limits import suspension, window
from stream_app.domain.limits.breaker import Breaker, Outage
from stream_app.domain.limits.rate import Rate
from stream_app.domain.limits.window import WindowTotals
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
    WebhookOut,
)
from stream_app.domain.model.ranges import Wait
from stream_app.domain.model.run import RunDenied, RunGone, RunLimited, RunUnfinished, RunUnread
from stream_app.domain.plan import Destination, InForce
from tests.unit.domain.lanes import granted

NOW_MS = 1_796_083_140_000
END_MS = NOW_MS + 100
POLICY = InForce("acme", "people")
STOPPED = suspension.begin(POLICY.suspension, "http_401", "refused", NOW_MS - 400_000, "people")
PROBING = Breaker("half_open", 4, 1, successes=1, next_lease=6)
LANE = Lane("acme", 0, breaker=PROBING, suspension=STOPPED, rate=Rate(10.0, NOW_MS))


class After(NamedTuple):
    """What is left of the lane: by default, of a call that says nothing and cost nothing."""

    phase: str = "half_open"
    successes: int = 1
    stopped: tuple[str, int] | None = ("http_401", 300_000)
    """Why, and in how many ms the next probe is due."""
    credits: tuple[int, int] = (0, 0)
    """Spent and reserved."""
    window: WindowTotals = WindowTotals()
    health: WindowTotals = WindowTotals()
    dead_letters: int = 0
    tokens: float = 9.0
    blocked_ms: int = 0
    learned: int = 0
    outage: Outage | None = None


FAILED: dict[str, Any] = {
    "phase": "open",
    "successes": 0,
    "window": WindowTotals(0, 1),
    "health": WindowTotals(0, 1),
}
SLOW = WindowTotals(1, 0, 1)


@pytest.mark.parametrize("callbacks", [True, False])
@pytest.mark.parametrize(
    ("outcome", "after", "settlement"),
    [
        (
            Accepted(200, 50),
            After(
                successes=2,
                stopped=None,
                window=WindowTotals(1),
                health=WindowTotals(1),
                learned=1,
            ),
            Settlement(True, END_MS),
        ),
        (
            Accepted(200, 10_001),
            After(stopped=None, window=SLOW, health=SLOW, learned=1),
            Settlement(True, END_MS),
        ),
        (
            Uncertain("reset", 50),
            After(**FAILED, credits=(0, 20), learned=1, outage=Outage("reset", END_MS, END_MS, 1)),
            Settlement(True, END_MS),
        ),
        (
            Refused("http_503", 50, 503, "busy", retry_after="7"),
            After(
                **FAILED,
                tokens=0.0,
                blocked_ms=7_000,
                outage=Outage("http_503", END_MS, END_MS, 1),
            ),
            Settlement(False, END_MS + 7_000),
        ),
        (
            RateLimited(429, 50, "7"),
            After(tokens=0.0, blocked_ms=7_000),
            Settlement(False, END_MS + 7_000),
        ),
        (
            Denied(401, 50, "no"),
            After(stopped=("http_401", 600_000)),
            Settlement(False, END_MS, "destination people (no token): no"),
        ),
        (
            WebhookOut(403, 50, "full", "HTTP 403: it is full"),
            After(),
            Settlement(
                False,
                END_MS,
                (
                    "webhook hook1 of people takes no leads (1 submission counted here): HTTP 403: "
                    "it is full; a probe tries it again now and then"
                ),
            ),
        ),
        (
            Poison(422, 50, "bad"),
            After(window=WindowTotals(dead_letters=1), dead_letters=1),
            Settlement(False, END_MS),
        ),
        (None, After(), Settlement(False, END_MS)),
    ],
)
def test_an_outcome_frees_the_probes_and_books_what_it_cost(
    outcome: Outcome | None,
    after: After,
    settlement: Settlement,
    callbacks: bool,
) -> None:
    destination = Destination("people", "acme", ("hook1",), callbacks=callbacks)
    lane, grant = granted(POLICY, LANE, destination, NOW_MS)
    assert lane.breaker.lease is not None
    assert grant.suspension_probe is not None
    lane, settling = settled(POLICY, lane, grant, outcome, END_MS, 0.5, in_flight=1)
    stopped = lane.suspension
    day = lane.budget.days[-1]
    assert lane.breaker.lease is None
    assert stopped is None or stopped.lease_until_ms == 0
    if isinstance(outcome, Accepted):
        if callbacks:
            spent = 0
            reserved = 20
        else:
            spent = 6
            reserved = 0
        after = after._replace(credits=(spent, reserved))
        assert (settling.spent is None) is callbacks
        assert settling.spent is None or (settling.spent.credits, settling.spent.actions) == (6, 1)
    assert (
        After(
            lane.breaker.phase,
            lane.breaker.successes,
            None if stopped is None else (stopped.reason, stopped.probe_at_ms - END_MS),
            (day.credits_spent, day.credits_reserved),
            window.totals(window.LAST_MINUTE, lane.window, END_MS),
            window.totals(window.FIVE_MINUTES, lane.health, END_MS),
            lane.flood_guard.run,
            lane.rate.tokens,
            max(0, lane.rate.blocked_until_ms - END_MS),
            lane.concurrency.calls,
            lane.outage,
        )
        == after
    )
    assert replace(settling, spent=None) == settlement


@pytest.mark.parametrize("outcome", [None, RateLimited(429, 50), Poison(422, 50, "bad")])
def test_the_outcome_of_a_probe_whose_suspension_was_lifted_meanwhile_begins_none(
    outcome: Outcome | None,
) -> None:
    destination = Destination("people", "acme", ("hook1",))
    lane, grant = granted(POLICY, LANE, destination, NOW_MS)
    assert grant.suspension_probe is not None
    resumed = replace(lane, suspension=None)
    lane, _ = settled(POLICY, resumed, grant, outcome, END_MS, 0.5, in_flight=1)
    assert lane.suspension is None


@pytest.mark.parametrize(
    ("counts", "in_a_row", "alone", "attempts"),
    [
        (True, 1, True, 3),
        (True, 3, True, 3),
        (True, 4, True, 2),
        (True, 1, False, 3),
        (True, 2, False, 2),
        (False, 0, True, 2),
        (True, 0, True, 3),
    ],
)
def test_a_failure_counts_for_the_lead_unless_others_fail_as_well(
    counts: bool,
    in_a_row: int,
    alone: bool,
    attempts: int,
) -> None:
    assert Settlement(counts, 0, in_a_row=in_a_row, alone=alone).attempts(2) == attempts


@pytest.mark.parametrize(
    ("in_flight", "others_wait", "alone"),
    [(0, False, True), (1, False, True), (2, False, False), (1, True, False)],
)
def test_a_refusal_says_whether_another_lead_could_show_the_difference(
    in_flight: int,
    others_wait: bool,
    alone: bool,
) -> None:
    destination = Destination("people", "acme", ("hook1",))
    lane = Lane("acme", 0, rate=Rate(10.0, NOW_MS))
    lane, grant = granted(POLICY, lane, destination, NOW_MS)
    _, settlement = settled(
        POLICY,
        lane,
        grant,
        Refused("http_503", 5, 503),
        END_MS,
        0.5,
        in_flight,
        others_wait,
    )
    assert settlement == Settlement(True, END_MS, in_a_row=1, alone=alone)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (
            WebhookOut(404, 50, "gone", "HTTP 404: Clay does not know it"),
            "routine function:t_1 of people takes no leads: HTTP 404: Clay does not know it; a "
            "probe tries it again now and then",
        ),
        (Denied(401, 50, "HTTP 401: no"), "destination people: HTTP 401: no"),
    ],
)
def test_a_routine_is_not_called_a_webhook(outcome: Outcome, text: str) -> None:
    routine = Destination(
        "people",
        "acme",
        ("function:t_1",),
        kind="routine",
        routine="function:t_1",
    )
    lane = Lane("acme", 0, rate=Rate(10.0, NOW_MS))
    lane, grant = granted(POLICY, lane, routine, NOW_MS)
    lane, settlement = settled(POLICY, lane, grant, outcome, NOW_MS, 0.5)
    assert settlement.text == text


def test_a_routine_that_takes_no_leads_says_what_to_do_in_clay() -> None:
    routine = Destination("people", "acme", ("function:t_1",), kind="routine", routine="x")
    held = without_webhook(Lane("acme", 0), routine, Wait(NOW_MS + 1_000), NOW_MS)
    assert held.reason == "webhook_out"
    assert held.text == (
        "Clay does not start the routine of destination people (function:t_1: 0 submissions): "
        "publish it and switch its API on in Clay, or correct its id, then `stream-app lanes "
        "reload`"
    )


# --------------------------------------------------------------------------------- answers to polls

ROUTINE = Destination("people", "acme", ("function:t_1",), kind="routine", routine="x")
REFUSED_POLL = RunDenied(402, "upgrade your plan")


def after_poll(lane: Lane, answer: Any, poll: Poll, late_ms: int = 1) -> Lane:
    return polled(POLICY, lane, ROUTINE, poll, answer, NOW_MS + late_ms, 0.5, 100)


@pytest.mark.parametrize(
    ("answer", "poll", "is_lifted"),
    [
        (RunUnfinished(), Poll(through_ms=NOW_MS), True),
        (RunGone(404, "no such run"), Poll(through_ms=NOW_MS), True),
        (RunUnfinished(), Poll(), False),  # it began before the refusal
        (RunUnfinished(), Poll(through_ms=NOW_MS - 1), False),  # through an earlier suspension
        (RunUnread("http_503", "busy"), Poll(through_ms=NOW_MS), False),
        (RunLimited(None), Poll(through_ms=NOW_MS), False),
        (REFUSED_POLL, Poll(through_ms=NOW_MS), False),
    ],
)
def test_a_poll_that_clay_answers_lifts_what_a_refused_poll_began(
    answer: Any,
    poll: Poll,
    is_lifted: bool,
) -> None:
    stopped = after_poll(Lane("acme", 0), REFUSED_POLL, Poll(), late_ms=0)
    assert stopped.suspension is not None
    assert stopped.suspension.by_poll
    assert (after_poll(stopped, answer, poll).suspension is None) is is_lifted


def test_no_poll_lifts_a_suspension_once_a_lead_is_refused_as_well() -> None:
    lane, grant = granted(POLICY, Lane("acme", 0), ROUTINE, NOW_MS)
    stopped = after_poll(lane, REFUSED_POLL, Poll(), late_ms=0)
    both, _ = settled(POLICY, stopped, grant, Denied(402, 50), END_MS, 0.5)
    assert both.suspension is not None
    assert both.suspension.since_ms == NOW_MS
    assert after_poll(both, RunUnfinished(), Poll(through_ms=NOW_MS)) == both
