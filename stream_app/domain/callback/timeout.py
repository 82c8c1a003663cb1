"""What a missing callback means for its lead and for its lane."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.lane import callback_health, suspension
from stream_app.domain.lane.callback_health import Evidence
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.meters import meters
from stream_app.domain.messages import Status
from stream_app.domain.policy import Destination, Workspace, in_force

WAITING: Final = frozenset[Status]({"accepted"})
"""The state of a lead whose callback deadline runs."""

OVERDUE: Final = frozenset[Status]({"callback_overdue", "credits_exhausted_suspected"})
"""States of a lead whose deadline has passed and whose grace runs."""


def due_ms(row: Delivery, there: Destination, lane: Lane) -> int:
    """Return when the deadline or grace of a lead in one of these states ends, epoch ms."""
    wait_s = there.callback_deadline_s if row.state in WAITING else there.callback_grace_s
    return row.at_ms + int(wait_s * 1000) + callback_health.unheard_ms(lane.hearing, row.at_ms)


def expects_silence(policy: Workspace, lane: Lane, destination: str, more: int) -> bool:
    """Return True if `more` further overdue leads of the destination could suspend it."""
    ear = callback_health.ear(lane.hearing, destination)
    enough = ear.overdue + more >= in_force(policy, lane.changes).silence.overdue
    return enough and not ear.told_ms and not suspension.holds(lane.stop, destination)


def overdue(policy: Workspace, lane: Lane, destination: str, accepted_ms: int) -> tuple[Lane, bool]:
    """Return the lane with one more overdue lead, and True if the destination must now be suspended and reported."""
    ear = callback_health.overdue(callback_health.ear(lane.hearing, destination), accepted_ms)
    news = callback_health.is_news(in_force(policy, lane.changes).silence, ear)
    lane = msgspec.structs.replace(lane, hearing=callback_health.keep(lane.hearing, destination, ear))
    return lane, news and not suspension.holds(lane.stop, destination)


def evidence(policy: Workspace, lane: Lane, there: Destination, callback_url: str, now_ms: int) -> Evidence:
    """Return what is known when a destination stops calling back.

    Args:
        policy: The configuration of the workspace.
        lane: Its lane.
        there: The destination.
        callback_url: '' if the callback URL answers, else what came instead.
        now_ms: The time, epoch ms.
    """
    month = meters(in_force(policy, lane.changes).budget, lane.budget, now_ms)["credits_month"]
    pool = {name: lane.quota.webhooks[name] for name in there.webhook_ids if name in lane.quota.webhooks}
    ear = callback_health.ear(lane.hearing, there.alias)
    others = sorted(name for name, other in lane.hearing.of.items() if other.heard_ms > ear.oldest_ms)
    return Evidence(
        *(there.alias, ear.overdue, ear.oldest_ms, callback_url, pool, month.spent, ear.heard_ms, tuple(others))
    )


def silent(policy: Workspace, lane: Lane, destination: Destination, text: str, now_ms: int) -> Lane:
    """Return the lane with this destination suspended because no callback comes; if another one is too, all are."""
    policy = in_force(policy, lane.changes)
    fresh = suspension.begin(
        policy.stop, callback_health.REASON, text, now_ms, destination.alias, destination.setup_id, alone=True
    )
    ear = callback_health.told(callback_health.ear(lane.hearing, destination.alias), now_ms)
    hearing = callback_health.keep(lane.hearing, destination.alias, ear)
    return msgspec.structs.replace(lane, stop=suspension.halt(policy.stop, lane.stop, fresh), hearing=hearing)
