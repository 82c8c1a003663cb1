"""What publishing leads will cost, before they are published: against what is left, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from stream_app.domain.lane import estimate
from stream_app.domain.lane.budget import Budget, Cost, MeterName
from stream_app.domain.lane.meters import Meter, meters
from stream_app.domain.messages import LaneView
from stream_app.domain.policy import Workspace, in_force


class Part(msgspec.Struct, frozen=True):
    """The leads of one destination. `credits_each`: what its leads came to cost; the configured estimate until then."""

    destination: str
    leads: int
    credits_each: float
    credits: int
    credits_at_most: int
    actions: int
    actions_at_most: int


class Quote(msgspec.Struct, frozen=True):
    """The leads of one workspace.

    left     what is left of each budget with a cap; one that is absent has no limit.
    known    whether `left` and the rate are the lane's own; otherwise they are those of the configuration.
    seconds  at the lane's rate. holds: what holds the lane now, in words; '' when it moves.
    """

    workspace: str
    parts: list[Part]
    left: dict[MeterName, int]
    known: bool
    seconds: float
    holds: str = ""

    @property
    def leads(self) -> int:
        """Of all destinations."""
        return sum(part.leads for part in self.parts)

    @property
    def credits(self) -> int:
        """What they will cost, by the estimate."""
        return sum(part.credits for part in self.parts)

    @property
    def actions(self) -> int:
        """What they will cost, by the estimate."""
        return sum(part.actions for part in self.parts)

    @property
    def short(self) -> list[MeterName]:
        """The budgets that have less left than the leads will cost, by the estimate."""
        costs = {"credits": self.credits, "actions": self.actions}
        return [name for name, left in self.left.items() if costs[name.partition("_")[0]] > left]


def part(destination: str, leads: int, usual: Cost, most: Cost, view: LaneView | None) -> Part:
    """What so many leads of a destination cost. `usual` and `most`: as the configuration says."""
    learned = view.estimates.get(destination) if view is not None else None
    each = learned or estimate.first(usual)
    return Part(
        destination,
        leads,
        round(each.credits, 1),
        math.ceil(leads * each.credits),
        leads * most.credits,
        math.ceil(leads * each.actions),
        leads * most.actions,
    )


def quote(policy: Workspace, view: LaneView | None, parts: Iterable[Part], now_ms: int) -> Quote:
    """The whole of a workspace. `view`: what its lane last published; None: nothing, or it was not read."""
    found = list(parts)
    policy = in_force(policy, view.changes if view is not None else ())
    leads, rate_per_s = sum(each.leads for each in found), policy.rate.rate_per_s
    if view is not None and view.rate_per_s > 0:
        rate_per_s = min(rate_per_s, view.rate_per_s)
    holds = view.text or view.holds if view is not None and view.holds else ""
    return Quote(policy.name, found, _left(policy, view, now_ms), view is not None, leads / rate_per_s, holds)


def _left(policy: Workspace, view: LaneView | None, now_ms: int) -> dict[MeterName, int]:
    shown: Mapping[MeterName, Meter] = view.meters if view is not None else {}
    left: dict[MeterName, int] = {}
    for name, fresh in meters(policy.budget, Budget(), now_ms).items():
        meter = shown.get(name, fresh)
        if now_ms >= meter.ends_ms:  # a new day or month has begun since the lane last published its state
            meter = fresh
        if fresh.cap is not None:
            left[name] = max(0, fresh.cap - meter.used)
    return left
