"""A tenth of the schedules runs with `pytest`; the rest is marked slow, and runs beside it for each
change.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeVar

import pytest

from tests.simulation.campaign import explain, run
from tests.simulation.schedule import Schedule
from tests.simulation.world import Outcome

T = TypeVar("T")
A_TENTH: Final = "a tenth"
THE_REST: Final = "the rest"

each_part = pytest.mark.parametrize(
    "part",
    [A_TENTH, pytest.param(THE_REST, marks=pytest.mark.slow)],
)


def of_part(part: str, whole: Iterable[T]) -> list[T]:
    """Return every tenth of them, or all the others."""
    return [
        member for number, member in enumerate(whole) if (number % 10 == 0) == (part == A_TENTH)
    ]


def assert_whole(schedules: Iterable[Schedule]) -> Counter[str]:
    """Run these schedules.

    If one breaks a promise, fail and tell line by line what happened in the first.

    Returns:
        In how many of them an event had this status or reason.
    """
    met: Counter[str] = Counter()

    def done(outcome: Outcome) -> None:
        met.update(outcome.met)

    if failures := run(list(schedules), done=done):
        name, problem = failures[0]
        pytest.fail(
            f"{len(failures)} failed; the first: {name}: {problem}\n{_told(name)}",
            pytrace=False,
        )
    return met


def _told(name: str) -> str:
    try:
        return explain(name)
    except LookupError:  # of a family that has no names to ask for
        return ""
