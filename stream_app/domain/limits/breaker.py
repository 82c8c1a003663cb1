"""The circuit breaker: stops calls while Clay fails, then tests recovery with single probes.

Every call carries the Permit that admitted it. The epoch of the breaker grows each time it opens.
So a result of a call from before is recognised as late (`is_late`) and has no effect. Poison and
429 say nothing about Clay's health: the caller reports no result for them, only `release_probe` if
the call was a probe.

Each probe is a lead that may fail. So while the breaker is open, the caller asks Clay's host with a
request that submits nothing (`host_checked`). A host that does not answer makes probes rarer. Once
it answers again, a probe is due at once, because this does not prove that the webhook answers too.

The mode is independent of the state. `auto` obeys the state. `shadow` runs it and admits every
call. `open` and `closed` are forced by an operator and leave the state unchanged.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from stream_app.domain.limits.window import WindowTotals
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.ranges import Policy, Range, Wait, exact, no_later
from stream_app.domain.model.text import count

Phase = Literal["closed", "open", "half_open"]
CallVerdict = Literal["ok", "failure", "slow"]
OpenCause = Literal[
    "",
    "consecutive_failures",
    "failure_rate",
    "slow_rate",
    "probe_failed",
    "forced",
]
OPENED_BECAUSE: Final[Mapping[OpenCause, str]] = {
    "": "its cause is not known",
    "consecutive_failures": "too many calls in a row have failed",
    "failure_rate": "too many of the last calls have failed",
    "slow_rate": "too many of the last calls were slow",
    "probe_failed": "its last probe has failed",
    "forced": "an operator tripped it",
}
"""Why a breaker is not closed, in words."""
Mode = Literal["auto", "open", "closed", "shadow"]

# Failures further apart than this belong to different outages, unless they hold it open.
_ONE_OUTAGE_MS = 60_000
_ASK_AGAIN_MS = 60_000  # while it is forced open: only an operator ends that
OF_FAILURES: Final = frozenset[OpenCause]({"consecutive_failures", "failure_rate", "probe_failed"})
"""Causes by which failed calls opened the breaker; otherwise, those calls are of an earlier outage.
"""
SLOW_RATE: Final = 0.8
"""The share of slow calls in the window that opens the breaker: most answers are slow before a
pause helps.
"""
OPEN_SHARE: Final = 0.05
"""The open time as a share of the outage so far: probes cost a twentieth of the time that Clay is
away.
"""
JITTER: Final = 0.1
"""The open time is shortened by up to this share, so that workspaces do not probe in the same
moment.
"""
HEALTHY_S: Final = 300.0  # an outage is over when the breaker was closed for this time
SUCCESSES_TO_CLOSE: Final = 3  # successful probes that close it; there is one probe at a time


class BreakerPolicy(Policy, frozen=True):
    """When the breaker opens, for how long, and how it probes.

    The open time is a twentieth of the outage so far, between `open_s` and `open_cap_s`. It is
    twice as long while Clay's host does not answer, up to `open_cap_s`. Three probes that Clay
    takes, one after the other, close it.

    Attributes:
        mode: With `shadow` the breaker decides and reports, but holds no lead.
        failure_rate: The share of failed calls in the last minute that opens the breaker, 0 to 1.
        slow_call_s: A successful answer that took longer counts as slow. The breaker opens when
            four of five calls are slow.
        min_calls: The two shares count only if the last minute has at least this many calls.
        consecutive_failures: The number of failures in a row that opens the breaker.
        open_s: The shortest time for which the breaker stays open.
        open_cap_s: The longest time for which the breaker stays open.
        probe_lease_s: A probe without a result counts as lost after this time, which must be longer
            than the longest request.
    """

    ORDERED: ClassVar = (("open_s", "open_cap_s"),)

    mode: Literal["auto", "shadow"] = "auto"
    failure_rate: Annotated[float, Range(0.01, 1)] = 0.5
    slow_call_s: Annotated[float, Range(0.01, 3_600)] = 10.0
    min_calls: Annotated[int, Range(1, 1_000_000)] = 20
    consecutive_failures: Annotated[int, Range(1, 1_000_000)] = 5
    open_s: Annotated[float, Range(0.1, 86_400)] = 5.0
    open_cap_s: Annotated[float, Range(0.1, 86_400)] = 60.0
    probe_lease_s: Annotated[float, Range(1, 3_600)] = 120.0


class Permit(msgspec.Struct, frozen=True):
    """Permission for one call. `lease` is set for a probe."""

    epoch: int
    lease: int | None = None


class Lease(msgspec.Struct, frozen=True):
    """A probe in flight. After `expires_at_ms` it counts as lost, and another may start."""

    id: Whole
    expires_at_ms: TimeMs


class Breaker(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of the breaker.

    Attributes:
        phase: Closed, open or half open.
        epoch: Grows each time the breaker opens.
        since_ms: When the phase began, epoch ms.
        until_ms: When an open breaker admits probes, epoch ms.
        cause: Why it opened.
        outage_ms: When the outage began, epoch ms; 0 before the first one.
        consecutive: Failures in a row.
        successes: Successful probes.
        lease: The probe in flight.
        next_lease: The number of the next probe.
        host_down: True if Clay's host did not answer the last check of this outage.
    """

    phase: Phase = "closed"
    epoch: Whole = 0
    since_ms: TimeMs = 0
    until_ms: TimeMs = 0
    cause: OpenCause = ""
    outage_ms: TimeMs = 0
    consecutive: Whole = 0
    successes: Whole = 0
    lease: Lease | None = None
    next_lease: Whole = 0
    host_down: bool = False


