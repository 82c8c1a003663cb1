"""When a lead that its lane cannot take now gets its turn, and when it comes back if it is deferred until then.

Deferred leads come back one by one at the lane's rate. So each is deferred about once, however long the backlog is.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.lane import rate
from stream_app.domain.lane.lane import Lane
from stream_app.domain.policy import Workspace, in_force

LANE_BUSY: Final = "lane_busy"
"""The reason of a deferral: the lane is not held, but more leads wait for it than it sends within `patience_s`."""


class Horizon(msgspec.Struct, frozen=True):
    """When the last deferred leads of a lane come back, epoch ms.

    Attributes:
        returned_ms: For leads that had been deferred or replayed before.
        new_ms: For the others.
    """

    returned_ms: int = 0
    new_ms: int = 0


def sends_per_s(policy: Workspace, lane: Lane) -> float:
    """Return how many leads the lane sends in a second if nothing holds it, by its rate and Clay's usual latency."""
    policy = in_force(policy, lane.changes)
    per_s = rate.current(policy.rate, lane.rate)
    usual_ms = lane.concurrency.usual_ms
    return min(per_s, policy.max_in_flight * 1000 / usual_ms) if usual_ms else per_s


def postpone(horizon: Horizon, at_ms: int, per_s: float, *, returned: bool) -> tuple[Horizon, int]:
    """Return when one more deferred lead comes back, not before `at_ms` (epoch ms), and the horizon with it.

    A lead that returned before comes back ahead of new ones, because it is older. `per_s`: the sends of the lane in a
    second.
    """
    after_ms = max(at_ms, horizon.returned_ms) if returned else max(at_ms, horizon.returned_ms, horizon.new_ms)
    due_ms = after_ms + max(1, round(1000 / per_s))
    if returned:
        return Horizon(due_ms, horizon.new_ms), due_ms
    return Horizon(horizon.returned_ms, due_ms), due_ms
