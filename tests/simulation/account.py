"""What the board counts is compared with the ledger of messy schedules (account_ledger.py).

So is what every place says of each lane, also hours after the last lead (lane_states.py).
"""

import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

from stream_app.board.read_model.store import ReadModel
from tests.simulation.account_counts import (
    counted,
    differences,
    final_of,
    numbers_of_books,
    numbers_of_metrics,
    read_into,
    sources_of,
)
from tests.simulation.account_ledger import Ledger, Numbers
from tests.simulation.lane_states import LATER_MS, wrong_states
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Schedule, drawn
from tests.simulation.world import Outcome, World

_STATES_OF: Final = 3
"""What is said of lanes is compared in each third schedule, because it takes as long as the
account.
"""


class MessyWorld(World):
    """A world without its checks, which others tests make: it has users and operators that no
    promise covers.
    """

    def __init__(self, schedule: Schedule, looks_s: Iterable[float]) -> None:
        super().__init__(schedule)
        self.looks: list[tuple[int, Ledger]] = []
        for at_s in looks_s:
            self.loop.outside(at_s, self.look)

    def look(self) -> None:
        """Keep what is on Kafka now."""
        self.looks.append((self.now_ms(), Ledger(self.plan, self.kafka, self.now_ms())))

    def run(self) -> Outcome:
        silent = {"on_offset", "on_answer", "on_post", "on_commit", "at_rest"}
        with ExitStack() as stack:
            for name in silent:
                stack.enter_context(patch.object(self.checker, name, lambda *_: None))
            for name in ("taken_over", "called_back"):
                stack.enter_context(patch.object(self.checker.answers, name, lambda *_: None))
            stack.enter_context(patch.object(self, "_close_the_books", lambda: None))
            return super().run()


def messy(seed: int) -> Schedule:
    """The drawn schedule of a seed, with imports, records that are no leads, and operators who are
    busy.
    """
    base = drawn(seed)
    chance = Random(f"messy {seed}")
    arrivals: list[Arrival] = []
    for arrival in (*base.arrivals, *(base.arrivals[:3] if chance.random() < 0.5 else ())):
        how = arrival.how
        if not how and chance.random() < 0.3:
            how = chance.choice(("nowhere", "long", "nobody"))
        import_id = chance.choice(("", "march", "april"))
        arrivals.append(
            replace(
                arrival,
                how=how,
                import_id=import_id,
                at_s=arrival.at_s + chance.choice((0.0, 0.2, 90.0)),
            ),
        )
    lead_id = f"id{chance.randrange(4)}"
    workspace = chance.choice(("acme", "beta"))
    orders = (
        Order(
            chance.choice((0.1, 2.0, 400.0)),
            workspace,
            "cancel_import",
            chance.choice(("march", "april")),
        ),
        Order(chance.choice((0.1, 2.0, 400.0)), workspace, "erase", lead_id),
    )
    resolved = (
        Order(500.0, name, "resolve", f"id{number}={chance.choice(('4', '', 'no'))}")
        for name in ("acme", "beta")
        for number in range(4)
    )
    more = tuple(order for order in (*orders, *resolved) if chance.random() < 0.3)
    redrives_s = tuple(
        chance.choice((1.0, 30.0, 300.0, 900.0)) for _ in range(chance.choice((0, 1, 2, 3)))
    )
    ends = Random(f"give up {seed}")
    give_ups_s = tuple(
        ends.choice((1.0, 30.0, 300.0, 700.0)) for _ in range(ends.choice((0, 0, 1, 2)))
    )
    tight = Random(f"budget {seed}")
    if tight.random() < 0.3:  # a budget is used up, for seconds or for days
        name = tight.choice(("acme", "beta"))
        begins = tight.choice((0.0, 0.5, 2.0))
        lasts = tight.choice((5.0, 900.0, 100_000.0))
        more += (Order(begins, name, "budget", "0"), Order(begins + lasts, name, "budget", "200"))
    return replace(
        base,
        name=f"m{seed}",
        arrivals=tuple(arrivals),
        orders=(*base.orders, *more),
        redrives_s=redrives_s,
        give_ups_s=give_ups_s,
    )


