"""A tenth of the schedules runs with `pytest`; the rest is marked slow, and runs beside it for each change."""

from collections.abc import Iterable
from typing import Final, TypeVar

import pytest

T = TypeVar("T")
A_TENTH: Final = "a tenth"
THE_REST: Final = "the rest"

each_part = pytest.mark.parametrize("part", [A_TENTH, pytest.param(THE_REST, marks=pytest.mark.slow)])


def of_part(part: str, whole: Iterable[T]) -> list[T]:
    """Return every tenth of them, or all the others."""
    return [each for number, each in enumerate(whole) if (number % 10 == 0) == (part == A_TENTH)]
