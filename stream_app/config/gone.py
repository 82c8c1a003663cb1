"""The keys that 0.2.0 took away, each with what to do instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

GONE: Final[Mapping[str, str]] = MappingProxyType({})
"""Place of a key or table, `*` for the name of a workspace or destination -> what to do."""


def gone(place: str) -> str | None:
    """Return what to do about a key that an earlier version had; None if no version had it."""
    pattern = re.sub(r"^(workspaces|destinations)\.[^.]+", r"\1.*", place)
    if pattern.startswith("workspace_defaults."):
        pattern = pattern.replace("workspace_defaults", "workspaces.*", 1)
    advice = GONE.get(pattern)
    return advice and f"gone in 0.2.0; {advice}"
