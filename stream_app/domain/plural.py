"""Counts in sentences: "1 lead", "2 leads"."""

from __future__ import annotations


def count(number: int, one: str, many: str = "") -> str:
    """Return a number and what it counts, in the singular or plural.

    Args:
        number: How many.
        one: The words after 1. Include the verb if the count is the subject, such as "lead is".
        many: The words after any other number. Default: `one` with an "s".
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
