"""A lane's state for programs that want to ask before they publish: one small JSON object in Redis.

A view, never the truth: it may be some seconds old, and where it is missing nothing is known.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stream_app.domain.lane.budget import MeterName
from stream_app.domain.messages import LaneView

_METERS: Final[tuple[MeterName, ...]] = ("credits_day", "credits_month", "actions_day", "actions_month")


class LaneMirror(msgspec.Struct, frozen=True):
    """A lane under `<namespace>stream-app:{<workspace>}:lane`.

    moves     whether leads go to Clay now. holds: why not (a stable code, '' when they do), `text` in words, `lifts`
              what makes them go on, `until_ms` when that may be (epoch ms; 0: unknown), `since_ms` since when.
    health    of the sliding window, `score` from 0 to 100. breaker: `closed`, `open`, `half_open`.
    left      of each meter what may still be reserved; null: no limit.
    paused_by the operator who paused it, null if nobody did.
    at_ms     when the lane said so.
    """

    workspace: str
    at_ms: int
    moves: bool
    holds: str
    text: str
    lifts: str
    since_ms: int
    until_ms: int
    breaker: Literal["closed", "open", "half_open"]
    health: Literal["healthy", "degraded", "unhealthy", "insufficient_data"]
    score: float
    rate_per_s: float
    left: dict[str, int | None]
    paused_by: str | None


def mirror_of(view: LaneView) -> LaneMirror:
    """The part of a lane's view that another program needs before it publishes."""
    return LaneMirror(
        workspace=view.workspace,
        at_ms=view.at_ms,
        moves=not view.holds,
        holds=view.holds,
        text=view.text,
        lifts=view.lifts,
        since_ms=view.since_ms,
        until_ms=view.until_ms,
        breaker=view.breaker,
        health=view.health,
        score=view.score,
        rate_per_s=view.rate_per_s,
        left={name: view.meters[name].left for name in _METERS if name in view.meters},
        paused_by=view.paused_by.who if view.paused_by else None,
    )


def mirror_slot(workspace: str) -> str:
    """Its key, behind the prefix of all that is ours in Redis."""
    return f"{{{workspace}}}:lane"
