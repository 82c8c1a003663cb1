"""A lane: breaker, window, rate, budget, quota and suspension of one workspace.

Its row is committed in the same transaction as the leads that changed it. `admission.decide`
decides whether a lead may be sent now, and `settlement.settled` records the end of a POST.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from stream_app.domain.limits import (
    breaker,
    budget,
    callback_health,
    concurrency,
    destination_health,
    meters,
    rate,
    suspension,
    window,
)
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.balance import Booked, Reading
from stream_app.domain.limits.breaker import Outage
from stream_app.domain.limits.suspension import FloodGuard
from stream_app.domain.limits.yield_health import YieldHealth
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.plan import Actor, Change, Destination, InForce, Workspace, in_force

LANE_VERSION: Final = 1
LANE_BUSY: Final = "lane_busy"
"""The reason of a deferral while the lane is not held: more leads wait for it than it sends within
`patience_s`.
"""


class Forced(msgspec.Struct, frozen=True):
    """A breaker mode that an operator set."""

    mode: breaker.Mode
    by: Actor


class Lane(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of a lane's row. Fields are only ever added.

    Attributes:
        partition: Where it lives. A configuration that moves it is refused.
        health: The calls of the last five minutes, as people see them.
        window: The calls of the last minute, which the breaker and the flood guard use.
        pause: An operator's order, like `forced` and `changes` (domain/lane/overrides.py).
        held_since: Since when it is held (epoch ms), by the code of the reason.
        destinations: The health of each destination, if there are several.
        failing: The destinations whose last calls failed.
        paid: The totals of its leads.
        reading: The last reading of Clay's balance.
    """

    workspace: str
    partition: Whole
    # A plain default would be left out of the row.
    version: Whole = msgspec.field(default_factory=lambda: LANE_VERSION)
    breaker: breaker.Breaker = breaker.Breaker()
    health: window.Window = window.Window()
    window: window.Window = window.Window()
    rate: rate.Rate = rate.Rate()
    budget: budget.Budget = budget.Budget()
    quota: quota.Quota = quota.Quota()
    suspension: suspension.Suspension | None = None
    pause: Actor | None = None
    forced: Forced | None = None
    changes: tuple[Change, ...] = ()
    estimates: dict[str, meters.Estimate] = {}
    shadowed: Whole = 0
    callback_health: callback_health.CallbackHealth = callback_health.CallbackHealth()
    concurrency: concurrency.Concurrency = concurrency.Concurrency()
    flood_guard: FloodGuard = FloodGuard()
    outage: Outage | None = None
    held_since: dict[str, TimeMs] = {}
    destinations: dict[str, destination_health.DestinationHealth] = {}
    failing: tuple[destination_health.Failing, ...] = ()
    yields: YieldHealth = {}
    paid: Booked = Booked()
    reading: Reading | None = None

    def in_force(self, configured: Workspace) -> InForce:
        """Return the policy that the rules apply: the configured one with operators' changes."""
        return in_force(configured, self.changes)


def with_destination(
    lane: Lane,
    alias: str,
    health: destination_health.DestinationHealth,
) -> Lane:
    """Return the lane with this health of one of its destinations."""
    if lane.destinations[alias] is health:
        return lane
    return replace(lane, destinations={**lane.destinations, alias: health})


def mode_of(policy: InForce, lane: Lane) -> breaker.Mode:
    """Return the mode of the breaker: that which an operator forced, or else the configured one."""
    return lane.forced.mode if lane.forced is not None else policy.breaker.mode


def lifted(lane: Lane) -> Lane:
    """Return the lane without its suspension.

    What the suspension has counted starts again, because the next failure would suspend the lane at
    once otherwise.
    """
    reason = lane.suspension.reason if lane.suspension is not None else ""
    lane = replace(
        lane,
        suspension=None,
        callback_health=callback_health.reset_reported(lane.callback_health),
    )
    if reason == suspension.FLOOD:
        lane = replace(lane, flood_guard=FloodGuard(), window=window.Window())
    return lane


