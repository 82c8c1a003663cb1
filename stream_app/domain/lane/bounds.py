"""What the lane's parts share: a wait, limits on waits when the clock steps, exact shares, range checks of policies."""

from fractions import Fraction
from functools import lru_cache

import msgspec


class Wait(msgspec.Struct, frozen=True):
    """Not now: ask again at `until_ms` (ms since the epoch), or earlier when the lane's state has changed."""

    until_ms: int


def no_later(until_ms: int, now_ms: int, longest_ms: int) -> int:
    """`until_ms`, but at most `longest_ms` from now: a deadline further off was set before the clock
    stepped back.
    """
    latest_ms = now_ms + longest_ms
    return until_ms if until_ms <= latest_ms else latest_ms


def out_of_range(policy: msgspec.Struct, **ranges: tuple[float, float]) -> list[str]:
    """One line for each key of `policy` outside its (lowest, highest) range, in which NaN never is."""
    return [
        f"{key} = {value!r}: must be from {low:g} to {high:g}"
        for key, (low, high) in ranges.items()
        if not low <= (value := getattr(policy, key)) <= high
    ]


def out_of_order(policy: msgspec.Struct, low: str, high: str) -> list[str]:
    """One line if key `low` of `policy` is above key `high`."""
    low_value, high_value = getattr(policy, low), getattr(policy, high)
    return [f"{low} = {low_value!r}: must not be above {high} = {high_value!r}"] if low_value > high_value else []


@lru_cache(maxsize=1_024)
def exact(share: float) -> Fraction:
    """The decimal that an operator wrote: 0.9 is nine tenths, not the float next to it.

    A product with a float may miss a whole number: `10 * (1 - 0.9)` is below 1.
    """
    return Fraction(repr(share))
