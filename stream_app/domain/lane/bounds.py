"""Shared by the parts of a lane: waits, protection against clock steps, exact shares, range checks of policies."""

from fractions import Fraction
from functools import lru_cache

import msgspec


class Wait(msgspec.Struct, frozen=True):
    """Not now: ask again at `until_ms` (epoch ms), or earlier if the lane's state has changed."""

    until_ms: int


def no_later(until_ms: int, now_ms: int, longest_ms: int) -> int:
    """Return `until_ms`, but at most `longest_ms` from now.

    A later deadline was set before the clock stepped back.
    """
    latest_ms = now_ms + longest_ms
    return until_ms if until_ms <= latest_ms else latest_ms


def out_of_range(policy: msgspec.Struct, **ranges: tuple[float, float]) -> list[str]:
    """Return one line for each key of `policy` outside its (lowest, highest) range. NaN is always outside."""
    return [
        f"{key} = {value!r}: must be from {low:g} to {high:g}"
        for key, (low, high) in ranges.items()
        if not low <= (value := getattr(policy, key)) <= high
    ]


def out_of_order(policy: msgspec.Struct, low: str, high: str) -> list[str]:
    """Return one line if key `low` of `policy` is above key `high`."""
    low_value, high_value = getattr(policy, low), getattr(policy, high)
    return [f"{low} = {low_value!r}: must not be above {high} = {high_value!r}"] if low_value > high_value else []


@lru_cache(maxsize=1_024)
def exact(share: float) -> Fraction:
    """Return the decimal that the operator wrote: 0.9 is nine tenths, not the nearest float.

    A product with a float may miss a whole number: `10 * (1 - 0.9)` is below 1.
    """
    return Fraction(repr(share))