def host_checked(policy: InForce, lane: Lane, answers: bool, now_ms: int) -> Lane:
    """Return the lane after a check whether Clay's host answers. Only an open breaker uses it."""
    after = breaker.host_checked(policy.breaker, lane.breaker, answers, now_ms)
    return lane if after is lane.breaker else replace(lane, breaker=after)


def moved_text(workspace: str, partition: int, home: int) -> str:
    """Say that a workspace has its lane in another partition than its home, and what to do."""
    return (
        f"workspace {workspace} has its lane in partition {partition}, the configuration "
        f"says {home}: "
        f"set workspaces.{workspace}.partition = {partition}, or use a new workspace name"
    )


def for_new_owner(lane: Lane, now_ms: int, previous: Lane | None = None) -> Lane:
    """Return the lane for its new owner.

    It has no tokens, because the previous owner may have spent them just now. `previous` is the
    lane as this process last knew it. Not all of it was committed, but a Retry-After in it still
    holds.
    """
    bucket = rate.empty_after_takeover(lane.rate, now_ms)
    health = callback_health.taken_over(lane.callback_health, now_ms)
    if previous is not None and previous.rate.blocked_until_ms > bucket.blocked_until_ms:
        bucket = replace(bucket, blocked_until_ms=previous.rate.blocked_until_ms)
    return replace(lane, rate=bucket, callback_health=health)


def reconfigured(
    policy: InForce,
    lane: Lane,
    destinations: Sequence[Destination],
    now_ms: int,
) -> Lane:
    """Return the lane under a configuration that may be new.

    If the configuration changes a setup that Clay refused, a probe is due at once.
    """
    reviewed = budget.reviewed(policy.budget, lane.budget, now_ms)
    setups = {destination.alias: destination.setup_id for destination in destinations}
    healths = {
        alias: lane.destinations.get(alias) or destination_health.DestinationHealth()
        for alias in setups
    }
    lane = replace(
        lane,
        budget=reviewed,
        quota=quota.reconfigured(lane.quota, setups, now_ms),
        # A single destination has the health of its lane.
        destinations=healths if len(healths) > 1 else {},
    )
    suspended = lane.suspension
    setup = setups.get(suspended.destination) if suspended is not None else None
    if suspended is None or setup is None or setup == suspended.setup_id:
        return lane
    return replace(lane, suspension=suspension.probe_now(suspended, setup, now_ms))


class Horizon(msgspec.Struct, frozen=True):
    """When the last deferred leads of a lane come back, epoch ms.

    Deferred leads come back one by one, at the lane's rate. So a lead is deferred about once,
    however long the backlog is.

    Attributes:
        returned_ms: For leads that had been deferred or replayed before.
        new_ms: For all other leads.
    """

    returned_ms: int = 0
    new_ms: int = 0


def sends_per_s(policy: InForce, lane: Lane) -> float:
    """Return how many leads the lane sends in a second if nothing holds it.

    Its rate bounds that. So does the number of calls that may be in flight, because a call takes
    some time.
    """
    per_s = rate.current(policy.rate, lane.rate)
    return min(per_s, concurrency.most_per_s(policy.max_in_flight, lane.concurrency))


def postpone(horizon: Horizon, at_ms: int, per_s: float, *, returned: bool) -> tuple[Horizon, int]:
    """Return when one more deferred lead comes back, and the horizon with it.

    Args:
        horizon: When the leads that were deferred before come back.
        at_ms: The lead does not come back before this time, epoch ms.
        per_s: The sends of the lane in a second, at most 1,000 by its configuration.
        returned: True for a lead that returned before. It comes back ahead of new ones, because
            it is older.
    """
    after_ms = (
        max(at_ms, horizon.returned_ms)
        if returned
        else max(at_ms, horizon.returned_ms, horizon.new_ms)
    )
    due_ms = after_ms + round(1000 / per_s)
    return Horizon(due_ms, horizon.new_ms) if returned else Horizon(
        horizon.returned_ms,
        due_ms,
    ), due_ms
