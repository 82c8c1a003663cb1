"""A lane's state for other programs: one small JSON object in Redis.

It may be some seconds old. If it is missing, nothing is known.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from stream_app.domain.lane.budget import METERS
from stream_app.domain.lane_messages import LaneView


class LaneMirror(msgspec.Struct, frozen=True):
    """A lane under `<namespace>stream-app:{<workspace>}:lane`.

    Attributes:
        workspace: The workspace.
        at_ms: When this state was recorded, epoch ms.
        moves: True if leads go to Clay now.
        holds: Why not, a stable code; '' if they do.
        text: The same in words.
        lifts: What makes them move again.
        since_ms: Since when they are held, epoch ms.
        until_ms: When they may move again, epoch ms; 0: unknown.
        breaker: `closed`, `open` or `half_open`.
        health: Of the sliding window.
        score: From 0 to 100.
        rate_per_s: The present rate.
        left: What may still be reserved of each meter; null: no limit.
        paused_by: The operator who paused the lane; null if it is not paused.
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
    """Return the part of a lane's view that a program needs before it publishes."""
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
        left={name: view.meters[name].left for name in METERS if name in view.meters},
        paused_by=view.paused_by.who if view.paused_by else None,
    )


def mirror_slot(workspace: str) -> str:
    """Return its key, without the common prefix of our keys in Redis."""
    return f"{{{workspace}}}:lane"
