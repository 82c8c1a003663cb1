"""The rate: a token bucket per workspace that shrinks on 429, recovers in quiet, and honours Retry-After."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import ceil

import msgspec

from stream_app.domain.lane.bounds import Wait, no_later, out_of_order, out_of_range

_SECONDS = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_LONGEST_HEADER = 64
_STEP_BACK_MS = 5_000  # a smaller step of the clock is waited out, a larger one is followed
_BACKOFF_FORGOTTEN_MS = 60_000
_SPARED_AFTER_MS = 600_000
_MAX_RUN = 16
_NEAR = 0.9  # of the rate that was too much: Clay's own bucket has let some of it through
_FLAT = 0.2
_FLAT_S = 60.0
_EVER_MORE = 0.03


class RatePolicy(msgspec.Struct, frozen=True):
    """`rate_per_s` and `burst` at best. A 429 multiplies the rate by `decrease` (never below
    `floor_per_s`), but not where the rate was at its best and there was none for ten minutes: then a burst was
    too much, and the wait is enough. Each quiet second adds `recover_per_s`, a fifth of that once the rate is near
    the one that was too much, and ever more after a minute of that. Retry-After is kept between
    `retry_after_min_s` and `retry_after_max_s`; without a usable one the wait doubles from 1 s to `backoff_cap_s`.
    """

    rate_per_s: float = 10.0
    burst: int = 20
    floor_per_s: float = 0.5
    decrease: float = 0.75
    recover_per_s: float = 0.05
    retry_after_min_s: float = 1.0
    retry_after_max_s: float = 3_600.0
    backoff_cap_s: float = 60.0


class Rate(msgspec.Struct, frozen=True, omit_defaults=True):
    """`tokens` as of `at_ms`; `run`: 429s without a quiet 60 s.

    `cut_per_s`: what the last 429 left missing to the policy's rate; `too_much_per_s`: the rate that it
    came at; `quiet_ms`: since then, blocks not counted.
    """

    tokens: float = 0.0
    at_ms: int = 0
    cut_per_s: float = 0.0
    blocked_until_ms: int = 0
    run: int = 0
    too_much_per_s: float = 0.0
    quiet_ms: int = 0


def problems(policy: RatePolicy) -> list[str]:
    """What is wrong with the policy, one line a key."""
    return (
        out_of_range(
            policy,
            rate_per_s=(0.01, 1_000),
            burst=(1, 10_000),
            floor_per_s=(0.01, 1_000),
            decrease=(0.1, 0.99),
            recover_per_s=(0.001, 100),
            retry_after_min_s=(0.1, 3_600),
            retry_after_max_s=(1, 86_400),
            backoff_cap_s=(1, 3_600),
        )
        + out_of_order(policy, "floor_per_s", "rate_per_s")
        + out_of_order(policy, "retry_after_min_s", "retry_after_max_s")
    )


def empty_after_takeover(state: Rate, now_ms: int) -> Rate:
    """No tokens: the predecessor may have spent them a moment ago. A block and a cut stay."""
    return msgspec.structs.replace(state, tokens=0.0, at_ms=now_ms)


def take(policy: RatePolicy, state: Rate, now_ms: int) -> tuple[Rate, Wait | None]:
    """One token, or when to ask again. The state is to be kept whatever the answer."""
    state = _caught_up(policy, state, now_ms)
    if now_ms < state.blocked_until_ms:
        return state, Wait(state.blocked_until_ms)
    if state.tokens >= 1.0:
        consumed = Rate(
            state.tokens - 1.0,
            state.at_ms,
            state.cut_per_s,
            state.blocked_until_ms,
            state.run,
            state.too_much_per_s,
            state.quiet_ms,
        )
        return consumed, None
    missing_ms = ceil((1.0 - state.tokens) * 1000 / current(policy, state))
    return state, Wait(max(now_ms, state.at_ms) + missing_ms)


def current(policy: RatePolicy, state: Rate) -> float:
    """The present rate in calls per second."""
    left_per_s = max(policy.floor_per_s, policy.rate_per_s - state.cut_per_s)
    if not state.cut_per_s:
        return left_per_s
    knee_per_s = max(left_per_s, min(policy.rate_per_s, _NEAR * state.too_much_per_s))
    quiet_s, steep_s = state.quiet_ms / 1000, (knee_per_s - left_per_s) / policy.recover_per_s
    if quiet_s <= steep_s:
        return left_per_s + policy.recover_per_s * quiet_s
    flat_s = quiet_s - steep_s
    more_per_s = _FLAT * flat_s + _EVER_MORE * max(0.0, flat_s - _FLAT_S) ** 2
    return min(policy.rate_per_s, knee_per_s + policy.recover_per_s * more_per_s)


def on_429(policy: RatePolicy, state: Rate, now_ms: int, retry_after_ms: int | None, rand: float) -> Rate:
    """Blocks the workspace, empties the bucket and cuts the rate; 429s during a block are one event.

    `retry_after_ms` as parse_retry_after gave it: None and 0 mean "not now, and we do not know until when".
    """
    state = _caught_up(policy, state, now_ms)
    blocked = now_ms < state.blocked_until_ms
    quiet = now_ms - state.blocked_until_ms > _BACKOFF_FORGOTTEN_MS
    run = state.run if blocked else 0 if quiet else min(state.run + 1, _MAX_RUN)
    if retry_after_ms:
        wait_ms = min(max(retry_after_ms, policy.retry_after_min_s * 1000), policy.retry_after_max_s * 1000)
    else:
        wait_ms = max(1_000, min(policy.backoff_cap_s, 2.0**run) * (0.5 + 0.5 * rand) * 1000)
    rate_per_s = current(policy, state)
    spared = not state.cut_per_s and now_ms - state.blocked_until_ms > _SPARED_AFTER_MS
    kept_per_s = rate_per_s if blocked or spared else max(policy.floor_per_s, rate_per_s * policy.decrease)
    until_ms = max(state.blocked_until_ms, now_ms + ceil(wait_ms))
    too_much_per_s = state.too_much_per_s if blocked else rate_per_s
    return Rate(0.0, state.at_ms, policy.rate_per_s - kept_per_s, until_ms, run, too_much_per_s)


def parse_retry_after(value: str | None, now_ms: int) -> int | None:
    """Milliseconds from now; None when absent or not understood, 0 for the past.

    Understood are seconds, decimals too, and HTTP dates.
    RFC 9110, 10.2.3. What is absurd is bounded by the policy, in on_429.
    """
    text = (value or "").strip()
    if not text or len(text) > _LONGEST_HEADER:
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
    """The bucket filled, and the rate recovered, for the quiet time since `at_ms`."""
    blocked_until_ms = no_later(
        state.blocked_until_ms, now_ms, int(max(policy.retry_after_max_s, policy.backoff_cap_s) * 1000)
    )
    at_ms = state.at_ms if now_ms <= state.at_ms <= now_ms + _STEP_BACK_MS else now_ms
    quiet_ms = max(0, at_ms - max(state.at_ms, blocked_until_ms))
    same = at_ms == state.at_ms and blocked_until_ms == state.blocked_until_ms
    if same and not quiet_ms and state.tokens <= policy.burst:  # else the burst was made smaller
        return state
    tokens = min(float(policy.burst), state.tokens + quiet_ms * current(policy, state) / 1000)
    more = Rate(
        tokens, at_ms, state.cut_per_s, blocked_until_ms, state.run, state.too_much_per_s, state.quiet_ms + quiet_ms
    )
    if not more.cut_per_s or current(policy, more) < policy.rate_per_s:
        return more
    return msgspec.structs.replace(more, cut_per_s=0.0, too_much_per_s=0.0, quiet_ms=0)
