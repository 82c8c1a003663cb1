"""The health of each destination of a lane: a sick one is seen, and held alone."""

from collections import Counter
from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stream_app.domain.lane.admission import Grant, Held, decide, would_hold
from stream_app.domain.lane.holds import BREAKER_OPEN, DESTINATION_FAILS
from stream_app.domain.lane.lane import Lane, reconfigured
from stream_app.domain.lane.overrides import Reset, obey
from stream_app.domain.lane.settlement import Settlement, settled
from stream_app.domain.limits import destination_health, window
from stream_app.domain.limits.breaker import BreakerPolicy, Permit
from stream_app.domain.limits.concurrency import NOTHING
from stream_app.domain.limits.destination_health import DestinationHealth, recorded
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    RateLimited,
    Refused,
    Uncertain,
)
from stream_app.domain.plan import Actor, Destination, Workspace
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.lane_now import view
from tests.support.narrow import of_type

NOW_MS: Final = 1_796_083_140_000
NAMES: Final = ("people", "firms", "jobs")
OK: Final = Accepted(200, 100)
BUSY: Final = Refused("http_503", 100, 503)
ACME: Final = Workspace(
    "acme",
    rate=RatePolicy(rate_per_s=1_000, burst=1_000),
    breaker=BreakerPolicy(open_s=5.0),
)


class LaneOf:
    """A lane with these destinations, on a clock of its own."""

    def __init__(self, *names: str, workspace: Workspace = ACME) -> None:
        self.now_ms = NOW_MS
        self.workspace = workspace
        self.tables = {name: Destination(name, "acme", (f"hook-{name}",)) for name in names}
        self.posts = Counter[str]()
        lane = Lane("acme", 0)
        tables = list(self.tables.values())
        self.lane = reconfigured(lane.in_force(workspace), lane, tables, NOW_MS)

    def ask(self, name: str) -> Grant | Held:
        policy = self.lane.in_force(self.workspace)
        self.lane, answer = decide(policy, self.lane, self.tables[name], self.now_ms, 0)
        return answer

    def end(self, grant: Grant, outcome: Outcome | None) -> Settlement:
        policy = self.lane.in_force(self.workspace)
        self.lane, ended = settled(policy, self.lane, grant, outcome, self.now_ms, 0.0)
        return ended

    def send(self, name: str, outcome: Outcome, after_ms: int = 100) -> Held | Settlement:
        """Send a lead, and have Clay answer so, after so long."""
        answer = self.ask(name)
        if isinstance(answer, Held):
            self.now_ms += after_ms
            return answer
        self.posts[name] += 1
        self.now_ms += after_ms
        return self.end(answer, outcome)

    def seen(self, before: LaneView | None = None) -> LaneView:
        return view(self.workspace, self.lane, list(self.tables.values()), self.now_ms, before)


def test_a_sick_destination_is_held_and_its_neighbour_is_not() -> None:
    lane = LaneOf("people", "firms")
    for _ in range(300):
        lane.send("people", BUSY)
        assert isinstance(lane.send("firms", OK), Settlement)
    assert lane.lane.breaker.phase == "closed"
    assert lane.posts["firms"] == 300
    assert lane.posts["people"] <= 5 + 60 / 5, "five failures, then probes"
    seen = lane.seen()
    assert seen.holds == ""
    (held,) = seen.partly
    assert held.destinations == ("people",)
    assert held.holds == DESTINATION_FAILS
    assert "destination people fails by itself: Clay answers 503" in held.text
    assert NOW_MS < held.since_ms < NOW_MS + 2_000
    assert seen.turns.keys() == {"people"}
    assert seen.destinations["firms"].score == 100
    assert seen.destinations["firms"].health == "healthy"
    assert seen.destinations["people"].score == 0
    assert seen.destinations["people"].breaker == "open"
    assert seen.score > 90, "the average says nothing of it"


def test_destinations_that_fail_one_after_the_other_are_all_named() -> None:
    lane = LaneOf("people", "firms")
    for _ in range(20):
        lane.send("people", BUSY)
    lane.now_ms += 61_000
    for _ in range(20):
        lane.send("firms", BUSY)
    seen = lane.seen()
    assert seen.holds == DESTINATION_FAILS
    assert seen.text.count("destination people fails by itself: Clay answers 503") == 1
    assert seen.text.count("; destination firms fails by itself: Clay answers 503") == 1
    assert seen.partly == ()
    assert seen.probe_due, "the next lead of people goes"


