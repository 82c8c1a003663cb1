"""What a lead costs the worker, beside a stock Faust agent and a bare loop without any promise.

`python -m benchmarks.line [--leads 20000] [--rounds 3] [--lanes 8] [--in-flight 800] [--json]`.
Real Kafka, an instant target in a process of its own, each case a process of its own on topics of
its own. The cases run in turn, and the table has the medians of the rounds, because the pace of a
machine changes within minutes.

Each lane has a partition. 800 in flight are 100 for each of eight lanes, which is the default of
`delivery.max_in_flight`; with fewer, a lead pays for a larger part of its transactions. A lane
sends at most 1,000 leads/s, whatever its configuration says. Four lanes (`--lanes 4 --in-flight
400`) are slower than a fast machine, so that leads wait for their lanes, and a lead that waits
costs more. The bare loop never has more than 400 in flight, because with 800 connections each of
its leads costs it a quarter more.

CPU is the case's whole process between the first tenth of the leads and the last one, as the
operating system counts it; memory is its resident size at both ends, and that of a fresh worker
which has read the same rows: these the freshness window has to remember, and nothing else may grow.
It fails when the worker has 15 MB more than the fresh one, and when a lead costs it more than 2.7
times what it costs the bare loop of the same run.

The rows: `worker` is `stream-app worker` as users run it (write-ahead, status events, transactions,
lane decisions); `slow-loop` is the same without uvloop; `bare` is aiokafka + aiohttp, `in_flight`
tasks, acks whenever (loses and doubles leads); `stock` is a Faust agent that awaits a default httpx
client, one lead at a time a partition, as most people write it.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.baselines import instant_target
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import kafka_for, unused
from stream_app.dev.process import ChildProcesses, free_port
from stream_app.domain.model.addresses import WEBHOOK_PATH

LANES = 8
LANE_PER_S = 1_000  # the most that a configuration may name
BURST = 10_000
TIME_LIMIT_S = 300.0
FRESH_WITHIN_S = 60.0
BEYOND_ROWS_MB = 15.0
WORKERS = ("worker", "slow-loop")
BARE_IN_FLIGHT = 400
MAX_TIMES_BARE = 2.7
CASES = ("bare", "worker", "slow-loop", "stock")
WITHOUT_UVLOOP = (
    "import sys; sys.modules['uvloop'] = None; from stream_app.cli.main import main; main()"
)
CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
namespace = "{namespace}"
partitions = {partitions}
replication = 1
[delivery]
max_in_flight = {in_flight}
[http]
worker_port = {port}
replay_port = {port2}
"""
LANE = """
[workspaces.w{n}]
partition = {n}
budget.unlimited = true
[workspaces.w{n}.rate]
rate_per_s = {per_s}
burst = {burst}
[workspaces.w{n}.quota]
warn_at = 49000
rotate_at = 50000
[destinations.d{n}]
workspace = "w{n}"
webhooks_env = ["BENCH_WEBHOOKS_{n}"]
callbacks = false
allowed_hosts = ["127.0.0.1"]
"""


class _Bench:
    """One run: a broker, a target and the cases one after the other."""

    def __init__(
        self,
        bootstrap: str,
        children: ChildProcesses,
        lanes: int,
        in_flight: int,
    ) -> None:
        self._bootstrap = bootstrap
        self._children = children
        self._lanes = lanes
        self._in_flight = in_flight

    def run(self, case: str, leads: int) -> dict[str, float]:
        """Publish, start the case's process, and measure it from the first tenth to the end."""
        directory = self._children.directory
        peers = [sys.executable, "-m", "benchmarks.baselines"]
        with instant_target() as port:
            url = f"http://127.0.0.1:{port}{WEBHOOK_PATH}"
            namespace = unused(case)
            config, environment, metrics = configure(
                directory,
                namespace,
                self._bootstrap,
                self._in_flight,
                url,
                self._lanes,
            )
            asyncio.run(publish(config, environment, leads, self._lanes))
            topic = f"{namespace}leads"
            arguments = ["worker", "--config", str(config)]
            command = {
                "worker": [sys.executable, "-m", "stream_app", *arguments],
                "slow-loop": [sys.executable, "-c", WITHOUT_UVLOOP, *arguments],
                "bare": [
                    *peers,
                    "bare",
                    self._bootstrap,
                    topic,
                    url,
                    str(min(self._in_flight, BARE_IN_FLIGHT)),
                ],
                "stock": [*peers, "stock", self._bootstrap, topic, url],
            }[case]
            log = (directory / f"{case}.log").open("wb")
            environment = {**os.environ, **environment}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                row = measure(process, lambda: count(port), leads)
                rows = _rows(metrics) if case in WORKERS else 0
            finally:
                process.terminate()
                process.wait(60)
            if case in WORKERS:
                row["rss_mb_of_a_fresh_one"] = _fresh_mb(command, environment, metrics, rows)
            return row


