"""Lanes as the board lists them, and what may be found of them."""

from typing import Any, Final

from stream_app.board.site import ListedLane
from stream_app.domain.views.explain import Finding
from stream_app.domain.views.lane import LaneView
from tests.board.asked import NOW_MS

VIEW: Final = LaneView("acme", 0, NOW_MS, "closed", "healthy", 100.0, 8.0)
OUT: Final = Finding("webhook_out", "the webhook is full", "x")
PAUSED: Final = Finding("paused", "paused by jane", "x")
NOTE: Final = Finding("moves", "runs", "x", holds=False)


def listed(
    name: str,
    tone: Any = "ok",
    *findings: Finding,
    waiting: int = 0,
    **more: Any,
) -> ListedLane:
    parts: dict[str, Any] = {"state": "running", "says": "", "view": VIEW} | more
    return ListedLane(
        workspace=name,
        tone=tone,
        findings=list(findings),
        partition=0,
        waiting=waiting,
        **parts,
    )
