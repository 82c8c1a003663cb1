"""A bound on the values of one label, because each value costs memory in the process and in Prometheus for good."""

from __future__ import annotations

from typing import Final

MOST_NAMES: Final = 1_000
OTHERS: Final = "(others)"
"""The value for all names beyond the bound. No workspace or destination can have this name."""


class BoundedLabel:
    """The first MOST_NAMES names of a process have series of their own, and all others share those of OTHERS."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, name: str) -> str:
        """Return the value of the label for this name."""
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHERS
            self._names.add(name)
        return name
