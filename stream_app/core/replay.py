"""When a lead that failed or was held back comes again: backoff, and the delay tier that carries it there.

A delay tier is a topic whose records all wait for the same time from their append, so its head is always the next one
due and nothing has to be kept in memory. Jitter only chooses the due time, and with it the tier.
"""

from __future__ import annotations

import msgspec

from stream_app.core.envelope import Envelope


class ReplayPolicy(msgspec.Struct, frozen=True):
    """`max_replays` a rewind epoch; backoff of replay n is `base_s * factor**(n-1)` to `cap_s`, half of it jitter."""

    max_replays: int = 3
    base_s: float = 10.0
    factor: float = 4.0
    cap_s: float = 3600.0
    tiers_s: tuple[int, ...] = (2, 10, 60, 600, 3600)


def replay_due_ms(policy: ReplayPolicy, replay: int, now_ms: int, rand: float) -> int:
    """Epoch ms at which replay number `replay` (1, 2, ...) is due; `rand` from 0 to 1."""
    delay_s = min(policy.cap_s, policy.base_s * policy.factor ** max(0, replay - 1))
    return now_ms + int(delay_s * 1000 * (0.5 + rand / 2))


def tier_s(policy: ReplayPolicy, delay_ms: int) -> int | None:
    """The tier for a delay: the shortest that is not shorter, else the longest. None when it is due already."""
    if delay_ms <= 0:
        return None
    return next((tier for tier in policy.tiers_s if tier * 1000 >= delay_ms), policy.tiers_s[-1])


def returning(envelope: Envelope) -> Envelope | None:
    """The envelope under which a dead letter or a deferred lead comes back; None where it waits for a human.

    A failed one counts a replay, a deferred one none. Without a disposition (another program wrote it) nobody knows
    whether it failed or was poison: it waits.
    """
    if envelope.way in ("deferred", "uncertain"):
        return envelope
    if envelope.disposition != "failed":
        return None
    return msgspec.structs.replace(
        envelope,
        way="replayed",
        replay=envelope.replay + 1,
        attempt=0,
        disposition="",
        excerpt="",
        not_before_ms=0,
    )
