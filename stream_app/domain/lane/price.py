"""Quotes the cost of leads before they are published, against the remaining budget, and the time that they take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from stream_app.domain.lane.view import LaneView
from stream_app.domain.limits.budget import Budget, Cost, MeterName
from stream_app.domain.limits.meters import Meter, first_estimate, meters
from stream_app.domain.plan import Workspace, in_force


class Part(msgspec.Struct, frozen=True):
    """The leads of one destination. `credits_each` is their learned cost, or the configured estimate before that."""

    destination: str
    leads: int
    credits_each: float
    credits: int
    credits_at_most: int
    actions: int
    actions_at_most: int


class Quote(msgspec.Struct, frozen=True):
    """The leads of one workspace.

    Attributes:
        parts: One entry per destination.
        left: What is left of each capped budget. A budget that is absent has no limit.
        known: True if `left` and the rate come from the lane itself, False if they come from the configuration.
        seconds: How long the leads take at the lane's rate.
        holds: What holds the lane now, in words; '' if it moves.
    """

    workspace: str
    parts: list[Part]
    left: dict[MeterName, int]
    known: bool
    seconds: float
    holds: str = ""

    @property
    def leads(self) -> int:
        """The leads of all destinations."""
        return sum(part.leads for part in self.parts)

    @property
    def credits(self) -> int:
        """The estimated cost in credits."""
        return sum(part.credits for part in self.parts)

    @property
    def actions(self) -> int:
        """The estimated cost in Actions."""
        return sum(part.actions for part in self.parts)

    @property
    def short(self) -> list[MeterName]:
        """The budgets that have less left than the estimated cost."""
        costs = {"credits": self.credits, "actions": self.actions}
        return [name for name, left in self.left.items() if costs[name.partition("_")[0]] > left]


def part(destination: str, leads: int, usual: Cost, most: Cost, view: LaneView | None) -> Part:
    """Return the cost of a number of leads of one destination. `usual` and `most` are as configured."""
    learned = view.estimates.get(destination) if view is not None else None
    estimate = learned or first_estimate(usual)
    return Part(
        destination,
        leads,
        round(estimate.credits, 1),
        math.ceil(leads * estimate.credits),
        leads * most.credits,
        math.ceil(leads * estimate.actions),
        leads * most.actions,
    )


def quote(policy: Workspace, view: LaneView | None, parts: Iterable[Part], now_ms: int) -> Quote:
    """Return the quote for one workspace. Without a `view` it is made from the configuration."""
    priced = list(parts)
    policy = in_force(policy, view.changes if view is not None else ())
    leads, rate_per_s = sum(price.leads for price in priced), policy.rate.rate_per_s
    if view is not None and view.rate_per_s > 0:
        rate_per_s = min(rate_per_s, view.rate_per_s)
    holds = view.text or view.holds if view is not None and view.holds else ""
    return Quote(policy.name, priced, _left(policy, view, now_ms), view is not None, leads / rate_per_s, holds)


def _left(policy: Workspace, view: LaneView | None, now_ms: int) -> dict[MeterName, int]:
    shown: Mapping[MeterName, Meter] = view.meters if view is not None else {}
    left: dict[MeterName, int] = {}
    for name, fresh in meters(policy.budget, Budget(), now_ms).items():
        meter = shown.get(name, fresh)
        if now_ms >= meter.ends_ms:  # the lane published its state in an earlier day or month
            meter = fresh
        if fresh.cap is not None:
            left[name] = max(0, fresh.cap - meter.used)
    return left
