"""A whole worker from its start until it has taken all partitions over, with an empty state.

`python -m benchmarks.take_over --partitions 64 --workspaces 1000` runs it. The worker is a process
of its own on real Kafka; nothing is sent. Ready is /readyz; done is when its CPU is idle again,
with every partition bootstrapped.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
from aiokafka import TopicPartition

from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import unused
from stream_app.kafka.readers import Reader
from stream_app.kafka.topics import create_topics

LIMITS = {"ready_s": 10.0, "cpu_s": 8.0, "rss_mb": 300.0}
"""For up to 64 partitions and 1,000 workspaces."""

_PORT = 9161
_WITHIN_S = 300.0
_WEBHOOK = "https://api.clay.com/v3/sources/webhook/"


class TakeOver(msgspec.Struct):
    """Seconds from the start of the process, its CPU seconds, its memory when it is done, and the
    most that it had.
    """

    ready_s: float
    ready_cpu_s: float
    done_s: float
    cpu_s: float
    rss_mb: float
    peak_mb: float


def configuration(
    workspaces: int,
    partitions: int = 8,
    bootstrap: str = "127.0.0.1:9092",
    namespace: str = "",
) -> str:
    """Return the text of a configuration with that many workspaces, each with a destination and a
    budget.
    """
    lines = [
        "[kafka]",
        f'bootstrap = "{bootstrap}"',
        f'namespace = "{namespace}"',
        f"partitions = {partitions}",
        "replication = 1",
        "[http]",
        f"worker_port = {_PORT}",
    ]
    for number in range(workspaces):
        lines += [
            f"[workspaces.w{number:05d}]",
            f"[workspaces.w{number:05d}.budget]",
            f"credits_per_day = {1_000 + number}",
            f"[destinations.d{number:05d}]",
            f'workspace = "w{number:05d}"',
            f'webhooks_env = ["WEBHOOK_{number}"]',
            f'token_env = "TOKEN_{number}"',
            'columns = { email = "Email", linkedin_url = "LinkedIn" }',
            "callbacks = false",
        ]
    return "\n".join(lines) + "\n"


def environment(workspaces: int) -> dict[str, str]:
    """Return the secrets that `configuration` names."""
    hooks = {f"WEBHOOK_{number}": f"{_WEBHOOK}{number}" for number in range(workspaces)}
    return hooks | {f"TOKEN_{number}": f"token-{number}" for number in range(workspaces)}


def take_over_all(
    bootstrap: str,
    partitions: int,
    workspaces: int,
    say: Callable[[str], None],
) -> TakeOver:
    """Create the topics and let one worker take all partitions over."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "stream_app.toml"
        path.write_text(configuration(workspaces, partitions, bootstrap, unused("take-over")))
        settings = load_settings(path, environment(workspaces))
        say(f"{partitions} partitions, {workspaces} workspaces: creating the topics ...")
        report = asyncio.run(
            create_topics(connection_of(settings), settings.topic_plan(), 60.0, say),
        )
        if report.problems:
            raise SystemExit("; ".join(report.problems))
        say(
            "waiting until the broker leads all partitions, and has the topic of the groups' "
            "offsets ...",
        )
        asyncio.run(settled(settings))
        say("taking over ...")
        return measure(path, environment(workspaces))


async def settled(settings: Settings) -> None:
    """Wait until the broker leads all partitions, and has the topic of the groups' offsets."""
    places = [
        TopicPartition(topic.name, number)
        for topic in settings.topic_plan()
        for number in range(topic.partitions)
    ]
    async with Reader(
        connection_of(settings),
        group_id="settled",
        request_timeout_ms=int(_WITHIN_S * 1000),
    ) as reader:
        await reader.ends(places)
        await reader.committed(places[:1])


def measure(path: Path, environ: dict[str, str]) -> TakeOver:
    """Start a worker, wait until it has nothing more to do, and end it."""
    log = path.with_name("worker.log")
    command = [sys.executable, "-m", "stream_app", "worker", "--config", str(path)]
    with log.open("w") as out:
        began = time.perf_counter()
        worker = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
        try:
            process = psutil.Process(worker.pid)

            def spent() -> float:
                times = process.cpu_times()
                return times.user + times.system

            while not _is_ready():
                if worker.poll() is not None or time.perf_counter() - began > _WITHIN_S:
                    raise SystemExit(f"the worker is not ready:\n{log.read_text()[-2_000:]}")
                time.sleep(0.05)
            ready_s = time.perf_counter() - began
            ready_cpu_s = spent()
            done_s = ready_s
            cpu_s = ready_cpu_s
            while True:  # until a second in which it does next to nothing
                time.sleep(1.0)
                now = spent()
                if now - cpu_s < 0.1:
                    break
                done_s = time.perf_counter() - began
                cpu_s = now
            rss_mb = process.memory_info().rss / 2**20
            return TakeOver(
                ready_s,
                ready_cpu_s,
                done_s,
                cpu_s,
                rss_mb,
                _peak_mb(worker.pid, rss_mb),
            )
        finally:
            worker.terminate()
            worker.wait()


def _peak_mb(pid: int, rss_mb: float) -> float:
    """Return the most memory that a process ever had.

    Where the system does not say so, it is what it has now.
    """
    status = Path(f"/proc/{pid}/status")
    text = status.read_text() if status.exists() else ""
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", text, re.M)
    return int(peak[1]) / 1024 if peak else rss_mb


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
