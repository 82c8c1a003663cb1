"""How long a lane sends nothing while all workers are restarted, one after the other.

`python -m benchmarks.rolling_restart [--rounds 1] [--without-names] [--json]`. Real Kafka, 4 workers, 8 lanes in 8
partitions, 80 leads a second. Each worker gets SIGTERM, ends, and is started again; the next one follows when it is
ready. The workers are static members (`kafka.instance_env`); `--without-names` measures them without. The longest stand
of a lane is the longest time between two requests of it in the simulator's ledger, from the first SIGTERM until all
lanes send again. Exits with 1 when it is over 2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise

import msgspec
from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import kafka_for, unused
from tests.e2e.fleet import Fleet, Member, Request, now_ms
from tests.e2e.load import Load

WORKERS = 4
LANES = 8
PER_S = 80.0
MOST_S = 2.0
NAME_ENV = "ROLLING_RESTART_NAME"
_WITHIN_S = 90.0
_TERM_S = 60.0
_AFTER_S = 3.0


class Restarts(msgspec.Struct):
    """Seconds: the longest stand of each lane, and of each restart: until the process ended, and until it was ready."""

    lanes: dict[str, float]
    ended: list[float]
    ready: list[float]


async def measure(bootstrap: str, rounds: int, names: bool, progress: Callable[[str], None]) -> Restarts:
    """Restart each worker in turn under load."""
    environment = NAME_ENV if names else ""
    async with Fleet(
        bootstrap, unused("rolling"), LANES, partitions=LANES, session_timeout_s=30, instance_env=environment
    ) as line:
        team = [join(line, number) for number in range(WORKERS)]
        ended_s: list[float] = []
        ready_s: list[float] = []
        async with Load(line, PER_S):
            await line.spread(team, _WITHIN_S)
            began_ms = now_ms()
            for number in range(rounds * WORKERS):
                slot, began = number % WORKERS, time.monotonic()
                await line.stop(team[slot].process, _TERM_S)
                ended_s.append(time.monotonic() - began)
                team[slot] = join(line, slot)
                if names:
                    await team[slot].joined(_WITHIN_S)
                await line.owners(_WITHIN_S)
                ready_s.append(time.monotonic() - began)
                progress(f"restart {number + 1}: ended {ended_s[-1]:.2f} s, all lanes send {ready_s[-1]:.2f} s")
            await asyncio.sleep(_AFTER_S)
            found = longest(line.requests(), line.names, began_ms)
        if line.posted_again():
            raise SystemExit("a lead was POSTed twice: the figures are worth nothing")
    return Restarts(found, ended_s, ready_s)


def join(line: Fleet, slot: int) -> Member:
    """Start the worker of this name."""
    os.environ[NAME_ENV] = f"worker-{slot}"
    return line.join(program=("-m", "stream_app"))  # its start counts


def longest(requests: Iterable[Request], lanes: Iterable[str], after_ms: int) -> dict[str, float]:
    """Return the longest time between two requests of each lane, in seconds."""
    times_ms: dict[str, list[int]] = defaultdict(list)
    for request in requests:
        if request.workspace is not None and request.at_ms >= after_ms:
            times_ms[request.workspace].append(request.at_ms)
    gaps = {name: [later - earlier for earlier, later in pairwise(sorted(times_ms[name]))] for name in lanes}
    return {name: max(each, default=0) / 1000 for name, each in gaps.items()}


def missed(restarts: Restarts) -> str:
    """Which goal was missed, in words; "" if none."""
    slowest = max(restarts.lanes.values())
    return f"a lane stood still for {slowest:.1f} s, the goal is {MOST_S:g}" if slowest > MOST_S else ""


def main() -> None:
    """Measure, print a table or JSON, and exit with 1 when the goal was missed."""
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rolling_restart", description=description)
    parser.add_argument("--rounds", type=int, default=1, help="restarts of each worker")
    parser.add_argument("--without-names", action="store_true", help="workers that leave the group when they stop")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        restarts = asyncio.run(measure(kafka.bootstrap, arguments.rounds, not arguments.without_names, progress))
    if arguments.json:
        sys.stdout.write(json.dumps({**msgspec.to_builtins(restarts), "missed": missed(restarts)}) + "\n")
    else:
        table = Table(title=f"Longest time between two requests of a lane, {WORKERS} workers restarted in turn")
        table.add_column("lane")
        table.add_column("seconds", justify="right")
        for name, seconds in restarts.lanes.items():
            table.add_row(name, f"{seconds:.2f}")
        Console().print(table)
    if problem := missed(restarts):
        raise SystemExit(problem)


if __name__ == "__main__":
    main()
