"""Silence: the webhook still says 2xx, and no callback comes any more. Then each lead sent is a lead into the void.

Told of every lead that is overdue and of every callback; how long a lead has waited is counted without the time in
which nobody was there to hear: between two owners of a partition.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from stream_app.core.bounds import out_of_range
from stream_app.core.quota import LIFETIME, Webhook

REASON: Final = "silence"
"""The reason of the stop that it leads to."""

_GAP_MS: Final = 5_000  # a shorter absence is no more than a rebalance
_GAPS_KEPT: Final = 8
_NEARLY: Final = 0.9


class SilencePolicy(msgspec.Struct, frozen=True):
    """The lane stops when so many leads are `overdue` and nothing was heard since the oldest of them was accepted."""

    overdue: int = 5


class Hearing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a lane hears. Times are epoch ms.

    heard_ms    of the last callback that settled a lead. overdue: leads that are overdue and were accepted after it,
                the oldest of them at `oldest_ms`. told_ms: when that was told as a silence, 0 if it was not.
    listened_ms the last time at which somebody is known to have listened; gaps: (from, to) of the last times at which
                nobody did.
    """

    heard_ms: int = 0
    overdue: int = 0
    oldest_ms: int = 0
    told_ms: int = 0
    listened_ms: int = 0
    gaps: tuple[tuple[int, int], ...] = ()


def problems(policy: SilencePolicy) -> list[str]:
    """What is wrong with the policy, one line a key."""
    return out_of_range(policy, overdue=(1, 10_000))


def heard(state: Hearing, now_ms: int) -> Hearing:
    """A callback has settled a lead."""
    return msgspec.structs.replace(state, heard_ms=now_ms, overdue=0, oldest_ms=0, told_ms=0)


def overdue(state: Hearing, accepted_ms: int) -> Hearing:
    """One lead more is overdue."""
    if accepted_ms <= state.heard_ms:
        return state
    oldest_ms = min(state.oldest_ms or accepted_ms, accepted_ms)
    return msgspec.structs.replace(state, overdue=state.overdue + 1, oldest_ms=oldest_ms)


def is_news(policy: SilencePolicy, state: Hearing) -> bool:
    """Whether it is a silence that was not told yet."""
    return state.overdue >= policy.overdue and not state.told_ms


def told(state: Hearing, now_ms: int) -> Hearing:
    """It is told now: once a silence."""
    return msgspec.structs.replace(state, told_ms=now_ms)


def over(state: Hearing) -> Hearing:
    """The lane goes on. Leads from before the silence was told prove nothing any more; later ones may again."""
    return Hearing(max(state.heard_ms, state.told_ms), listened_ms=state.listened_ms, gaps=state.gaps)


def listening(state: Hearing, now_ms: int) -> Hearing:
    """Somebody is there. To be kept often while leads wait: from the last such time on, a successor counts a gap."""
    return msgspec.structs.replace(state, listened_ms=max(now_ms, state.listened_ms))


def taken_over(state: Hearing, now_ms: int) -> Hearing:
    """A new owner begins to listen."""
    gaps = state.gaps
    if state.listened_ms and now_ms - state.listened_ms > _GAP_MS:
        gaps = (*gaps, (state.listened_ms, now_ms))[-_GAPS_KEPT:]
    return msgspec.structs.replace(state, listened_ms=now_ms, gaps=gaps)


def unheard_ms(state: Hearing, since_ms: int) -> int:
    """For how much of the time since then nobody listened."""
    return sum(max(0, end_ms - max(begin_ms, since_ms)) for begin_ms, end_ms in state.gaps)


class Evidence(msgspec.Struct, frozen=True):
    """What is known when a silence begins.

    callback_url  '' when it answered, else what came instead. webhooks: by id, of the table's pool.
    spent         credits that this lane has booked in this month.
    """

    destination: str
    overdue: int
    oldest_ms: int
    callback_url: str
    webhooks: Mapping[str, Webhook]
    spent: int


def causes(evidence: Evidence) -> str:
    """The likely causes in their order, each with what speaks for it and what to do."""
    found = [
        f"the credits of this workspace are used up (booked here this month: {evidence.spent}): top up, then run the "
        "rows in Clay again, for nothing resumes by itself",
        f"auto-run is off in the table of {evidence.destination}, or its HTTP column does not run: switch it on",
    ]
    counts = ", ".join(f"{name} has had {webhook.count}" for name, webhook in evidence.webhooks.items())
    full = f"a webhook stops silently after {LIFETIME:,} submissions ({counts or 'no count yet'}): put a new one in"
    nearly = any(webhook.count >= _NEARLY * LIFETIME for webhook in evidence.webhooks.values())
    found.insert(0 if nearly else 2, full)
    if evidence.callback_url:
        found.insert(0, f"the callback URL cannot be reached from here ({evidence.callback_url}): is the gateway up?")
    else:
        found.append("the callback URL answers from here, so look at what stands between it and Clay last")
    numbered = "; ".join(f"{number}. {cause}" for number, cause in enumerate(found, 1))
    since = datetime.fromtimestamp(evidence.oldest_ms / 1000, UTC)
    return (
        f"{evidence.overdue} leads are overdue and no callback came since {since:%Y-%m-%d %H:%M:%S} UTC, while the "
        f"webhook takes every lead. Likely, in this order: {numbered}"
    )
