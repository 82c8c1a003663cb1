"""What a lead means that Clay took and does not call back about: to itself, and to its lane."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.core import budget, silence, stop
from stream_app.core.delivery import Delivery
from stream_app.core.lane import Lane
from stream_app.core.messages import Status
from stream_app.core.policy import Destination, Workspace, in_force
from stream_app.core.silence import Evidence

WAITING: Final = frozenset[Status]({"accepted"})
"""The state of a lead whose deadline runs."""

OVERDUE: Final = frozenset[Status]({"callback_overdue", "credits_exhausted_suspected"})
"""States of a lead whose deadline has passed, and whose grace runs."""


def due_ms(row: Delivery, there: Destination, lane: Lane) -> int:
    """When the deadline or grace of a lead in one of these states ends."""
    wait_s = there.callback_deadline_s if row.state in WAITING else there.callback_grace_s
    return row.at_ms + int(wait_s * 1000) + silence.unheard_ms(lane.hearing, row.at_ms)


def expects_silence(policy: Workspace, lane: Lane, more: int) -> bool:
    """Whether it may become one with so many leads more that are overdue."""
    hearing = lane.hearing
    enough = hearing.overdue + more >= in_force(policy, lane.changes).silence.overdue
    return enough and not hearing.told_ms and lane.stop is None


def overdue(policy: Workspace, lane: Lane, accepted_ms: int) -> tuple[Lane, bool]:
    """The lane with one lead more that is overdue, and whether that makes it a silence, which is then to be told."""
    lane = msgspec.structs.replace(lane, hearing=silence.overdue(lane.hearing, accepted_ms))
    news = silence.is_news(in_force(policy, lane.changes).silence, lane.hearing)
    return lane, news and lane.stop is None


def evidence(policy: Workspace, lane: Lane, there: Destination, callback_url: str, now_ms: int) -> Evidence:
    """What is known when a silence begins. `callback_url`: '' when it answers, else what came instead."""
    month = budget.meters(in_force(policy, lane.changes).budget, lane.budget, now_ms)["credits_month"]
    pool = {name: lane.quota.webhooks[name] for name in there.webhook_ids if name in lane.quota.webhooks}
    return Evidence(there.alias, lane.hearing.overdue, lane.hearing.oldest_ms, callback_url, pool, month.spent)


def silent(policy: Workspace, lane: Lane, destination: Destination, text: str, now_ms: int) -> Lane:
    """The lane stops: nobody calls back any more."""
    policy = in_force(policy, lane.changes)
    halted = stop.begin(policy.stop, silence.REASON, text, now_ms, destination.alias, destination.setup_id)
    return msgspec.structs.replace(lane, stop=halted, hearing=silence.told(lane.hearing, now_ms))
