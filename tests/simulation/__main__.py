"""`python -m tests.simulation`: run many schedules, or one again with its trace.

python -m tests.simulation                    every counted schedule, 3,500 drawn ones, 10,000 with
a tight budget,
                                              3,500 with several lanes in a partition, 3,500 whose
                                              leads go to routines, and 3,500 in which
                                              Kafka misses the end of transactions
python -m tests.simulation --drawn 100000     a longer campaign
python -m tests.simulation --seed 4711        one drawn schedule, reported line by line
python -m tests.simulation --seed fine/crash@57
python -m tests.simulation --seed b4711       one with a tight budget
python -m tests.simulation --seed n4711       one with several lanes in a partition
python -m tests.simulation --seed p4711       one whose leads go to routines
python -m tests.simulation --seed r4711       one in which Kafka misses the end of transactions
python -m tests.simulation --seed 4711 --mutant no_fence
"""

import argparse
import os
import sys
import time
from itertools import chain

from rich.console import Console
from rich.progress import Progress

from tests.simulation.all_mutants import MUTANTS
from tests.simulation.bases import rare
from tests.simulation.campaign import counted, explain, named, reported, run_all
from tests.simulation.money import budgeted
from tests.simulation.mutant import run_mutant
from tests.simulation.neighbours import crowded
from tests.simulation.recoveries import aborted, interrupted, missed_once, recovered
from tests.simulation.runs import announced, routed
from tests.simulation.schedule import drawn


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Break the line everywhere.",
    )
    parser.add_argument("--seed", help="run this one schedule and tell what happens")
    parser.add_argument(
        "--mutant",
        choices=sorted(MUTANTS),
        help="with --seed: on a line that is broken in this way",
    )
    parser.add_argument(
        "--drawn",
        type=int,
        default=3_500,
        help="how many schedules to draw (default 3500)",
    )
    parser.add_argument(
        "--budgets",
        type=int,
        default=10_000,
        help="how many with a tight budget (default 10000)",
    )
    parser.add_argument(
        "--neighbours",
        type=int,
        default=3_500,
        help="how many with several lanes (default 3500)",
    )
    parser.add_argument(
        "--routines",
        type=int,
        default=3_500,
        help="how many whose leads go to routines, with announcements and without (default 3500)",
    )
    parser.add_argument(
        "--recoveries",
        type=int,
        default=3_500,
        help="how many with missed ends (default 3500)",
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    if args.seed is not None:
        if args.mutant is None:
            text = explain(args.seed)
        else:
            text = "\n".join(
                reported(args.seed, run_mutant(args.mutant, named(args.seed), trace=True)),
            )
        console.print(text, markup=False)
        return 1 if "\nbroken: " in text else 0
    started = time.monotonic()
    ran = 0

    def done(count: int) -> None:
        nonlocal ran
        ran += count
        progress.advance(task, count)

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("schedules", total=None)
        rarely = chain.from_iterable(counted(base.name, thorough=True) for base in rare())
        counts = {
            drawn: args.drawn,
            budgeted: args.budgets,
            crowded: args.neighbours,
            routed: args.routines,
            announced: args.routines,
            recovered: args.recoveries,
        }
        of_seeds = (
            map(draw, range(args.first, args.first + count)) for draw, count in counts.items()
        )
        broken = interrupted([*missed_once(), *aborted()])
        schedules = chain(counted(thorough=True), rarely, broken, *of_seeds)
        failures = run_all(schedules, args.processes, done)
    console.print(f"{ran} schedules in {time.monotonic() - started:.0f} s, {len(failures)} broken")
    for name, problem in failures[:20]:
        console.print(f"{name}: {problem}", markup=False)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