class Outage(msgspec.Struct, frozen=True):
    """The calls that have failed in an outage.

    `reason` is that of the last one, `since_ms` and `last_ms` are the times of the first and of the
    last one, and `calls` is how many they are.
    """

    reason: str
    since_ms: TimeMs
    last_ms: TimeMs
    calls: Whole


def verdict(policy: BreakerPolicy, ok: bool, latency_ms: int) -> CallVerdict:
    """Return what a finished call says about Clay's health."""
    if not ok:
        return "failure"
    return "slow" if latency_ms > policy.slow_call_s * 1000 else "ok"


def permit(
    policy: BreakerPolicy,
    state: Breaker,
    now_ms: int,
    mode: Mode = "auto",
) -> tuple[Breaker, Permit | Wait]:
    """Decide whether a call may start now.

    Keep the returned state in any case: it holds the lease of a probe.
    """
    if mode == "open":
        return state, Wait(now_ms + _ASK_AGAIN_MS)
    if mode == "closed" or state.phase == "closed":
        return state, Permit(state.epoch)
    state, answer = _permit(policy, state, now_ms)
    if mode == "shadow" and isinstance(answer, Wait):
        return state, Permit(state.epoch)
    return state, answer


def due_ms(state: Breaker) -> int:
    """Return when the next probe may go if the breaker is not closed, epoch ms."""
    if state.phase == "open":
        return state.until_ms
    return state.since_ms if state.lease is None else state.lease.expires_at_ms


def is_late(state: Breaker, permit: Permit) -> bool:
    """Return True for a call from before the breaker last opened. Keep it out of the window too."""
    return permit.epoch != state.epoch


def on_result(
    policy: BreakerPolicy,
    state: Breaker,
    permit: Permit,
    verdict: CallVerdict,
    totals: Callable[[], WindowTotals],
    now_ms: int,
    rand: float,
    mode: Mode = "auto",
) -> Breaker:
    """Return the breaker after a call has ended. `rand` is from 0 to 1.

    `totals` counts the calls of the window, this one included; only a call that was not ok needs
    it. If this closes the breaker, the caller starts a new window, so that failures of the outage
    cannot open it again.
    """
    if mode in ("open", "closed") or is_late(state, permit) or state.phase == "open":
        return state
    if state.phase == "half_open":
        return _after_probe(policy, state, permit, verdict, now_ms, rand)
    if verdict == "ok":
        return state if not state.consecutive else msgspec.structs.replace(state, consecutive=0)
    consecutive = state.consecutive + 1 if verdict == "failure" else 0
    cause = _trips(policy, consecutive, totals())
    if cause:
        return _opened(policy, state, cause, now_ms, rand)
    return msgspec.structs.replace(state, consecutive=consecutive)


def release_probe(state: Breaker, permit: Permit) -> Breaker:
    """Free the lease of a probe that ended without a verdict (poison, 429, not sent).

    Has no effect for other calls.
    """
    if state.lease is None or state.lease.id != permit.lease:
        return state
    return msgspec.structs.replace(state, lease=None)


def host_checked(policy: BreakerPolicy, state: Breaker, answers: bool, now_ms: int) -> Breaker:
    """Return the breaker after a check whether Clay's host answers.

    It changes only when an open breaker probes.
    """
    if state.phase != "open" or state.cause == "forced" or answers != state.host_down:
        return state
    until_ms = now_ms if answers else state.until_ms + (state.until_ms - state.since_ms)
    until_ms = no_later(until_ms, now_ms, _longest_ms(policy))
    return msgspec.structs.replace(state, host_down=not answers, until_ms=until_ms)


