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


def due_ms(row: Delivery, destination: Destination, lane: Lane) -> int:
    """Return when the deadline or grace of a lead in one of these states ends, epoch ms."""
    wait_s = destination.callback_deadline_s if row.state in WAITING else destination.callback_grace_s
    return row.at_ms + int(wait_s * 1000) + callback_health.unowned_ms(lane.callback_health, row.at_ms)


def may_suspend(policy: Workspace, lane: Lane, destination: str, more: int) -> bool:
    """Return True if `more` further overdue leads of the destination could suspend it."""
    limits = in_force(policy, lane.changes).callback_health
    missing = callback_health.are_missing(limits, lane.callback_health, destination, more)
    return missing and not suspension.holds(lane.suspension, destination)


def overdue(policy: Workspace, lane: Lane, destination: str, accepted_ms: int) -> tuple[Lane, bool]:
    """Return the lane with one more overdue lead, and True if the destination must now be suspended and reported."""
    health = callback_health.record_overdue(lane.callback_health, destination, accepted_ms)
    lane = msgspec.structs.replace(lane, callback_health=health)
    return lane, may_suspend(policy, lane, destination, 0)


def evidence(policy: Workspace, lane: Lane, destination: Destination, callback_url: str, now_ms: int) -> Evidence:
    """Return what is known when a destination stops calling back.

    `callback_url` is '' if the callback URL answers, else what came instead.
    """
    month = meters(in_force(policy, lane.changes).budget, lane.budget, now_ms)["credits_month"]
    pool = {name: lane.quota.webhooks[name] for name in destination.webhook_ids if name in lane.quota.webhooks}
    callbacks = callback_health.of(lane.callback_health, destination.alias)
    others = tuple(
        sorted(name for name, other in lane.callback_health.destinations.items() if other.last_ms > callbacks.oldest_ms)
    )
    return Evidence(
        destination=destination.alias,
        overdue=callbacks.overdue,
        oldest_ms=callbacks.oldest_ms,
        callback_url=callback_url,
        webhooks=pool,
        spent=month.spent,
        last_ms=callbacks.last_ms,
        others=others,
    )


def suspend_destination(policy: Workspace, lane: Lane, destination: Destination, text: str, now_ms: int) -> Lane:
    """Return the lane with this destination suspended because no callback comes; if another one is too, all are."""
    policy, alias = in_force(policy, lane.changes), destination.alias
    fresh = suspension.begin(
        *(policy.suspension, callback_health.REASON, text, now_ms, alias, destination.setup_id), one_destination=True
    )
    return msgspec.structs.replace(
        lane,
        suspension=suspension.suspend(policy.suspension, lane.suspension, fresh),
        callback_health=callback_health.record_report(lane.callback_health, alias, now_ms),
    )
