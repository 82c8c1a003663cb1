"""What a lead means that Clay took and does not call back about: to itself, and to its lane."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.lane import callback_health as silence
from stream_app.domain.lane import suspension as stop
from stream_app.domain.lane.callback_health import Evidence
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.meters import meters
from stream_app.domain.messages import Status
from stream_app.domain.policy import Destination, Workspace, in_force

WAITING: Final = frozenset[Status]({"accepted"})
"""The state of a lead whose deadline runs."""

OVERDUE: Final = frozenset[Status]({"callback_overdue", "credits_exhausted_suspected"})
"""States of a lead whose deadline has passed, and whose grace runs."""


def due_ms(row: Delivery, there: Destination, lane: Lane) -> int:
    """When the deadline or grace of a lead in one of these states ends."""
    wait_s = there.callback_deadline_s if row.state in WAITING else there.callback_grace_s
    return row.at_ms + int(wait_s * 1000) + silence.unheard_ms(lane.hearing, row.at_ms)


def expects_silence(policy: Workspace, lane: Lane, destination: str, more: int) -> bool:
    """Whether it may become one with so many leads more of the destination that are overdue."""
    ear = silence.ear(lane.hearing, destination)
    enough = ear.overdue + more >= in_force(policy, lane.changes).silence.overdue
    return enough and not ear.told_ms and not stop.holds(lane.stop, destination)


def overdue(policy: Workspace, lane: Lane, destination: str, accepted_ms: int) -> tuple[Lane, bool]:
    """The lane with one lead more that is overdue, and whether that makes it a silence, which is then to be told."""
    ear = silence.overdue(silence.ear(lane.hearing, destination), accepted_ms)
    news = silence.is_news(in_force(policy, lane.changes).silence, ear)
    lane = msgspec.structs.replace(lane, hearing=silence.keep(lane.hearing, destination, ear))
    return lane, news and not stop.holds(lane.stop, destination)


def evidence(policy: Workspace, lane: Lane, there: Destination, callback_url: str, now_ms: int) -> Evidence:
    """What is known when a silence begins. `callback_url`: '' when it answers, else what came instead."""
    month = meters(in_force(policy, lane.changes).budget, lane.budget, now_ms)["credits_month"]
    pool = {name: lane.quota.webhooks[name] for name in there.webhook_ids if name in lane.quota.webhooks}
    ear = silence.ear(lane.hearing, there.alias)
    others = sorted(name for name, other in lane.hearing.of.items() if other.heard_ms > ear.oldest_ms)
    return Evidence(
        *(there.alias, ear.overdue, ear.oldest_ms, callback_url, pool, month.spent, ear.heard_ms, tuple(others))
    )


def silent(policy: Workspace, lane: Lane, destination: Destination, text: str, now_ms: int) -> Lane:
    """The lane stops for this destination, of whose leads nobody calls back about any; if it is the second, for all."""
    policy = in_force(policy, lane.changes)
    fresh = stop.begin(policy.stop, silence.REASON, text, now_ms, destination.alias, destination.setup_id, alone=True)
    ear = silence.told(silence.ear(lane.hearing, destination.alias), now_ms)
    hearing = silence.keep(lane.hearing, destination.alias, ear)
    return msgspec.structs.replace(lane, stop=stop.halt(policy.stop, lane.stop, fresh), hearing=hearing)
