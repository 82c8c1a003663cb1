"""Plans of replays."""

from typing import Any

from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import ReplayPlan

NOW_MS = 1_800_000_000_000
COST = 6


def plan(dead_letters: int = 10, end: int = 10, **more: Any) -> ReplayPlan:
    return ReplayPlan(
        NOW_MS,
        "dlq",
        Filter(),
        {0: end},
        dead_letters,
        dead_letters * COST,
        dead_letters,
        **more,
    )
