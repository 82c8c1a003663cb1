"""How long a process takes to start: `stream-app --help`, and a worker from exec to its first POST.

`python -m benchmarks.start [--rounds 5] [--json]`. Real Kafka, an instant target in a process of
its own. The time and CPU are the median of the rounds, beside those of an interpreter that does
nothing. Exits with 1 when a goal is missed. On a busy machine the CPU says more than the time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.baselines import instant_target
from benchmarks.line import configure, count, publish
from stream_app.dev.kafka import kafka_for, unused
from stream_app.dev.process import ChildProcesses
from stream_app.domain.model.addresses import WEBHOOK_PATH

LEADS = 40
IN_FLIGHT = 100
TIME_LIMIT_S = 60.0
GOALS_S = {"stream-app --help": 0.2, "worker, to its first POST": 1.0}
NOTHING = "python -c pass"

Cost = tuple[float, float]
"""Seconds, and seconds of CPU."""


def _command(*arguments: str) -> Cost:
    """Run a command to its end."""
    before = _children_s()
    began = time.monotonic()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began, _children_s() - before


def _children_s() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _worker(bootstrap: str, directory: Path) -> Cost:
    """Start a worker whose leads wait, until the target has the first one."""
    with instant_target() as port:
        url = f"http://127.0.0.1:{port}{WEBHOOK_PATH}"
        config, environment, _ = configure(directory, unused("start"), bootstrap, IN_FLIGHT, url)
        asyncio.run(publish(config, environment, LEADS))
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_app", "worker", "--config", str(config)],
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
        )
        try:
            while not count(port):
                if process.poll() is not None or time.monotonic() > began + TIME_LIMIT_S:
                    raise SystemExit("the worker has not posted a lead")
                time.sleep(0.005)
            times = psutil.Process(process.pid).cpu_times()
            return time.monotonic() - began, times.user + times.system
        finally:
            process.terminate()
            process.wait(TIME_LIMIT_S)


def measure(bootstrap: str, directory: Path, rounds: int) -> dict[str, Cost]:
    """Return the median costs of each start."""
    seen: dict[str, list[Cost]] = {}
    for _ in range(rounds):
        seen.setdefault(NOTHING, []).append(_command("-c", "pass"))
        seen.setdefault("stream-app --help", []).append(_command("-m", "stream_app", "--help"))
        seen.setdefault("worker, to its first POST", []).append(_worker(bootstrap, directory))
    return {case: (_median(costs, 0), _median(costs, 1)) for case, costs in seen.items()}


def _median(costs: Sequence[Cost], which: int) -> float:
    return statistics.median(cost[which] for cost in costs)


def main() -> None:
    """Measure, print a table or JSON, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    children = ChildProcesses("bench")
    try:
        with kafka_for(console.print) as kafka:
            costs = measure(kafka.bootstrap, children.directory, arguments.rounds)
    finally:
        children.close()
    if arguments.json:
        Console().print_json(
            data={case: {"s": wall, "cpu_s": cpu} for case, (wall, cpu) in costs.items()},
        )
    else:
        table = Table(
            "start",
            "seconds",
            "CPU seconds",
            title=f"Starts, median of {arguments.rounds}",
        )
        for case, (wall, cpu) in costs.items():
            table.add_row(case, f"{wall:.2f}", f"{cpu:.2f}")
        Console().print(table)
    if missed := [
        f"{case} takes {costs[case][0]:.2f} s"
        for case, goal in GOALS_S.items()
        if costs[case][0] > goal
    ]:
        raise SystemExit(f"{', '.join(missed)}: the goals are {GOALS_S}")


if __name__ == "__main__":
    main()