def configure(
    directory: Path,
    namespace: str,
    bootstrap: str,
    in_flight: int,
    url: str,
    lanes: int = 4,
) -> tuple[Path, dict[str, str], int]:
    """A config file with a partition for each lane, its environment, and the port of the worker's
    metrics.
    """
    metrics = free_port()
    config = directory / f"{namespace}toml"
    head = CONFIG.format(
        bootstrap=bootstrap,
        namespace=namespace,
        partitions=lanes,
        in_flight=max(1, in_flight // lanes),
        port=metrics,
        port2=free_port(),
    )
    config.write_text(
        head + "".join(LANE.format(n=n, per_s=LANE_PER_S, burst=BURST) for n in range(lanes)),
    )
    return config, {f"BENCH_WEBHOOKS_{n}": f"{url}w{n}" for n in range(lanes)}, metrics


async def publish(config: Path, environment: dict[str, str], leads: int, lanes: int = 4) -> None:
    """Create the topics, and put the leads on them."""
    from aiokafka import AIOKafkaProducer

    from stream_app.config import load_settings
    from stream_app.kafka.topics import create_topics

    settings = load_settings(config, environment)
    await create_topics(connection_of(settings), settings.topic_plan(), 30, lambda _: None)
    producer = AIOKafkaProducer(
        **connection_of(settings).settings(),
        enable_idempotence=True,
        linger_ms=20,
    )
    await producer.start()
    for n in range(leads):
        lane = n % lanes
        lead = {
            "lead_id": f"lead-{n}",
            "fields": {
                "email": f"person{n}@company{n % 997}.example.com",
                "first_name": "Ada",
                "last_name": f"Lovelace{n}",
                "company_name": f"Company {n % 997}",
                "title": "Head of something that takes a few words to say",
                "notes": "x" * 160,
            },
        }
        await producer.send(
            settings.names.leads,
            json.dumps(lead).encode(),
            f"w{lane}".encode(),
            partition=lane,
        )
    await producer.stop()


def count(port: int) -> int:
    return int(_get(port, "/count"))


def _rows(port: int) -> int:
    lines = _get(port, "/metrics").splitlines()
    return int(
        float(next(line for line in lines if line.startswith("stream_app_rows ")).split()[1]),
    )


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def _fresh_mb(command: list[str], environment: dict[str, str], metrics: int, rows: int) -> float:
    """The resident size of a worker that has read so many rows and has nothing to do."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + FRESH_WITHIN_S
        while _rows_soon(metrics) < rows:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("a fresh worker did not read the rows of the one before")
            time.sleep(0.1)
        return psutil.Process(process.pid).memory_info().rss / 2**20
    finally:
        process.terminate()
        process.wait(60)


def _rows_soon(metrics: int) -> int:
    """0 while the process is not there yet."""
    try:
        return _rows(metrics)
    except (OSError, StopIteration):
        return 0


def measure(
    process: subprocess.Popen[bytes],
    count: Callable[[], int],
    leads: int,
    beside: Sequence[subprocess.Popen[bytes]] = (),
) -> dict[str, float]:
    """From the first tenth of the leads to the last one: what the process used, with those beside
    it.
    """
    seen = [psutil.Process(one.pid) for one in (process, *beside)]
    deadline = time.monotonic() + TIME_LIMIT_S

    def reach(goal: int) -> tuple[int, float, float, float]:
        while (now := count()) < goal:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the case ended or stood still at {now} of {goal} leads")
            time.sleep(0.02)
        cpu_s = sum(times.user + times.system for times in (one.cpu_times() for one in seen))
        return now, cpu_s, time.monotonic(), sum(one.memory_info().rss for one in seen) / 2**20

    first, cpu_first, at_first, rss_first = reach(leads // 10)
    last, cpu_last, at_last, rss_last = reach(leads)
    done = last - first
    return {
        "leads": float(leads),
        "cpu_us_per_lead": (cpu_last - cpu_first) / done * 1e6,
        "leads_per_s": done / (at_last - at_first),
        "rss_mb_at_10_percent": rss_first,
        "rss_mb_at_100_percent": rss_last,
    }


def main() -> None:
    """Run all cases, print a table or JSON, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.line",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument(
        "--leads",
        type=int,
        default=20_000,
        help="leads for each case (stock gets a tenth)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each case runs")
    parser.add_argument(
        "--lanes",
        type=int,
        default=LANES,
        help="lanes, each in a partition of its own",
    )
    parser.add_argument(
        "--in-flight",
        type=int,
        default=800,
        help="leads in flight in all partitions together",
    )
    parser.add_argument("--only", choices=CASES, help="one case alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # topics this new have no leader for a moment
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console(stderr=True)
    cases = [arguments.only] if arguments.only else CASES
    rounds_of: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    children = ChildProcesses("bench")
    try:
        with kafka_for(console.print) as kafka:
            bench = _Bench(kafka.bootstrap, children, arguments.lanes, arguments.in_flight)
            for number in range(arguments.rounds):
                for case in cases:
                    console.print(f"round {number + 1} of {arguments.rounds}: {case} ...")
                    rounds_of[case].append(
                        bench.run(case, arguments.leads // (10 if case == "stock" else 1)),
                    )
    finally:
        children.close()
    rows = {case: _median(rounds) for case, rounds in rounds_of.items()}
    if arguments.json:
        Console().print_json(data=rows)
    else:
        _show(rows, arguments)
    if problem := missed(rows):
        raise SystemExit(problem)


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def missed(rows: dict[str, dict[str, float]]) -> str:
    """Which goal was missed, in words; "" if none."""
    worker = rows.get("worker")
    if worker is None:
        return ""
    beyond_mb = worker["rss_mb_at_100_percent"] - worker["rss_mb_of_a_fresh_one"]
    if beyond_mb > BEYOND_ROWS_MB:
        return f"the worker has {beyond_mb:.0f} MB more than a fresh one with the same rows"
    times = worker["cpu_us_per_lead"] / rows["bare"]["cpu_us_per_lead"] if "bare" in rows else 0.0
    if times > MAX_TIMES_BARE:
        return (
            f"a lead costs the worker {times:.2f} times the bare loop, the goal is {MAX_TIMES_BARE}"
        )
    return ""


def _show(rows: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    title = (
        f"One lead; {arguments.lanes} lanes, {arguments.in_flight} in flight, median of "
        f"{arguments.rounds} rounds"
    )
    table = Table(title=title)
    for column in (
        "case",
        "CPU us a lead",
        "x bare",
        "leads/s",
        "MB at 10 %",
        "MB at 100 %",
        "a fresh one MB",
    ):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case, row in rows.items():
        ratio = (
            f"{row['cpu_us_per_lead'] / rows['bare']['cpu_us_per_lead']:.2f}"
            if "bare" in rows
            else ""
        )
        table.add_row(
            case,
            f"{row['cpu_us_per_lead']:.0f}",
            ratio,
            f"{row['leads_per_s']:.0f}",
            f"{row['rss_mb_at_10_percent']:.0f}",
            f"{row['rss_mb_at_100_percent']:.0f}",
            f"{row['rss_mb_of_a_fresh_one']:.0f}" if case in WORKERS else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
