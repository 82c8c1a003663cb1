"""The rate: a token bucket per workspace, which follows Clay's answers.

It shrinks on 429, recovers afterwards, and honours Retry-After.
"""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Annotated, Final

import msgspec

from stream_app.domain.model.numbers import Real, TimeMs, Whole
from stream_app.domain.model.ranges import Policy, Range, Wait, no_later

_SECONDS = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_MAX_HEADER_CHARACTERS = 64
_STEP_BACK_MS = 5_000  # a smaller step of the clock is waited out, a larger one is followed
_BACKOFF_FORGOTTEN_MS = 60_000
_SPARED_AFTER_MS = 600_000
_MAX_RUN = 16
_NEAR_LIMIT_SHARE = 0.9  # of the rate that was too much, if Clay's limit is not known
_HOLD_S = 110.0  # near the limit the rate grows slowly for this time, then ever faster
_LINEAR_STEP = 0.02
_GROWTH = 0.06
# The lowest rate, however often Clay says 429; that of the configuration where it is lower.
FLOOR_PER_S: Final = 0.5
_DECREASE = 0.75  # the factor of a 429 that measures nothing
_RECOVER_PER_S = 0.05  # what each second without a 429 adds while the rate is below Clay's limit
_MIN_RETRY_AFTER_MS = 1_000
_OLD_WEIGHT = 0.5  # the weight of what Clay took before the last 429, against what it took since


class RatePolicy(Policy, frozen=True):
    """The token bucket, and how it reacts to a 429.

    Two 429s measure Clay's limit: Clay's bucket was empty both times, so what Clay took between
    them is what flowed in. The rate continues with that. A lane that had nothing to send in between
    has not measured the limit, so a 429 multiplies its rate by 0.75. There is one exception: if the
    rate was at its best and the last 429 is ten minutes ago, a burst was too large, and the wait is
    enough.

    Without a 429 the rate recovers by 0.05 a second in each second. Near the limit it recovers 50
    times more slowly for about two minutes, and then faster and faster. Without a usable
    Retry-After the wait is 1 s. The wait doubles up to `backoff_cap_s` for 429s within a minute,
    unless Clay took more than a burst in between.

    Attributes:
        rate_per_s: The best rate. By default 4 for a workspace with routines, where each poll for
            a result counts, too.
        burst: The size of the bucket, which is how many leads may go at once. By default 5 for a
            workspace with routines.
        retry_after_max_s: The longest Retry-After that is obeyed.
        backoff_cap_s: The longest wait after a 429 without a Retry-After.
    """

    rate_per_s: Annotated[float, Range(0.01, 1_000)] = 10.0
    burst: Annotated[int, Range(1, 10_000)] = 20
    retry_after_max_s: Annotated[float, Range(1, 86_400)] = 3_600.0
    backoff_cap_s: Annotated[float, Range(1, 3_600)] = 60.0


