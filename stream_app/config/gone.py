"""The keys that 0.2.0 took away or gave other values, each with what to do instead."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_NO_METRICS: Final = (
    "remove it: messages say what `stream-app explain` says, and need no metrics of other processes"
)
_BREAKER: Final = (
    "healthy_s",
    "jitter",
    "open_factor",
    "open_share",
    "probes",
    "slow_rate",
    "successes_to_close",
)
_RATE: Final = ("decrease", "floor_per_s", "recover_per_s", "retry_after_min_s")
_BOARD = (
    "banner",
    "operator_token_env",
    "read_model_path",
    "trace_url",
    "user_header",
    "user_header_secret_env",
)
GONE: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                *(
                    "delivery.max_waiting_bytes",
                    "replay.max_returns",
                    "topics.commands_days",
                    "topics.wait_days",
                ),
                *(
                    f"workspaces.*.{key}"
                    for key in ("concurrency", "flood_guard.min_leads", "health", "window")
                ),
                *(f"workspaces.*.breaker.{key}" for key in _BREAKER),
                *(f"workspaces.*.rate.{key}" for key in _RATE),
            ),
            "remove it: no situation is known in which one changes it",
        ),
        "topics.retry_days": "remove it: leads_days counts for leads.retry, too",
        "gateway.api_token_env": "it is board.token_env now",
        "gateway.api_url": (
            "it is board.url now: `stream-app board` serves board and "
            "look-up API on http.board_port"
        ),
        **{f"gateway.{key}": f"it is board.{key} now" for key in _BOARD},
        "http.notify_port": (
            "remove it: `stream-app notify` is gone, and the board sends the messages"
        ),
        "kafka.hashed_partitions": (
            "remove it: a system keeps the number of partitions that it began with"
        ),
        "line": "the table is delivery now",
        **dict.fromkeys(("notify.gateways", "notify.replays", "notify.workers"), _NO_METRICS),
        "notify.state_path": (
            "remove it: what was sent is kept in the state folder of the service or user"
        ),
        "workspaces.*.flood": "the table is flood_guard now",
        "workspaces.*.silence": "the table is callback_health now",
        "workspaces.*.stop": "the table is suspension now",
    },
)
"""Place of a key or table, `*` for the name of a workspace or destination -> what to do."""

CHANGED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "privacy.pepper_env": (
            'one pepper now: pepper_env = "NAME", that of the first lead; docs/privacy.md'
        ),
    },
)
"""Place of a key -> what to do where the file has a value of an earlier version."""


def gone(place: str) -> str | None:
    """Return what to do about a key that an earlier version had; None if no version had it."""
    pattern = re.sub(r"^(workspaces|destinations)\.[^.]+", r"\1.*", place)
    if pattern.startswith("workspace_defaults."):
        pattern = pattern.replace("workspace_defaults", "workspaces.*", 1)
    advice = GONE.get(pattern)
    return advice and f"gone in 0.2.0; {advice}"
