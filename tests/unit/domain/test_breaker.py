"""The breaker, against a plain model; shares as an operator writes them."""

from functools import partial

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_app.domain.limits import breaker, suspension
from stream_app.domain.limits.breaker import (
    HEALTHY_S,
    JITTER,
    OPEN_SHARE,
    SUCCESSES_TO_CLOSE,
    Breaker,
    BreakerPolicy,
    Mode,
    Permit,
)
from stream_app.domain.limits.suspension import FloodGuard, FloodGuardPolicy
from stream_app.domain.limits.window import WindowTotals
from stream_app.domain.model.ranges import Wait, exact

POLICY = BreakerPolicy(
    min_calls=10,
    consecutive_failures=3,
    open_s=5,
    open_cap_s=40,
    probe_lease_s=30,
)
NOW_MS = 1_795_500_000_000
QUIET = partial(WindowTotals, success=1)


def _fail(state: Breaker, now_ms: int = NOW_MS, rand: float = 0.0, times: int = 3) -> Breaker:
    for _ in range(times):
        state = breaker.on_result(
            POLICY,
            state,
            Permit(state.epoch),
            "failure",
            QUIET,
            now_ms,
            rand,
        )
    return state


def _probe(state: Breaker, now_ms: int) -> tuple[Breaker, Permit]:
    state, answer = breaker.permit(POLICY, state, now_ms)
    assert isinstance(answer, Permit)
    assert answer.lease is not None
    return state, answer


def _closed_again(state: Breaker, now_ms: int) -> Breaker:
    for _ in range(SUCCESSES_TO_CLOSE):
        state, probe = _probe(state, now_ms)
        state = breaker.on_result(POLICY, state, probe, "ok", QUIET, now_ms, 0.0)
    assert state.phase == "closed"
    return state


