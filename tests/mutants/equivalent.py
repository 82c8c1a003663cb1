"""Mutants that change nothing that anyone could see, with the reason: at most 15 of those that a seed draws."""

from typing import Final

EQUIVALENT: Final[dict[tuple[str, str, str], str]] = {}
"""By file, line, and the line as it is changed."""
