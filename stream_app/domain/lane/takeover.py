"""A lane at the start of a new owner, and under a new configuration."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stream_app.domain.lane import budget, callback_health, rate, suspension
from stream_app.domain.lane import webhook_quota as quota
from stream_app.domain.lane.lane import Lane
from stream_app.domain.policy import Destination, Workspace, in_force


def take_over(lane: Lane, now_ms: int, previous: Lane | None = None) -> Lane:
    """Return the lane for its new owner: no tokens, because the previous owner may have spent them just now.

    Args:
        lane: The committed lane.
        now_ms: The time, epoch ms.
        previous: The lane as this process last knew it, not fully committed. A Retry-After in it still holds.
    """
    bucket = rate.empty_after_takeover(lane.rate, now_ms)
    health = callback_health.taken_over(lane.callback_health, now_ms)
    if previous is not None and previous.rate.blocked_until_ms > bucket.blocked_until_ms:
        bucket = msgspec.structs.replace(bucket, blocked_until_ms=previous.rate.blocked_until_ms)
    return msgspec.structs.replace(lane, rate=bucket, callback_health=health)


def reconfigured(policy: Workspace, lane: Lane, destinations: Sequence[Destination], now_ms: int) -> Lane:
    """Return the lane under a possibly new configuration. If that changes a refused setup, a probe is due at once.

    Args:
        policy: The workspace.
        lane: Its lane.
        destinations: Its destinations.
        now_ms: The time, epoch ms.
    """
    reviewed = budget.reviewed(in_force(policy, lane.changes).budget, lane.budget, now_ms)
    setups = {there.alias: there.setup_id for there in destinations}
    lane = msgspec.structs.replace(lane, budget=reviewed, quota=quota.reconfigured(lane.quota, setups, now_ms))
    stopped = lane.suspension
    setup = setups.get(stopped.destination) if stopped is not None else None
    if stopped is None or setup is None or setup == stopped.setup_id:
        return lane
    return msgspec.structs.replace(lane, suspension=suspension.probe_now(stopped, setup, now_ms))
