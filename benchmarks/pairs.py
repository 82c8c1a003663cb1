"""What a lead costs the worker of this checkout, beside the worker of another checkout.

`python -m benchmarks.pairs CHECKOUT [--leads 100000] [--rounds 3] [--at-most 1.1] [--json]`, for
example after `git worktree add ../before v0.1.0`. Real Kafka, an instant target for each worker,
topics of its own for each. It needs Linux.

The pace of a machine changes by half within minutes, so that the figures of two runs in turn say
nothing about a few percent. Here both workers run at the same moment on the same core, where they
meet the same pace, and the ratios of two rounds differ by about one percent. With 20,000 leads they
differ by up to six, because the measurement is short and begins at the first tenth of the leads,
when a worker may have read most of the others already. The figures are higher than those of
`benchmarks.line`, because each worker finds the caches of the core as the other one left them.

It fails when the median of the ratios is above `--at-most`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

# In the process of a checkout, all of these are its own, and an old one lacks newer names. What
# only this checkout needs is therefore imported where it is used.
from benchmarks.line import LANES, TIME_LIMIT_S, configure, count, measure, publish
from stream_app.dev.kafka import kafka_for, unused
from stream_app.dev.process import ChildProcesses, last_words
from stream_app.domain.model.addresses import WEBHOOK_PATH

HERE = Path(__file__).resolve().parents[1]
SIDE = "--side"
IN_FLIGHT = 800
END_WITHIN_S = 60
AT_MOST = 1.1
PUBLISHED_FOR_EACH = 1.25
"""Leads that are published for each measured one, so that the faster worker has something to do
until the slower one is measured.
"""


class _Side:
    """The worker of one checkout, in a process that imports from this checkout.

    The process runs this file by its path, because the other checkout may not have it.
    """

    def __init__(self, checkout: Path, *arguments: str) -> None:
        self._checkout = checkout
        self._process = subprocess.Popen(
            [sys.executable, __file__, SIDE, *arguments],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read_line(self) -> str:
        """Return the next line of its output. Raises SystemExit if it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self._checkout} was not measured: see above")
        return line

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def close(self) -> None:
        # The end of its input ends each wait of the process but that of `measure`, which has its
        # own limit. The process stops its worker after that.
        self._process.communicate(timeout=TIME_LIMIT_S + END_WITHIN_S)


def run_pair(checkouts: Sequence[Path], bootstrap: str, leads: int) -> list[float]:
    """Run the workers of the checkouts once. Returns what a lead costs each, in us of CPU."""
    from benchmarks.baselines import instant_target

    core = min(os.sched_getaffinity(0))
    with ExitStack() as stack:
        sides: list[_Side] = []
        for checkout in checkouts:
            port = stack.enter_context(instant_target())
            side = _Side(checkout, bootstrap, str(port), str(leads), str(core))
            stack.callback(side.close)
            sides.append(side)
        for side in sides:
            side.read_line()  # its leads are published
        for side in sides:
            side.go()
        return [float(side.read_line()) for side in sides]


def run_side(bootstrap: str, port: int, leads: int, core: int) -> None:
    """Publish the leads, wait for a line, run the worker, and print the CPU of a lead in us.

    The worker runs until the input ends.
    """
    with closing(ChildProcesses("pairs")) as children:
        directory = children.directory
        config, webhooks, _ = configure(
            directory,
            unused("pairs"),
            bootstrap,
            IN_FLIGHT,
            f"http://127.0.0.1:{port}{WEBHOOK_PATH}",
            LANES,
        )
        asyncio.run(publish(config, webhooks, int(leads * PUBLISHED_FOR_EACH), LANES))
        _say("ready")
        if not sys.stdin.readline():
            return
        log = directory / "worker.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "stream_app", "worker", "--config", str(config)],
                env={**os.environ, **webhooks},
                stdout=output,
                stderr=output,
            )
        try:
            psutil.Process(worker.pid).cpu_affinity([core])
            row = measure(worker, lambda: count(port), leads)
            _say(str(row["cpu_us_per_lead"]))
            # The worker goes on until the other one is measured, too, which would otherwise have
            # the core to itself at the end.
            sys.stdin.readline()
        except SystemExit as error:
            raise SystemExit(f"{error}; its last words: {last_words(log)}") from error
        finally:
            worker.terminate()
            worker.wait(END_WITHIN_S)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run all rounds, print a table or JSON, and exit with 1 when this checkout costs too much."""
    # topics this new have no leader for a moment
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if sys.argv[1:2] == [SIDE]:
        bootstrap, port, leads, core = sys.argv[2:]
        run_side(bootstrap, int(port), int(leads), int(core))
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("checkout", type=Path, help="the folder of the other checkout")
    parser.add_argument("--leads", type=int, default=100_000, help="measured leads of each worker")
    parser.add_argument("--rounds", type=int, default=3, help="how often both run")
    parser.add_argument(
        "--at-most",
        type=float,
        default=AT_MOST,
        help="the highest median of the ratios that passes",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    other = arguments.checkout.resolve()
    if not (other / "benchmarks" / "line.py").is_file():
        parser.error(f"{arguments.checkout} has no benchmarks/line.py: name another checkout")
    console = Console(stderr=True)
    rounds: list[tuple[float, float]] = []
    with kafka_for(console.print) as kafka:
        for number in range(arguments.rounds):
            console.print(f"round {number + 1} of {arguments.rounds} ...")
            # The one that starts first has a small advantage, so they take turns.
            if number % 2 == 0:
                this_us, other_us = run_pair([HERE, other], kafka.bootstrap, arguments.leads)
            else:
                other_us, this_us = run_pair([other, HERE], kafka.bootstrap, arguments.leads)
            rounds.append((this_us, other_us))
    if arguments.json:
        figures = [{"this_us": this_us, "other_us": other_us} for this_us, other_us in rounds]
        Console().print_json(data={"rounds": figures, "ratio": ratio_of(rounds)})
    else:
        _show(rounds)
    if problem := missed(rounds, arguments.at_most):
        raise SystemExit(problem)


def ratio_of(rounds: list[tuple[float, float]]) -> float:
    """Return the median, over the rounds, of the cost here divided by the cost in the other."""
    return statistics.median(this_us / other_us for this_us, other_us in rounds)


def missed(rounds: list[tuple[float, float]], at_most: float) -> str:
    """Why this checkout costs too much, in words; "" if it does not."""
    ratio = ratio_of(rounds)
    if ratio <= at_most:
        return ""
    return f"a lead costs {ratio:.2f} times what it costs the other checkout, the goal is {at_most}"


def _show(rounds: list[tuple[float, float]]) -> None:
    table = Table(title="CPU of one lead, on one core")
    table.add_column("round")
    for column in ("this us", "other us", "ratio"):
        table.add_column(column, justify="right")
    for number, (this_us, other_us) in enumerate(rounds, 1):
        table.add_row(
            str(number),
            f"{this_us:.0f}",
            f"{other_us:.0f}",
            f"{this_us / other_us:.3f}",
        )
    table.add_row("median", "", "", f"{ratio_of(rounds):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