def test_a_destination_fails_alone_if_no_other_failed_in_the_last_minute() -> None:
    failing = destination_health.noted((), "firms", False, NOW_MS)
    assert not destination_health.fails_alone(failing, "people", NOW_MS + 60_000)
    assert destination_health.fails_alone(failing, "people", NOW_MS + 60_001)


def test_a_sick_destination_does_not_stop_one_that_was_idle() -> None:
    lane = LaneOf("people", "firms")
    for _ in range(100):
        lane.send("people", BUSY, after_ms=10_000)
    assert lane.lane.breaker.phase == "closed"
    assert isinstance(lane.send("firms", OK), Settlement)


def test_an_outage_opens_the_breaker_of_the_lane() -> None:
    lane = LaneOf(*NAMES)
    for name in NAMES * 4:
        lane.send(name, OK)
    failures = 0
    while lane.lane.breaker.phase == "closed":
        lane.send(NAMES[failures % 3], BUSY)
        failures += 1
    assert failures <= ACME.breaker.consecutive_failures + 1, "the first alone is its own"
    seen = lane.seen()
    assert seen.holds == BREAKER_OPEN
    assert seen.breaker == "open"
    assert seen.outage is not None
    assert all(isinstance(lane.ask(name), Held) for name in NAMES)


def test_a_destination_that_is_well_again_is_let_through_after_its_probes() -> None:
    lane = LaneOf("people", "firms")
    for _ in range(5):
        lane.send("people", BUSY)
    assert would_hold(
        lane.lane.in_force(ACME),
        lane.lane,
        lane.tables["people"],
        lane.now_ms,
        True,
        NOTHING,
    )
    before = lane.seen()
    lane.now_ms += 5_000
    assert lane.seen().turns == {"people": 1}, "the next lead goes, as a probe"
    first = lane.ask("people")
    assert isinstance(first, Grant)
    assert first.is_probe
    assert isinstance(lane.ask("people"), Held), "one probe at a time"
    lane.end(first, OK)
    for _ in range(2):
        assert isinstance(lane.send("people", OK), Settlement)
    after = lane.seen(before)
    assert after.destinations["people"].breaker == "closed"
    assert [change.kind for change in after.news if "destination" in change.kind] == [
        "destination_closed",
    ]
    assert after.partly == ()
    assert isinstance(lane.send("people", BUSY), Settlement), "its count begins again"
    assert isinstance(lane.ask("people"), Grant)


def test_a_probe_that_says_nothing_makes_room_for_the_next_one() -> None:
    for outcome in (RateLimited(429, 1, "1"), Denied(401, 1), None):
        lane = LaneOf("people", "firms")
        for _ in range(5):
            lane.send("people", BUSY)
        lane.now_ms += 5_000
        probe = lane.ask("people")
        assert isinstance(probe, Grant)
        lane.end(probe, outcome)
        own = lane.lane.destinations["people"].breaker
        assert own.phase == "half_open"
        assert own.lease is None


def test_the_failures_of_a_sick_destination_count_as_the_leads_own_until_it_is_held() -> None:
    lane = LaneOf("people", "firms")
    first = lane.send("people", BUSY)
    assert isinstance(first, Settlement)
    assert first.attempts(0) == 1
    ended = [lane.send("people", BUSY) for _ in range(4)]
    last = ended[-1]
    assert isinstance(last, Settlement)
    assert last.attempts(0) == 0, "an outage makes no dead letters"


def test_a_single_destination_has_the_health_and_the_breaker_of_its_lane() -> None:
    lane = LaneOf("people")
    assert lane.lane.destinations == {}
    for _ in range(20):
        lane.send("people", OK)
    for _ in range(5):
        lane.send("people", BUSY)
    assert lane.lane.breaker.phase == "open"
    seen = lane.seen()
    own = seen.destinations["people"]
    assert own.score == seen.score
    assert own.calls == seen.calls
    assert own.breaker == "closed"
    assert lane.lane.destinations == {}, "nothing is kept twice"


def test_a_configuration_adds_and_removes_destinations() -> None:
    lane = LaneOf("people", "firms")
    lane.send("people", BUSY)
    tables = [lane.tables["people"], Destination("jobs", "acme", ("j",))]
    policy = lane.lane.in_force(ACME)
    after = reconfigured(policy, lane.lane, tables, lane.now_ms)
    assert after.destinations.keys() == {"people", "jobs"}
    assert after.destinations["people"] == lane.lane.destinations["people"]
    assert reconfigured(policy, after, tables[:1], lane.now_ms).destinations == {}


