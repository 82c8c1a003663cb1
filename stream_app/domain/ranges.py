"""The range of a number, beside its field: `seconds: Annotated[float, Range(1, 60)] = 5.0`."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, get_type_hints

import msgspec


class Range(NamedTuple):
    """The lowest and the highest value that are allowed."""

    low: float
    high: float


def outside(table: msgspec.Struct) -> list[str]:
    """Return one line for each field that is outside its range. NaN is always outside, None never."""
    return [
        f"{key} = {value!r}: must be from {low:.15g} to {high:.15g}"
        for key, (low, high) in _ranges(type(table)).items()
        if (value := getattr(table, key)) is not None and not low <= value <= high
    ]


@cache
def _ranges(kind: type[msgspec.Struct]) -> dict[str, Range]:
    hints = get_type_hints(kind, include_extras=True)
    found = {
        key: [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range)]
        for key, hint in hints.items()
    }
    return {key: ranges[0] for key, ranges in found.items() if ranges}
