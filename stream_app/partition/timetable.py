"""A sorted list with one number for each key, for times and lengths. Nothing takes longer than a binary search."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Generic, TypeVar

K = TypeVar("K", int, str)


class Timetable(Generic[K]):
    """Keys by their number, lowest first."""

    def __init__(self) -> None:
        self._order: list[tuple[int, K]] = []
        self._numbers: dict[K, int] = {}

    def set(self, key: K, number: int | None) -> None:
        """Give a key its number; None removes it."""
        before = self._numbers.get(key)
        if before == number:
            return
        if before is not None:
            del self._order[bisect_left(self._order, (before, key))]
            del self._numbers[key]
        if number is not None:
            insort(self._order, (number, key))
            self._numbers[key] = number

    @property
    def lowest(self) -> int | None:
        """The lowest number; None if there is no key."""
        return self._order[0][0] if self._order else None

    @property
    def highest_key(self) -> K:
        """The key with the highest number. There must be one."""
        return self._order[-1][1]

    def pop_until(self, number: int) -> list[K]:
        """Remove and return the keys up to this number, lowest first."""
        end = bisect_left(self._order, (number + 1,))
        keys = [key for _, key in self._order[:end]]
        for key in keys:
            del self._numbers[key]
        del self._order[:end]
        return keys
