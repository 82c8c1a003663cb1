"""How long a lane sends nothing when its worker dies: from kill -9 to the first POST by another
worker.

`python -m benchmarks.failover [--runs 20] [--json]`. Real Kafka, three workers under a steady load,
a session timeout of 6 s. Each run kills one of them and waits, in the ledger of the simulator, for
the first request of each lane that it owned; then a new worker takes its place. One lane is one
measurement. Exits with 1 when p95 is longer than the session timeout + 1 s, or one lane took longer
than the session timeout + 4 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import kafka_for, unused
from tests.e2e.fleet import Fleet, now_ms
from tests.e2e.load import Load

SESSION_S = 6.0
WORKERS = 3
LANES = 6
PER_S = 60.0
_STRAGGLERS_MS = 500  # what the dead worker had sent may be read by Clay a moment later
_WITHIN_S = 60.0
P95_S = SESSION_S + 1.0
MAX_STOP_S = SESSION_S + 4.0


async def measure(bootstrap: str, runs: int, progress: Callable[[str], None]) -> list[list[float]]:
    """For each run the seconds that each lane of the dead worker stood still."""
    gaps: list[list[float]] = []
    async with Fleet(bootstrap, unused("failover"), LANES, partitions=LANES) as line:
        team = [line.join() for _ in range(WORKERS)]
        async with Load(line, PER_S):
            for run in range(runs):
                owners = await line.spread(team, _WITHIN_S)
                victim = team[run % WORKERS]
                lanes = [name for name, owner in owners.items() if owner is victim]
                killed_ms = now_ms()
                await asyncio.to_thread(victim.kill)
                moved = await line.first_request(lanes, killed_ms + _STRAGGLERS_MS, _WITHIN_S)
                gaps.append([(_STRAGGLERS_MS + ms) / 1000 for ms in moved.values()])
                progress(f"run {run + 1} of {runs}: {', '.join(f'{s:.2f}' for s in gaps[-1])} s")
                team[run % WORKERS] = line.join()
        if line.posted_again():
            raise SystemExit("a lead was POSTed twice: the figures are worth nothing")
    return gaps


def spread_of(values: list[float]) -> dict[str, float]:
    """The distribution, in seconds."""
    at = statistics.quantiles(values, n=20, method="inclusive")
    return {"min": min(values), "p50": at[9], "p90": at[17], "p95": at[18], "max": max(values)}


def missed(runs: list[list[float]]) -> str:
    """Which goal was missed, in words; "" if none."""
    seen = spread_of([s for run in runs for s in run])
    if seen["max"] > MAX_STOP_S:
        return f"a lane stood still for {seen['max']:.1f} s, the goal is {MAX_STOP_S:g}"
    return f"p95 is {seen['p95']:.2f} s, the goal is {P95_S:g}" if seen["p95"] > P95_S else ""


def main() -> None:
    """Measure, print a table or JSON, and exit with 1 when the goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.failover",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.runs < 2:
        parser.error("--runs must be at least 2: there is no distribution of one")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        runs = asyncio.run(measure(kafka.bootstrap, arguments.runs, progress))
    rows = {
        "each lane": spread_of([s for run in runs for s in run]),
        "a run's slowest": spread_of(list(map(max, runs))),
    }
    if arguments.json:
        report = {
            "session_timeout_s": SESSION_S,
            "runs": runs,
            "seconds": rows,
            "missed": missed(runs),
        }
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _show(rows, len(runs))
    if problem := missed(runs):
        raise SystemExit(problem)


def _show(rows: dict[str, dict[str, float]], runs: int) -> None:
    table = Table(
        title=(
            f"Seconds from kill -9 to another worker's first POST, {runs} runs, session "
            f"{SESSION_S:g} s"
        ),
    )
    for column in ("", *next(iter(rows.values()))):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
