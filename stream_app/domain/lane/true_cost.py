"""Books the actual cost of a lead in its lane, and learns the estimate from it."""

from __future__ import annotations

import msgspec

from stream_app.domain.lane import budget, estimate, suspension
from stream_app.domain.lane.lane import OVER_CEILING, Lane
from stream_app.domain.policy import Destination, Workspace, in_force


def corrected(
    policy: Workspace, lane: Lane, booked: budget.Reservation, cost: budget.Cost, now_ms: int
) -> tuple[Lane, budget.Reservation, budget.Reservation]:
    """Book the cost of a lead that an operator confirmed, instead of what was booked without a callback.

    Returns:
        The lane, what is booked for the lead now, and the difference to before.
    """
    now = msgspec.structs.replace(booked, credits=cost.credits, actions=cost.actions, known=True)
    more = budget.Reservation(booked.day, booked.month, cost.credits - booked.credits, cost.actions - booked.actions)
    after = budget.unbook(lane.budget, msgspec.structs.replace(more, credits=-more.credits, actions=-more.actions))
    after = budget.reviewed(in_force(policy, lane.changes).budget, after, now_ms)
    return msgspec.structs.replace(lane, budget=after), now, more


def actual(
    policy: Workspace,
    lane: Lane,
    destination: Destination,
    reservation: budget.Reservation,
    cost: budget.Cost,
    now_ms: int,
) -> Lane:
    """Book the cost that a callback reports, and learn from it. More than the ceiling suspends the lane."""
    known = lane.estimates.get(destination.alias) or estimate.first(destination.estimate)
    learned = estimate.learn(known, cost, destination.ceiling)
    settled = budget.settle(lane.budget, reservation, cost, destination.ceiling)
    after = settled.state
    if cost.credits > reservation.credits or cost.actions > reservation.actions:
        after = budget.reviewed(in_force(policy, lane.changes).budget, after, now_ms)
    lane = msgspec.structs.replace(lane, budget=after, estimates={**lane.estimates, destination.alias: learned})
    if not settled.overrun or suspension.holds(lane.suspension, destination.alias):
        return lane
    text = (
        f"a lead of destination {destination.alias} cost {cost.credits} credits and {cost.actions} Actions, more than "
        f"its ceiling of {destination.ceiling.credits} and {destination.ceiling.actions}: no budget is safe with that; "
        "raise ceiling_* or make the table cheaper, then resume the lane"
    )
    policy = in_force(policy, lane.changes)
    fresh = suspension.begin(policy.suspension, OVER_CEILING, text, now_ms, destination.alias, destination.setup_id)
    return msgspec.structs.replace(lane, suspension=suspension.suspend(policy.suspension, lane.suspension, fresh))
