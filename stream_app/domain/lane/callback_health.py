"""Detects missing callbacks: the webhook still answers 2xx, but no callback comes. Each lead sent is then wasted.

It is told about every overdue lead and every callback, by destination, because auto-run is a setting of one table. Time
in which no owner listened for callbacks (between two owners of a partition) does not count as waiting.
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
"""The reason of the suspension that it leads to."""

_GAP_MS: Final = 5_000  # a shorter absence is no more than a rebalance
_GAPS_KEPT: Final = 8
_NEARLY: Final = 0.9


class CallbackHealthPolicy(msgspec.Struct, frozen=True):
    """When a destination is suspended.

    Attributes:
        overdue: Overdue leads of which none was called back since the oldest of them was accepted.
    """

    overdue: int = 5


class Ear(msgspec.Struct, frozen=True, omit_defaults=True):
    """The callbacks of one destination. Times are epoch ms.

    Attributes:
        heard_ms: The last callback that settled a lead.
        overdue: Overdue leads that were accepted after it.
        oldest_ms: When the oldest of them was accepted.
        told_ms: When missing callbacks were reported; 0 if they were not.
        over_ms: When the last such report that has ended was made. Leads accepted before it prove nothing.
    """

    heard_ms: int = 0
    overdue: int = 0
    oldest_ms: int = 0
    told_ms: int = 0
    over_ms: int = 0


class Hearing(msgspec.Struct, frozen=True, omit_defaults=True):
    """The callbacks of a lane. Times are epoch ms.

    Attributes:
        heard_ms: Of all destinations, in a row of an older version.
        told_ms: Of all destinations, in a row of an older version.
        listened_ms: The last time at which an owner is known to have listened.
        gaps: (from, to) of the last times in which no owner listened.
        of: By destination.
    """

    heard_ms: int = 0
    told_ms: int = 0
    listened_ms: int = 0
    gaps: tuple[tuple[int, int], ...] = ()
    of: dict[str, Ear] = {}


def problems(policy: CallbackHealthPolicy) -> list[str]:
    """Return what is wrong with the policy, one line per key."""
    return out_of_range(policy, overdue=(1, 10_000))


def ear(state: Hearing, destination: str) -> Ear:
    """Return the callbacks of a destination."""
    return state.of.get(destination) or Ear(state.heard_ms, over_ms=state.told_ms)


def keep(state: Hearing, destination: str, heard_now: Ear) -> Hearing:
    """Return the state with the new state of one destination."""
    return msgspec.structs.replace(state, of={**state.of, destination: heard_now})


def heard(state: Ear, now_ms: int) -> Ear:
    """Return the state after a callback settled a lead."""
    return Ear(now_ms, over_ms=state.over_ms)


def overdue(state: Ear, accepted_ms: int) -> Ear:
    """Return the state with one more overdue lead."""
    if accepted_ms <= max(state.heard_ms, state.over_ms):
        return state
    oldest_ms = min(state.oldest_ms or accepted_ms, accepted_ms)
    return msgspec.structs.replace(state, overdue=state.overdue + 1, oldest_ms=oldest_ms)


def is_news(policy: CallbackHealthPolicy, state: Ear) -> bool:
    """Return True if missing callbacks must be reported now."""
    return state.overdue >= policy.overdue and not state.told_ms


def told(state: Ear, now_ms: int) -> Ear:
    """Return the state after they were reported."""
    return msgspec.structs.replace(state, told_ms=now_ms)


def over(state: Hearing) -> Hearing:
    """Return the state after the suspension ended. Leads from before the report prove nothing any more."""
    of = {name: Ear(each.heard_ms, over_ms=each.told_ms) if each.told_ms else each for name, each in state.of.items()}
    return msgspec.structs.replace(state, of=of)


def others(state: Hearing, destination: str) -> list[str]:
    """Return the other destinations that were reported and have not called back since."""
    return sorted(name for name, each in state.of.items() if each.told_ms and name != destination)


def still(silent: Sequence[str], destination: str) -> str:
    """Return the text about destinations without callbacks after another one has called back."""
    names = " and ".join(silent)
    return (
        f"no callback of {names} comes, while {destination} has called back, with the same credits: look at auto-run "
        "and the HTTP column there"
    )


def listening(state: Hearing, now_ms: int) -> Hearing:
    """Record that an owner listens. Save it often while leads wait: a successor counts a gap from the last time on."""
    return msgspec.structs.replace(state, listened_ms=max(now_ms, state.listened_ms))


def taken_over(state: Hearing, now_ms: int) -> Hearing:
    """Record that a new owner starts to listen."""
    gaps = state.gaps
    if state.listened_ms and now_ms - state.listened_ms > _GAP_MS:
        gaps = (*gaps, (state.listened_ms, now_ms))[-_GAPS_KEPT:]
    return msgspec.structs.replace(state, listened_ms=now_ms, gaps=gaps)


def unheard_ms(state: Hearing, since_ms: int) -> int:
    """Return for how much of the time since then no owner listened, in ms."""
    return sum(max(0, end_ms - max(begin_ms, since_ms)) for begin_ms, end_ms in state.gaps)


class Evidence(msgspec.Struct, frozen=True):
    """What is known when callbacks are found missing.

    Attributes:
        destination: The alias of the destination.
        overdue: Overdue leads.
        oldest_ms: When the oldest of them was accepted, epoch ms.
        callback_url: '' if the URL answered, else what came instead.
        webhooks: The pool of the table, by id.
        spent: Credits that this lane has booked in this month.
        heard_ms: The last callback of this table, epoch ms; 0 if there was none.
        others: Destinations of the workspace that have called back meanwhile.
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
    """Return the likely causes in order, each with its evidence and what to do."""
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
    """Return what is known of the table from outside, and where to see the rest."""
    last = f"it called back last at {_utc(evidence.heard_ms)}" if evidence.heard_ms else "it has never called back"
    others = f", while {' and '.join(evidence.others)} did since, with the same credits" if evidence.others else ""
    return f"{last}{others}; its newest rows in Clay show whether they ran"


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