class BreakerMachine(RuleBasedStateMachine):
    """The model knows each call's permit, how often it opened, and which leases may be alive."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Breaker()
        self.now_ms = NOW_MS
        self.calls: list[Permit] = []
        self.leases: dict[int, int] = {}
        self.opened = 0
        self.outage_ms: int | None = None
        self.closed_ms = 0
        self.failures_in_a_row = 0
        self.probe_successes = 0
        self.mode: Mode = "auto"
        self.shadowed = False

    @rule(mode=st.sampled_from(["auto", "auto", "shadow", "open", "closed"]))
    def an_operator_sets_the_mode(self, mode: Mode) -> None:
        before = self.state
        self.mode = mode
        if mode in ("open", "closed"):
            self.state = breaker.forced(before, "open" if mode == "open" else "closed", self.now_ms)
            assert self.state.phase == mode
            self._phase_changes(before)
            self.outage_ms = self.now_ms
            self.closed_ms = self.now_ms
            self.failures_in_a_row = 0
            self.probe_successes = 0

    def _phase_changes(self, before: Breaker) -> None:
        if self.state.epoch != before.epoch:
            self.opened += 1
            self.leases.clear()
        if self.state.phase != before.phase:
            self.failures_in_a_row = 0
            self.probe_successes = 0
            if self.state.phase == "closed":
                self.closed_ms = self.now_ms
            elif self.state.phase == "open" and self.mode in ("auto", "shadow"):
                self._opens(before)

    def _opens(self, before: Breaker) -> None:
        long_closed = before.phase == "closed" and self.now_ms - self.closed_ms >= HEALTHY_S * 1000
        if self.outage_ms is None or long_closed:
            self.outage_ms = self.now_ms
        share_ms = OPEN_SHARE * (self.now_ms - self.outage_ms)
        longest_ms = min(POLICY.open_cap_s * 1000, max(POLICY.open_s * 1000, share_ms))
        if self.state.host_down:
            longest_ms = min(POLICY.open_cap_s * 1000, 2 * longest_ms)
        assert (1 - JITTER) * longest_ms - 1 <= self.state.until_ms - self.now_ms <= longest_ms

    @precondition(lambda self: self.state.phase == "closed" and self.mode in ("auto", "shadow"))
    @rule()
    def outage(self) -> None:
        """Straight to the interesting part: half-open, without what the closed phase left."""
        before = self.state
        self.state = _fail(
            before,
            self.now_ms,
            times=POLICY.consecutive_failures - before.consecutive,
        )
        assert self.state.phase == "open"
        self._phase_changes(before)
        self.now_ms = self.state.until_ms

    @rule(answers=st.booleans())
    def host_is_checked(self, answers: bool) -> None:
        before = self.state
        self.state = breaker.host_checked(POLICY, before, answers, self.now_ms)
        assert self.state.phase == before.phase, "it proves nothing"
        assert self.state.epoch == before.epoch, "it proves nothing"
        if self.state is not before:
            assert before.phase == "open"
            assert self.state.until_ms <= self.now_ms + POLICY.open_cap_s * 1000

    @rule(step_ms=st.one_of(st.integers(0, 60_000), st.just(30_000)))
    def time_passes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule(step_ms=st.sampled_from([-1, -7_000, -86_400_000, -(10**10), 10**10]))
    def clock_steps(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule()
    def ask(self) -> None:
        before = self.state
        self.state, answer = breaker.permit(POLICY, before, self.now_ms, self.mode)
        if self.mode in ("open", "closed"):
            assert self.state is before, "what is forced changes nothing"
            assert isinstance(answer, Wait) == (self.mode == "open")
            if isinstance(answer, Permit):
                self.calls.append(answer)
            return
        if before.phase == "half_open":
            latest_ms = self.now_ms + int(POLICY.probe_lease_s * 1000)
            ends = {lease: min(end, latest_ms) for lease, end in self.leases.items()}
            self.leases = {lease: end for lease, end in ends.items() if end > self.now_ms}
        if isinstance(answer, Wait):
            assert before.phase != "closed"
            assert self.mode == "auto", "shadow holds nothing"
            longest_s = POLICY.open_cap_s if self.state.phase == "open" else POLICY.probe_lease_s
            assert self.now_ms < answer.until_ms <= self.now_ms + longest_s * 1000
            again, later = breaker.permit(POLICY, self.state, answer.until_ms)
            assert isinstance(later, Permit), "after its wait a breaker must not be jammed"
            assert again.phase == "half_open"
            return
        self._phase_changes(before)
        self.calls.append(answer)
        if before.phase == "closed":
            assert answer.lease is None
            return
        if self.mode == "shadow" and answer.lease is None:
            self.shadowed = True
            return
        assert answer.lease is not None
        assert not self.leases, "one at a time"
        self.leases[answer.lease] = self.now_ms + int(POLICY.probe_lease_s * 1000)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), verdict=st.sampled_from(["ok", "failure", "slow"]), rand=st.floats(0, 1))
    def finish(self, data: st.DataObject, verdict: breaker.CallVerdict, rand: float) -> None:
        self._finish(self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))), verdict, rand)

    @rule(verdict=st.sampled_from(["ok", "ok", "ok", "slow", "failure"]))
    def call(self, verdict: breaker.CallVerdict) -> None:
        self.ask()
        if self.calls:
            self._finish(self.calls.pop(), verdict, 0.5)

    def _finish(self, permit: Permit, verdict: breaker.CallVerdict, rand: float) -> None:
        before = self.state
        late = permit.epoch != self.opened
        assert breaker.is_late(before, permit) == late
        self.state = breaker.on_result(
            POLICY,
            before,
            permit,
            verdict,
            QUIET,
            self.now_ms,
            rand,
            self.mode,
        )
        if late or self.mode in ("open", "closed"):
            assert self.state is before
            return
        if before.phase == "open":
            assert self.mode == "shadow" or self.shadowed, (
                "every call from before the opening is late"
            )
            assert self.state is before
            return
        if before.phase == "closed":
            self.failures_in_a_row = self.failures_in_a_row + 1 if verdict == "failure" else 0
            tripped = self.failures_in_a_row == POLICY.consecutive_failures
            assert self.state.phase == ("open" if tripped else "closed")
        elif verdict == "failure":
            assert self.state.phase == "open"
        else:
            held = self.leases.pop(permit.lease, None) if permit.lease is not None else None
            if verdict == "slow" or held is None:
                assert self.state.successes == before.successes
            if verdict == "ok" and before.lease is not None and before.lease.id == permit.lease:
                self.probe_successes += 1
            enough = self.probe_successes == SUCCESSES_TO_CLOSE
            assert self.state.phase == ("closed" if enough else "half_open")
        self._phase_changes(before)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def finish_without_verdict(self, data: st.DataObject) -> None:
        permit = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        before = self.state
        self.state = breaker.release_probe(before, permit)
        if permit.lease is not None and permit.epoch == self.opened:
            self.leases.pop(permit.lease, None)
        assert self.state.phase == before.phase
        assert self.state.epoch == before.epoch
        assert self.state.lease is None or self.state.lease.id != permit.lease

    @precondition(lambda self: len(self.calls) > 2)
    @rule()
    def crash(self) -> None:
        """Calls under way are lost; the row is read again, and their leases with it."""
        self.calls.clear()
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=Breaker)

    @invariant()
    def counts_its_openings(self) -> None:
        assert self.state.epoch == self.opened


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(stateful_step_count=40)


@pytest.mark.parametrize(
    ("totals", "verdict", "cause"),
    [
        (WindowTotals(success=5, failure=5), "failure", "failure_rate"),
        (WindowTotals(success=6, failure=4), "failure", ""),
        (WindowTotals(success=4, failure=5), "failure", ""),
        (WindowTotals(success=10, slow=8), "slow", "slow_rate"),
        (WindowTotals(success=10, slow=7), "slow", ""),
        (WindowTotals(success=9, slow=9), "slow", ""),
    ],
)
def test_trips_on_rates_from_the_minimum_of_calls_on(
    totals: WindowTotals,
    verdict: breaker.CallVerdict,
    cause: breaker.OpenCause,
) -> None:
    state = breaker.on_result(POLICY, Breaker(), Permit(0), verdict, lambda: totals, NOW_MS, 0.0)
    assert state.phase == ("open" if cause else "closed")
    assert state.cause == cause


def test_a_host_that_does_not_answer_makes_probes_rarer_and_an_answer_makes_one_due() -> None:
    state = _fail(Breaker())
    assert breaker.host_checked(POLICY, state, True, NOW_MS + 100) is state, (
        "only the webhook is ill"
    )
    forced = breaker.forced(state, "open", NOW_MS)
    assert breaker.host_checked(POLICY, forced, False, NOW_MS + 100) is forced
    state = breaker.host_checked(POLICY, state, False, NOW_MS + 1_000)
    assert state.until_ms == NOW_MS + 10_000
    assert breaker.host_checked(POLICY, state, False, NOW_MS + 2_000) is state
    again, probe = _probe(state, NOW_MS + 10_000)
    again = breaker.on_result(POLICY, again, probe, "failure", QUIET, NOW_MS + 10_000, 0.0)
    assert again.until_ms == NOW_MS + 20_000, "it is still down"
    back = breaker.host_checked(POLICY, again, True, NOW_MS + 12_000)
    assert back.until_ms == NOW_MS + 12_000
    back, probe = _probe(back, NOW_MS + 12_000)
    back = breaker.on_result(POLICY, back, probe, "failure", QUIET, NOW_MS + 12_000, 0.0)
    assert back.until_ms == NOW_MS + 12_000 + 5_000, "the host says nothing about the webhook"


def test_an_outage_goes_on_until_it_was_closed_for_long_enough() -> None:
    state = _fail(_closed_again(_fail(Breaker()), NOW_MS + 100_000), NOW_MS + 399_999)
    assert state.until_ms == NOW_MS + 399_999 + 19_999
    healthy_ms = state.until_ms + 300_000
    before_ms = healthy_ms - 1
    closed = _closed_again(state, state.until_ms)
    assert _fail(closed, before_ms).until_ms == before_ms + 35_999
    assert _fail(closed, healthy_ms).until_ms == healthy_ms + 5_000


def test_a_call_is_slow_above_the_limit() -> None:
    verdicts = [
        breaker.verdict(POLICY, ok, ms) for ok, ms in ((True, 10_000), (True, 10_001), (False, 1))
    ]
    assert verdicts == ["ok", "slow", "failure"]


@given(thousandths=st.integers(0, 1_000), whole=st.integers(0, 10**12))
@example(thousandths=900, whole=10)
def test_a_share_of_a_whole_is_exact(thousandths: int, whole: int) -> None:
    share = exact(thousandths / 1_000)
    assert whole * share * 1_000 == whole * thousandths
    assert whole * (1 - share) * 1_000 == whole * (1_000 - thousandths)


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_share_trips_the_breaker_where_it_is_reached_and_the_flood_guard_above_it(
    percent: int,
) -> None:
    share = percent / 100
    trips = BreakerPolicy(failure_rate=share, consecutive_failures=1_000)
    guard = FloodGuardPolicy(share=share)
    for bad in range(percent - 1, min(100, percent + 1) + 1):
        totals = partial(WindowTotals, 100 - bad, failure=bad)
        state = breaker.on_result(trips, Breaker(), Permit(0), "failure", totals, 1, 0.0)
        assert (state.phase == "open") is (bad >= percent)
        flooded = suspension.flooded(guard, FloodGuard(), WindowTotals(100 - bad, dead_letters=bad))
        assert bool(flooded) is (bad > percent)


@pytest.mark.parametrize(("after_ms", "calls"), [(60_000, 4), (60_001, 1)])
def test_a_failure_within_a_minute_of_the_last_one_is_of_the_same_outage(
    after_ms: int,
    calls: int,
) -> None:
    outage = breaker.Outage("http_503", 1_000, 2_000, 3)
    assert breaker.record_failure(outage, "reset", "", 2_000 + after_ms).calls == calls
