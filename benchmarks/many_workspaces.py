"""What each process and command costs with 10,000 workspaces: CPU, time and memory.

`python -m benchmarks.many_workspaces [--workspaces 10000] [--json]`. Real Kafka, empty topics. A
process counts until it is ready, a command until it ends. `wrong` is a configuration in which three
workspaces are wrong: the command must name them. The CPU is of our process alone; exits with 1 if
one takes 3 s of it, or 300 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.whole_worker import configuration, environment
from stream_app.config import load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import kafka_for, unused
from stream_app.kafka.topics import create_topics

LIMITS = {"cpu_s": 3.0, "rss_mb": 300.0}
PARTITIONS = 8
_PORTS = {"worker": 9171, "replay": 9172, "gateway": 9174}
_WITHIN_S = 120.0
COMMANDS = (
    "topics",
    "lanes",
    "lanes --json",
    "explain",
    "lanes log",
    "dlq",
    "replay plan",
    "suppress list",
    "clay-setup d00042",
    "publish {leads} --dry-run",
    "results",
    "books",
)
"""`{leads}` is a file with one lead."""


class Cost(msgspec.Struct):
    """What one took. `ended` is its exit code, or `ready`."""

    name: str
    seconds: float
    cpu_s: float
    rss_mb: float
    ended: str

    @property
    def missed(self) -> list[str]:
        """The limits that it missed."""
        return [
            f"{self.name}: {key} = {getattr(self, key):.1f}"
            for key, most in LIMITS.items()
            if getattr(self, key) >= most
        ]


def _ports() -> str:
    return "\n".join(
        [
            f"worker_port = {_PORTS['worker']}",
            f"replay_port = {_PORTS['replay']}",
            "gateway_port = 9173",
            f"gateway_ops_port = {_PORTS['gateway']}",
        ],
    )


def _run(name: str, argv: list[str], environ: dict[str, str], log: Path, port: int | None) -> Cost:
    """Run until it ends, or until its port says that it is ready."""
    command = [sys.executable, "-m", "stream_app", *argv]
    with log.open("w") as out:
        began = time.perf_counter()
        child = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
        ready = False
        while port is not None and not (ready := _is_ready(port)):
            if child.poll() is not None or time.perf_counter() - began > _WITHIN_S:
                break
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        if port is not None:
            child.kill()
        _, status, usage = os.wait4(child.pid, 0)
    if port is None:
        seconds = time.perf_counter() - began
    ended = "ready" if ready else str(os.waitstatus_to_exitcode(status))
    return Cost(name, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, ended)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def measure(bootstrap: str, workspaces: int, directory: Path) -> Iterator[Cost]:
    """Yield the cost of each process and command."""
    path = directory / "stream_app.toml"
    leads = directory / "leads.csv"
    log = directory / "log"
    text = configuration(workspaces, PARTITIONS, bootstrap, unused("many"))
    text = text.replace("worker_port = 9161", _ports())
    path.write_text(text)
    leads.write_text("email,workspace\nada@example.com,w00042\n")
    environ = {**environment(workspaces), "HOME": str(directory)}
    settings = load_settings(path, environ)
    asyncio.run(create_topics(connection_of(settings), settings.topic_plan(), 60.0, print))
    for name, port in _PORTS.items():
        yield _run(name, [name, "--config", str(path)], environ, log, port)
    for line in COMMANDS:
        argv = [word.format(leads=leads) for word in line.split()]
        yield _run(line, [*argv, "--config", str(path)], environ, log, None)
    wrong = text.replace("credits_per_day = 1042", "credits_per_day = -1").replace(
        'workspace = "w00077"',
        'workspace = "w77"',
    )
    path.write_text(wrong + "[workspaces.w00099.rate]\nburst = 0\n")
    yield _run("wrong", ["lanes", "--config", str(path)], environ, log, None)
    log_text = log.read_text()
    missing = [name for name in ("w00042", "w77", "w00099") if name not in log_text]
    assert not missing, f"{missing} are not named in:\n{log_text}"


def main() -> None:
    """Measure each, and exit with 1 if one misses a limit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_workspaces",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--workspaces", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, kafka_for(Console(stderr=True).print) as kafka:
        rows = list(measure(kafka.bootstrap, arguments.workspaces, Path(directory)))
    if arguments.json:
        Console().print_json(data=msgspec.to_builtins(rows))
    else:
        table = Table(
            "process or command",
            "s",
            "CPU s",
            "MB",
            "ended",
            title=f"{arguments.workspaces:,} workspaces",
        )
        for row in rows:
            table.add_row(
                row.name,
                f"{row.seconds:.1f}",
                f"{row.cpu_s:.2f}",
                f"{row.rss_mb:.0f}",
                row.ended,
            )
        Console().print(table)
    if failed := [line for row in rows for line in row.missed]:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