class Rate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of the bucket.

    Attributes:
        tokens: As of `at_ms`.
        at_ms: Epoch ms.
        cut_per_s: By how much the last 429 reduced the policy's rate.
        blocked_until_ms: Nothing is sent before, epoch ms.
        run: 429s without 60 s of quiet.
        limit_per_s: Up to this rate it recovers steadily; 0: there was no cut.
        quiet_ms: Time since the last 429, without blocks.
        limited_ms: The last 429, epoch ms.
        sent: What Clay took since then.
        idle: True if the lane had nothing to send for a time since then.
        accepted: What Clay took between 429s, each interval counting half of the next one.
        accepted_ms: The time in which it flowed into Clay's bucket, in the same measure.
    """

    tokens: Real = 0.0
    at_ms: TimeMs = 0
    cut_per_s: Real = 0.0
    blocked_until_ms: TimeMs = 0
    run: Whole = 0
    limit_per_s: Real = 0.0
    quiet_ms: TimeMs = 0
    limited_ms: TimeMs = 0
    sent: Whole = 0
    idle: bool = False
    accepted: Real = 0.0
    accepted_ms: Real = 0.0


def empty_after_takeover(state: Rate, now_ms: int) -> Rate:
    """Return the bucket without tokens: the previous owner may have spent them just now.

    A block and a cut stay.
    """
    return msgspec.structs.replace(state, tokens=0.0, at_ms=now_ms, idle=True)


def take(policy: RatePolicy, state: Rate, now_ms: int) -> tuple[Rate, Wait | None]:
    """Take one token, or return when to ask again. Keep the returned state in any case."""
    state = _caught_up(policy, state, now_ms)
    if now_ms < state.blocked_until_ms:
        return state, Wait(state.blocked_until_ms)
    if state.tokens >= 1.0:
        return msgspec.structs.replace(state, tokens=state.tokens - 1.0, sent=state.sent + 1), None
    missing_ms = ceil((1.0 - state.tokens) * 1000 / current(policy, state))
    return state, Wait(max(now_ms, state.at_ms) + missing_ms)


def current(policy: RatePolicy, state: Rate) -> float:
    """Return the present rate in calls per second."""
    if not state.cut_per_s:
        return policy.rate_per_s
    left_per_s = max(min(FLOOR_PER_S, policy.rate_per_s), policy.rate_per_s - state.cut_per_s)
    limit_per_s = max(left_per_s, min(policy.rate_per_s, state.limit_per_s))
    quiet_s = state.quiet_ms / 1000
    steady_s = (limit_per_s - left_per_s) / _RECOVER_PER_S
    if quiet_s <= steady_s:
        return left_per_s + _RECOVER_PER_S * quiet_s
    held_s = quiet_s - steady_s
    more_s = _LINEAR_STEP * held_s + _GROWTH * max(0.0, held_s - _HOLD_S) ** 2
    return min(policy.rate_per_s, limit_per_s + _RECOVER_PER_S * more_s)


def interval_ms(policy: RatePolicy, state: Rate) -> int:
    """Return the time from one token to the next at the present rate, in ms."""
    return ceil(1000 / current(policy, state))


def on_429(
    policy: RatePolicy,
    state: Rate,
    now_ms: int,
    retry_after_ms: int | None,
    rand: float,
    latency_ms: int = 0,
) -> Rate:
    """Block the workspace, empty the bucket and set the rate.

    429s of requests sent before a block are one event.

    `retry_after_ms` is from `parse_retry_after`; None and 0: not now, for an unknown time. `rand`
    is from 0 to 1. `latency_ms`: how long ago the request was sent.
    """
    state = _caught_up(policy, state, now_ms)
    known = now_ms < state.blocked_until_ms or now_ms - latency_ms < state.limited_ms <= now_ms
    quiet = now_ms - state.blocked_until_ms > _BACKOFF_FORGOTTEN_MS or state.sent > policy.burst
    run = state.run if known else 0 if quiet else min(state.run + 1, _MAX_RUN)
    if retry_after_ms:
        wait_ms = min(max(retry_after_ms, _MIN_RETRY_AFTER_MS), policy.retry_after_max_s * 1000)
    else:
        wait_ms = max(1_000, min(policy.backoff_cap_s, 2.0**run) * (0.5 + 0.5 * rand) * 1000)
    until_ms = max(state.blocked_until_ms, now_ms + ceil(wait_ms))
    if known:
        return msgspec.structs.replace(
            state,
            tokens=0.0,
            blocked_until_ms=until_ms,
            run=run,
            sent=state.sent - 1,
        )
    rate_per_s = current(policy, state)
    spared = not state.cut_per_s and now_ms - state.blocked_until_ms > _SPARED_AFTER_MS
    kept_per_s = rate_per_s * (1.0 if spared else _DECREASE)
    limit_per_s = _NEAR_LIMIT_SHARE * rate_per_s
    accepted = state.accepted
    accepted_ms = state.accepted_ms
    inflow_per_s = _inflow(policy, state, now_ms)
    if inflow_per_s:
        sent = state.sent - 1
        accepted = _OLD_WEIGHT * accepted + sent
        accepted_ms = _OLD_WEIGHT * accepted_ms + 1000 * sent / inflow_per_s
        kept_per_s = max(kept_per_s, inflow_per_s)
        limit_per_s = 1000 * accepted / accepted_ms
    kept_per_s = max(min(FLOOR_PER_S, policy.rate_per_s), min(rate_per_s, kept_per_s))
    return Rate(
        at_ms=state.at_ms,
        cut_per_s=policy.rate_per_s - kept_per_s,
        blocked_until_ms=until_ms,
        run=run,
        limit_per_s=limit_per_s,
        limited_ms=now_ms,
        accepted=accepted,
        accepted_ms=accepted_ms,
    )


def _inflow(policy: RatePolicy, state: Rate, now_ms: int) -> float:
    """Return what flowed into Clay's bucket per second since the last 429; 0 if that is not known.

    The bucket was empty at that 429, as it is now. A block may have filled it meanwhile: then what
    was sent afterwards exceeds the inflow by the burst.
    """
    sent = state.sent - 1  # Clay did not take the last one
    if (
        state.idle
        or not state.limited_ms
        or sent <= 0
        or not state.quiet_ms
        or now_ms <= state.limited_ms
    ):
        return 0.0
    return 1000 * max(sent / (now_ms - state.limited_ms), (sent - policy.burst) / state.quiet_ms)


def parse_retry_after(value: str | None, now_ms: int) -> int | None:
    """Return milliseconds from now; None if the header is absent or not understood, 0 for the past.

    Understands seconds, with decimals, and HTTP dates (RFC 9110, 10.2.3). `on_429` bounds absurd
    values.
    """
    text = (value or "").strip()
    if not text or len(text) > _MAX_HEADER_CHARACTERS:
        return None
    if _SECONDS.fullmatch(text):
        return ceil(float(text) * 1000)
    try:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0, int(date.timestamp() * 1000) - now_ms)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _caught_up(policy: RatePolicy, state: Rate, now_ms: int) -> Rate:
    """Return the bucket filled and the rate recovered for the quiet time since `at_ms`."""
    blocked_until_ms = no_later(
        state.blocked_until_ms,
        now_ms,
        int(max(policy.retry_after_max_s, policy.backoff_cap_s) * 1000),
    )
    at_ms = state.at_ms if now_ms <= state.at_ms <= now_ms + _STEP_BACK_MS else now_ms
    quiet_ms = max(0, at_ms - max(state.at_ms, blocked_until_ms))
    same = at_ms == state.at_ms and blocked_until_ms == state.blocked_until_ms
    if same and not quiet_ms and state.tokens <= policy.burst:  # else the burst was made smaller
        return state
    tokens = state.tokens + quiet_ms * current(policy, state) / 1000
    more = msgspec.structs.replace(
        state,
        tokens=min(float(policy.burst), tokens),
        at_ms=at_ms,
        blocked_until_ms=blocked_until_ms,
        quiet_ms=state.quiet_ms + quiet_ms,
        idle=state.idle or tokens >= policy.burst,
    )
    if not more.cut_per_s or current(policy, more) < policy.rate_per_s:
        return more
    return msgspec.structs.replace(
        more,
        cut_per_s=0.0,
        limit_per_s=0.0,
        accepted=0.0,
        accepted_ms=0.0,
    )
