"""The cost of `stream-app results` for many results: seconds, and memory at the peak.

`python -m benchmarks.results [--leads 1000000] [--json]`. Writes results, rows and aliases of so
many leads to Kafka (benchmarks/read_model.py), and a CSV of the leads; then exports them as CSV,
alone and joined to that file, each in a process of its own, whose resident memory is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.read_model import PARTITIONS, fill
from stream_app.board.read_model.store import Sources
from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.model.topics import Retention, TopicNames
from stream_app.kafka.topics import create_topics


def settings_for(folder: Path, bootstrap: str, namespace: str) -> tuple[Path, Settings]:
    """A configuration of the benchmark's workspaces."""
    config = folder / "stream_app.toml"
    tables = "".join(
        f"[workspaces.w{number}]\n"
        f'[destinations.people{number}]\nworkspace = "w{number}"\nwebhooks_env = ["NONE"]\n'
        "callbacks = false\n"
        for number in range(PARTITIONS)
    )
    kafka = (
        f'[kafka]\nbootstrap = "{bootstrap}"\nnamespace = "{namespace}"\npartitions = '
        f"{PARTITIONS}\nreplication = 1\n"
    )
    config.write_text(kafka + tables)
    return config, load_settings(config, os.environ, ())


def write_leads(file: Path, leads: int) -> None:
    """The leads as they were published."""
    with file.open("w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(["lead_id", "workspace", "destination", "email"])
        for partition in range(PARTITIONS):
            for number in range(leads // PARTITIONS):
                lead_id = f"crm-{partition}-{number:08}-0123456789abcdef"
                lines.writerow(
                    [lead_id, f"w{partition}", f"people{partition}", f"person{number}@example.com"],
                )


def run(*argv: str) -> tuple[dict[str, Any], float, resource.struct_rusage]:
    """Run a command of `stream-app` in its own process.

    Returns its JSON, its seconds and its resources.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "stream_app", *argv, "--json"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)  # the children's sum would count Kafka's JVM, too
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"stream-app {argv[0]} ended with {process.returncode}")
    return json.loads(output), time.perf_counter() - began, used


def measure(config: Path, out: Path, *more: str) -> dict[str, float]:
    """One export."""
    done, seconds, used = run("results", "--config", str(config), "-o", str(out), *more)
    return {
        "results": done["results"],
        "lines": done["lines"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "rss_at_peak_mb": round(used.ru_maxrss / 1024),
        "file_mb": round(out.stat().st_size / 1e6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    namespace = unused("results")
    with (
        kafka_for(Console(stderr=True).print) as kafka,
        tempfile.TemporaryDirectory(prefix="results-") as name,
    ):
        folder = Path(name)
        config, settings = settings_for(folder, kafka.bootstrap, namespace)
        asyncio.run(
            create_topics(connection_of(settings), settings.topic_plan(), 60, lambda _: None),
        )
        sources = Sources(TopicNames(namespace), PARTITIONS, Retention(), frozenset({"acme"}))
        asyncio.run(fill(kafka.bootstrap, sources, args.leads, time.time_ns() // 1_000_000))
        write_leads(folder / "leads.csv", args.leads)
        figures = {
            "alone": measure(config, folder / "alone.csv"),
            "joined": measure(config, folder / "joined.csv", "--join", str(folder / "leads.csv")),
        }
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for what, measured in figures.items():
            Console().print(
                what,
                ", ".join(f"{name} {figure}" for name, figure in measured.items()),
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