def test_a_failure_of_the_lane_and_a_call_without_a_permit_leave_a_destinations_breaker() -> None:
    policy = ACME.breaker
    closed = DestinationHealth()
    _, permit = destination_health.permit(policy, closed, NOW_MS, "auto")
    granted = of_type(Permit, permit)

    def after(given: Permit | None, failure: str, *, alone: bool) -> DestinationHealth:
        return recorded(
            policy,
            closed,
            given,
            NOW_MS,
            0.5,
            "auto",
            failure=failure,
            slow=False,
            alone=alone,
        )

    assert after(granted, "http_503", alone=True).breaker != closed.breaker
    assert after(granted, "http_503", alone=False).breaker == closed.breaker
    assert after(None, "", alone=False).breaker == closed.breaker
    assert after(None, "http_503", alone=True).breaker == closed.breaker


def test_an_operator_resets_and_forces_all_breakers() -> None:
    lane = LaneOf("people", "firms")
    for _ in range(5):
        lane.send("people", BUSY)
    by = Actor("jane", "it is mended", lane.now_ms)
    lane.lane = obey(ACME, lane.lane, Reset(), by).lane
    assert isinstance(lane.send("people", OK), Settlement)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["ok", "ok", "slow", "busy", "unsure", "limited"]),
        st.sampled_from([1, 100, 3_000, 40_000]),
    ),
    max_size=60,
)
OUTCOMES: Final[dict[str, Outcome]] = {
    "ok": OK,
    "slow": Accepted(200, 20_000),
    "busy": BUSY,
    "unsure": Uncertain("request_timeout", 30_000),
    "limited": RateLimited(429, 50, "0"),
}


@given(STEPS)
def test_the_scores_are_those_of_their_own_calls_and_sum_to_the_lanes(
    steps: list[tuple[str, str, int]],
) -> None:
    lane = LaneOf(*NAMES)
    calls: list[tuple[str, str, int]] = []
    for name, word, after_ms in steps:
        if isinstance(lane.send(name, OUTCOMES[word], after_ms), Settlement) and word != "limited":
            calls.append((name, word, lane.now_ms))
    oldest = window.FIVE_MINUTES.slot(lane.now_ms) - window.FIVE_MINUTES.buckets + 1
    recent = [call for call in calls if window.FIVE_MINUTES.slot(call[2]) >= oldest]
    sums = Counter[str]()
    for name in NAMES:
        words = Counter(word for of, word, _ in recent if of == name)
        totals = window.totals(
            window.FIVE_MINUTES,
            lane.lane.destinations[name].calls,
            lane.now_ms,
        )
        assert totals.success == words["ok"] + words["slow"]
        assert totals.slow == words["slow"]
        assert totals.failure == words["busy"] + words["unsure"]
        sums.update(success=totals.success, failure=totals.failure, slow=totals.slow)
    whole = window.totals(window.FIVE_MINUTES, lane.lane.health, lane.now_ms)
    assert whole.success == sums["success"]
    assert whole.failure == sums["failure"]
    assert whole.slow == sums["slow"]
    assert lane.lane.destinations.keys() == set(NAMES)
    assert len(lane.lane.failing) <= 2
    assert all(len(own.calls.buckets) <= 10 for own in lane.lane.destinations.values())


@given(STEPS, st.sampled_from(NAMES))
def test_one_sick_destination_never_stops_another(
    steps: list[tuple[str, str, int]],
    sick: str,
) -> None:
    """Whatever it answers, and however rarely the others send."""
    lane = LaneOf(*NAMES)
    for name, word, after_ms in steps:
        outcome = OUTCOMES[word] if name == sick and word != "limited" else OK
        answer = lane.send(name, outcome, after_ms)
        assert name == sick or isinstance(answer, Settlement), answer
        assert lane.lane.breaker.phase == "closed"


@given(st.lists(st.sampled_from([100, 1_000, 9_000]), max_size=40), st.integers(2, 3))
def test_an_outage_is_no_longer_unnoticed_than_by_one_failure_more(
    waits: list[int],
    destinations: int,
) -> None:
    """As long as they fail by turns, the breaker of the lane opens in time."""
    lane = LaneOf(*NAMES[:destinations])
    failures = 0
    for number, after_ms in enumerate(waits):
        if lane.lane.breaker.phase != "closed":
            break
        lane.send(NAMES[number % destinations], BUSY, after_ms)
        failures += 1
    assert failures <= ACME.breaker.consecutive_failures + 1


def test_a_forced_breaker_is_that_of_all() -> None:
    lane = LaneOf("people", "firms", workspace=replace(ACME, breaker=BreakerPolicy(mode="shadow")))
    for _ in range(50):
        assert isinstance(lane.send("people", BUSY), Settlement), "in shadow nothing is held"
