"""How soon a fall of the yield is told, and how often one is told that is none.

    python -m benchmarks.yield_alarms [HISTORIES] [DAYS]

A quiet history has lists of leads of which Clay knows 20 to 70 %: one after another, several a day,
in turn, or beside leads without an import. Each history begins with nothing known.
"""

import math
import sys
import time
from collections.abc import Iterator
from random import Random
from typing import Final

from stream_app.domain.limits.yield_health import ColumnYieldHealth, after_answer

DAY_MS: Final = 86_400_000
_STREAM: Final = 0
"""The list of the leads without an import."""
_MAX_ANSWERS: Final = 3_000  # a fall that is not told by then has been learned
FALLS: Final = ((0.6, 0.2, 100), (0.2, 0.07, 500))
"""Level before, level after, and answers within which the fall must be told."""


def false_alarms(seed: int, days: int, largest: int = 3_000) -> int:
    """Return how often a fall is told in a quiet history.

    Args:
        seed: Of the history.
        days: How long it is.
        largest: Answers of the largest list. Sizes are drawn evenly by their logarithm, from 30.
    """
    chance = Random(f"quiet {seed}")
    column = ColumnYieldHealth()
    alarms = 0
    for at_ms, list_id, level in _answers(chance, days, largest):
        after = after_answer(column, list_id, chance.random() < level, 6, at_ms)
        alarms += after.fell_ms > 0 == column.fell_ms
        column = after
    return alarms


def _answers(chance: Random, days: int, largest: int) -> Iterator[tuple[int, int, float]]:
    """Yield the answers of a quiet history: time (epoch ms), list, and the level of the list."""
    kind = chance.choice(("a list a day", "lists in sequence", "lists in turn", "with a stream"))
    level = chance.uniform(0.2, 0.7)
    number = 0
    for day in range(1, days + 1):
        lists: list[tuple[int, float]] = []
        for _ in range(1 if kind == "a list a day" else chance.randint(0, 4)):
            number += 1
            size = int(math.exp(chance.uniform(math.log(30), math.log(largest))))
            lists += [(number, chance.uniform(0.2, 0.7))] * size
        if kind == "with a stream":
            lists += [(_STREAM, level)] * chance.randint(50, 500)
        if kind in ("lists in turn", "with a stream"):
            chance.shuffle(lists)
        for place, (list_id, of_list) in enumerate(lists):
            yield day * DAY_MS + place * 1_000, list_id, of_list


def delay(seed: int, before: float, after: float, answers: int = 2_000) -> int:
    """Return after how many answers a fall within a list is told."""
    chance = Random(f"fall {seed}")
    column = ColumnYieldHealth()
    for _ in range(answers):
        column = after_answer(column, 1, chance.random() < before, 6, 1)
    if column.fell_ms:
        return 0
    told = 0
    while not column.fell_ms and told < _MAX_ANSWERS:
        told += 1
        column = after_answer(column, 1, chance.random() < after, 6, 1)
    return told


def main() -> None:
    """Print both figures."""
    histories = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    days = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    for before, after, within in FALLS:
        for answers in (300, 1_000, 2_000):
            told = sorted(delay(seed, before, after, answers) for seed in range(500))
            share = sum(0 < many <= within for many in told) / len(told)
            sys.stdout.write(
                f"{before:.0%} to {after:.0%} after {answers:,} answers: {share:.1%} within "
                f"{within}, median {told[len(told) // 2]}, 99 % within {told[494]}\n",
            )
    began_s = time.monotonic()
    alarms = sum(false_alarms(seed, days) for seed in range(histories))
    sys.stdout.write(
        f"{alarms} false alarms in {histories * days:,} quiet days of {histories:,} histories: "
        f"{1_000 * alarms / (histories * days):.2f} in 1,000 days "
        f"({time.monotonic() - began_s:.0f} s)\n",
    )


if __name__ == "__main__":
    main()
