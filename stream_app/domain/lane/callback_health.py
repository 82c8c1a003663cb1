"""Silence: the webhook still says 2xx, and no callback comes any more. Then each lead sent is a lead into the void.

Told of every lead that is overdue and of every callback, for each destination: auto-run is of one table. How long a
lead has waited is counted without the time in which nobody was there to hear: between two owners of a partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from stream_app.domain.lane.bounds import out_of_range
from stream_app.domain.lane.webhook_quota import LIFETIME, Webhook
from stream_app.domain.plural import count

REASON: Final = "silence"
"""The reason of the stop that it leads to."""

_GAP_MS: Final = 5_000  # a shorter absence is no more than a rebalance
_GAPS_KEPT: Final = 8
_NEARLY: Final = 0.9


class CallbackHealthPolicy(msgspec.Struct, frozen=True):
    """A destination is held when so many of its leads are `overdue` and none was called back about since the oldest of
    them was accepted.
    """

    overdue: int = 5


class Ear(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is heard of one destination. Times are epoch ms.

    heard_ms    of the last callback that settled a lead. overdue: leads that are overdue and were accepted after it,
                the oldest of them at `oldest_ms`. told_ms: when that was told as a silence, 0 if it was not.
    over_ms     when the last silence was told that is over: leads accepted before prove nothing any more.
    """

    heard_ms: int = 0
    overdue: int = 0
    oldest_ms: int = 0
    told_ms: int = 0
    over_ms: int = 0


class Hearing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a lane hears, `of` each destination. Times are epoch ms.

    listened_ms the last time at which somebody is known to have listened; gaps: (from, to) of the last times at which
                nobody did.
    heard_ms, told_ms  of all destinations, in a row from before they were told apart.
    """

    heard_ms: int = 0
    told_ms: int = 0
    listened_ms: int = 0
    gaps: tuple[tuple[int, int], ...] = ()
    of: dict[str, Ear] = {}


def problems(policy: CallbackHealthPolicy) -> list[str]:
    """What is wrong with the policy, one line a key."""
    return out_of_range(policy, overdue=(1, 10_000))


def ear(state: Hearing, destination: str) -> Ear:
    """What was heard of it."""
    return state.of.get(destination) or Ear(state.heard_ms, over_ms=state.told_ms)


def keep(state: Hearing, destination: str, heard_now: Ear) -> Hearing:
    """With the new state of one destination."""
    return msgspec.structs.replace(state, of={**state.of, destination: heard_now})


def heard(state: Ear, now_ms: int) -> Ear:
    """A callback has settled a lead."""
    return Ear(now_ms, over_ms=state.over_ms)


def overdue(state: Ear, accepted_ms: int) -> Ear:
    """One lead more is overdue."""
    if accepted_ms <= max(state.heard_ms, state.over_ms):
        return state
    oldest_ms = min(state.oldest_ms or accepted_ms, accepted_ms)
    return msgspec.structs.replace(state, overdue=state.overdue + 1, oldest_ms=oldest_ms)


def is_news(policy: CallbackHealthPolicy, state: Ear) -> bool:
    """Whether it is a silence that was not told yet."""
    return state.overdue >= policy.overdue and not state.told_ms


def told(state: Ear, now_ms: int) -> Ear:
    """It is told now: once a silence."""
    return msgspec.structs.replace(state, told_ms=now_ms)


def over(state: Hearing) -> Hearing:
    """The lane goes on. Leads from before a silence was told prove nothing any more; later ones may again."""
    of = {name: Ear(each.heard_ms, over_ms=each.told_ms) if each.told_ms else each for name, each in state.of.items()}
    return msgspec.structs.replace(state, of=of)


def others(state: Hearing, destination: str) -> list[str]:
    """Those that are told to be silent and have not called back since, but for this one."""
    return sorted(name for name, each in state.of.items() if each.told_ms and name != destination)


def still(silent: Sequence[str], destination: str) -> str:
    """What is known of those that are silent after another one has called back."""
    names = " and ".join(silent)
    return (
        f"no callback of {names} comes, while {destination} has called back, with the same credits: look at auto-run "
        "and the HTTP column there"
    )


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
    heard_ms      of the last callback from this table, 0 if there was none. others: those of the workspace that have
                  called back meanwhile.
    """

    destination: str
    overdue: int
    oldest_ms: int
    callback_url: str
    webhooks: Mapping[str, Webhook]
    spent: int
    heard_ms: int
    others: tuple[str, ...] = ()


def causes(evidence: Evidence) -> str:
    """The likely causes in their order, each with what speaks for it and what to do."""
    found = [
        f"the credits of this workspace are used up (booked here this month: {evidence.spent}): top up, then run the "
        "rows in Clay again, for nothing resumes by itself",
        f"auto-run is off in the table of {evidence.destination}, or its HTTP column does not run "
        f"({_of_table(evidence)}): switch it on",
    ]
    if evidence.others:  # which have the same credits
        found.reverse()
    counts = ", ".join(f"{name} has had {webhook.count}" for name, webhook in evidence.webhooks.items())
    full = f"a webhook stops silently after {LIFETIME:,} submissions ({counts or 'no count yet'}): put a new one in"
    nearly = any(webhook.count >= _NEARLY * LIFETIME for webhook in evidence.webhooks.values())
    found.insert(0 if nearly else 2, full)
    if evidence.callback_url:
        found.insert(0, f"the callback URL cannot be reached from here ({evidence.callback_url}): is the gateway up?")
    else:
        found.append("the callback URL answers from here, so look at what stands between it and Clay last")
    there = f"of {evidence.destination}"
    numbered = "; ".join(f"{number}. {cause}" for number, cause in enumerate(found, 1))
    return (
        f"{count(evidence.overdue, f'lead {there} is', f'leads {there} are')} overdue and no callback of it came since "
        f"{_utc(evidence.oldest_ms)}, while its webhook takes every lead. Likely, in this order: {numbered}"
    )


def _of_table(evidence: Evidence) -> str:
    """What is known of it from outside, and where to see the rest."""
    last = f"it called back last at {_utc(evidence.heard_ms)}" if evidence.heard_ms else "it has never called back"
    others = f", while {' and '.join(evidence.others)} did since, with the same credits" if evidence.others else ""
    return f"{last}{others}; its newest rows in Clay show whether they ran"


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