Look = tuple[int, Ledger, Numbers]
"""A moment (epoch ms), what was on Kafka then, and what must be counted then."""


def looks_at(schedule: Schedule) -> list[Look]:
    """Run it: two moments in the middle, and its end."""
    chance = Random(f"looks {schedule.seed}")
    world = MessyWorld(
        schedule,
        sorted(chance.choice((0.3, 1.0, 5.0, 40.0, 120.0, 400.0)) for _ in range(2)),
    )
    outcome = world.run()
    assert not outcome.problems, f"{schedule.name}: {outcome.problems[0]}"
    world.look()
    return [(now_ms, ledger, ledger.numbers(now_ms)) for now_ms, ledger in world.looks]


def _estimated(numbers: Numbers) -> Numbers:
    """What the account has estimated in all, by workspace."""
    total: Counter[tuple[str, ...]] = Counter()
    for (kind, *place), value in numbers.items():
        if kind == "estimated" and place[1]:
            total[kind, place[1]] += value
    return {name: value for name, value in total.items() if value}


class Differential:
    """Compares the model with the ledger.

    `met`: how many values that are not 0 of each kind were compared.
    """

    def __init__(self, folder: Path) -> None:
        self.met: Counter[str] = Counter()
        self._folder = folder

    def difference(self, seed: int, looks: list[Look]) -> dict[tuple[str, ...], tuple[int, int]]:
        """What the model counts otherwise than the ledger says: by name, (expected, counted)."""
        plan = looks[0][1].plan
        chance = Random(seed)
        read = dict[tuple[str, int], int]()
        # a model of other plans would be made again, and wiped
        path = self._folder / f"{len(final_of(plan))}.sqlite"
        model = ReadModel(path, sources_of(plan))
        try:
            model.wipe()
            for number, (now_ms, ledger, expected) in enumerate(looks, 1):
                read_into(model, ledger, chance, read)
                self.met.update(_kind(name) for name in expected)
                if wrong := differences(expected, counted(path, plan, now_ms)):
                    return wrong
                if wrong := differences(ledger.not_reported(), _estimated(expected)):
                    return wrong
                told = ledger.told_elsewhere(expected)
                self.met.update(_kind(name) for name in told)
                elsewhere = numbers_of_books(ledger.tape.close()) | numbers_of_metrics(ledger.tape)
                if wrong := differences(told, elsewhere):
                    return wrong
                if seed % _STATES_OF:
                    continue
                is_at_rest = number == len(looks)
                for later_ms in LATER_MS if is_at_rest else LATER_MS[:1]:
                    at_ms = now_ms + later_ms
                    states = wrong_states(
                        plan,
                        ledger.logs,
                        path,
                        at_ms,
                        self.met,
                        is_at_rest=is_at_rest,
                    )
                    if states:
                        return {("lane", text): (0, 1) for text in states}
        finally:
            model.close()
        return {}

    def report(self) -> str:
        """What was compared."""
        lines = [f"{values:8,}  {kind}" for kind, values in sorted(self.met.items())]
        return "\n".join(["", "values that were compared and are not 0:", *lines, ""])


def _kind(name: tuple[str, ...]) -> str:
    return (
        f"{name[0]} {name[-1]}"
        if name[0] in ("import", "yield", "status", "leads.dlq", "leads.parked")
        else name[0]
    )


def main() -> int:
    """`python -m tests.simulation.account [SCHEDULES]`: the run at night."""
    with TemporaryDirectory() as folder:
        differential = Differential(Path(folder))
        wrong = 0
        for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000):
            if difference := differential.difference(seed, looks_at(messy(seed))):
                wrong += 1
                sys.stdout.write(f"schedule m{seed}, (expected, counted): {difference}\n")
        sys.stdout.write(differential.report())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
