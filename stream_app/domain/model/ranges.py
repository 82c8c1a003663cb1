"""The bounds of numbers, waits, and exact shares.

A field has its bounds in its type: `seconds: Annotated[float, Range(1, 60)] = 5.0`.
"""

from fractions import Fraction
from functools import cache, lru_cache
from typing import ClassVar, NamedTuple, get_type_hints

import msgspec


class Range(NamedTuple):
    """The lowest and the highest value that are allowed."""

    low: float
    high: float


def outside(table: msgspec.Struct) -> list[str]:
    """Return one line for each field that is outside its range.

    NaN is always outside, None never.
    """
    return [
        f"{key} = {value!r}: must be from {low:.15g} to {high:.15g}"
        for key, (low, high) in _ranges(type(table)).items()
        if (value := getattr(table, key)) is not None and not low <= value <= high
    ]


@cache
def _ranges(kind: type[msgspec.Struct]) -> dict[str, Range]:
    return {
        key: constraint
        for key, hint in get_type_hints(kind, include_extras=True).items()
        for constraint in getattr(hint, "__metadata__", ())
        if isinstance(constraint, Range)
    }


class Wait(msgspec.Struct, frozen=True):
    """Not now: ask again at `until_ms` (epoch ms), or earlier if the lane's state has changed."""

    until_ms: int


def no_later(until_ms: int, now_ms: int, longest_ms: int) -> int:
    """Return `until_ms`, but at most `longest_ms` from now.

    A later deadline was set before the clock stepped back.
    """
    return min(until_ms, now_ms + longest_ms)


class Policy(msgspec.Struct, frozen=True):
    """A table of the configuration.

    `ORDERED`: pairs of keys (low, high); the first must not be above the second.
    """

    ORDERED: ClassVar[tuple[tuple[str, str], ...]] = ()

    def problems(self) -> list[str]:
        """Return what is wrong, one line per key."""
        problems = outside(self)
        for low_key, high_key in self.ORDERED:
            low = getattr(self, low_key)
            high = getattr(self, high_key)
            if low is not None and high is not None and low > high:
                problems.append(f"{low_key} = {low!r}: must not be above {high_key} = {high!r}")
        return problems


@lru_cache(maxsize=1_024)
def exact(share: float) -> Fraction:
    """Return the decimal that the operator wrote: 0.9 is nine tenths, not the nearest float.

    A product with a float may miss a whole number: `10 * (1 - 0.9)` is below 1.
    """
    return Fraction(repr(share))