def forced(state: Breaker, mode: Literal["open", "closed"], now_ms: int) -> Breaker:
    """Return the breaker after an operator forced it. Calls in flight become late."""
    cause: OpenCause = "forced" if mode == "open" else ""
    return Breaker(
        mode,
        state.epoch + 1,
        now_ms,
        now_ms,
        cause,
        now_ms,
        next_lease=state.next_lease,
    )


def record_failure(state: Outage | None, reason: str, cause: OpenCause, now_ms: int) -> Outage:
    """Return the outage after one more failed call.

    Args:
        state: The outage so far, None if there is none.
        reason: Why the call failed.
        cause: What had opened the circuit breaker; '' if it was closed.
        now_ms: The present time, epoch ms.
    """
    if state is None or (cause not in OF_FAILURES and now_ms - state.last_ms > _ONE_OUTAGE_MS):
        return Outage(reason, now_ms, now_ms, 1)
    return Outage(reason, state.since_ms, now_ms, state.calls + 1)


def outage_text(outage: Outage) -> str:
    """Return what Clay answers, and how many calls have failed."""
    kind, _, status = outage.reason.partition("_")
    says = f"Clay answers {status}" if kind == "http" else f"Clay does not answer ({outage.reason})"
    return f"{says}; {count(outage.calls, 'call has', 'calls have')} failed"


def _permit(policy: BreakerPolicy, state: Breaker, now_ms: int) -> tuple[Breaker, Permit | Wait]:
    if state.phase == "open":
        until_ms = no_later(state.until_ms, now_ms, _longest_ms(policy))
        if now_ms < until_ms:
            kept = (
                state
                if until_ms == state.until_ms
                else msgspec.structs.replace(state, until_ms=until_ms)
            )
            return kept, Wait(until_ms)
        state = msgspec.structs.replace(state, phase="half_open", since_ms=now_ms, until_ms=0)
    longest_ms = int(policy.probe_lease_s * 1000)
    if state.lease is not None and state.lease.expires_at_ms > now_ms:
        lease = Lease(state.lease.id, no_later(state.lease.expires_at_ms, now_ms, longest_ms))
        return msgspec.structs.replace(state, lease=lease), Wait(lease.expires_at_ms)
    lease = Lease(state.next_lease, now_ms + longest_ms)
    state = msgspec.structs.replace(state, lease=lease, next_lease=state.next_lease + 1)
    return state, Permit(state.epoch, lease.id)


def _after_probe(
    policy: BreakerPolicy,
    state: Breaker,
    permit: Permit,
    verdict: CallVerdict,
    now_ms: int,
    rand: float,
) -> Breaker:
    if verdict == "failure":
        return _opened(policy, state, "probe_failed", now_ms, rand)
    freed = release_probe(state, permit)
    # A slow probe decides nothing, and neither does a lost one: the lane goes on at the pace of its
    # probes.
    if verdict == "slow" or freed is state:
        return freed
    successes = state.successes + 1
    if successes < SUCCESSES_TO_CLOSE:
        return msgspec.structs.replace(freed, successes=successes)
    return Breaker(
        "closed",
        state.epoch,
        now_ms,
        outage_ms=state.outage_ms,
        next_lease=state.next_lease,
    )


def _trips(policy: BreakerPolicy, consecutive: int, totals: WindowTotals) -> OpenCause:
    if consecutive >= policy.consecutive_failures:
        return "consecutive_failures"
    calls = totals.calls
    if calls < policy.min_calls:
        return ""
    if totals.failure >= exact(policy.failure_rate) * calls:
        return "failure_rate"
    return "slow_rate" if totals.slow >= exact(SLOW_RATE) * calls else ""


def _opened(
    policy: BreakerPolicy,
    state: Breaker,
    cause: OpenCause,
    now_ms: int,
    rand: float,
) -> Breaker:
    healthy = state.phase == "closed" and now_ms - state.since_ms >= HEALTHY_S * 1000
    outage_ms = now_ms if healthy or not state.outage_ms else state.outage_ms
    share_s = OPEN_SHARE * (now_ms - outage_ms) / 1000
    open_s = min(policy.open_cap_s, max(policy.open_s, share_s)) * (1 - JITTER * rand)
    host_down = state.host_down and state.phase == "half_open"
    until_ms = now_ms + min(_longest_ms(policy), int(open_s * 1000) * (2 if host_down else 1))
    lease = state.next_lease
    return Breaker(
        "open",
        state.epoch + 1,
        now_ms,
        until_ms,
        cause,
        outage_ms,
        next_lease=lease,
        host_down=host_down,
    )


def _longest_ms(policy: BreakerPolicy) -> int:
    return int(policy.open_cap_s * 1000)
