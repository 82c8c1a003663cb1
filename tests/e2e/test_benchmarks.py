"""Each benchmark runs to its end with a small load: docs/figures.md states what it prints with the
whole one.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.pace import slowness

SMALL: Final = {
    "board": "--leads 2000 --lanes 20 --times 2",
    "books": "--leads 2000",
    "copies": "--leads 200",
    "dead_letters": "--dead-letters 500 --suppressed 10",
    "failover": "--runs 2",
    "goodput": "--case breaker --steady-s 10 --around-s 10 --outage-s 10",
    "hot_lane": "--bulk 200 --hot 10",
    "http_client": "--requests 200",
    "keepalive": "--leads 10",
    "lane": "--leads 500",
    "line": "--leads 2000 --rounds 1",
    "many_workspaces": "--workspaces 100",
    "neighbours": "--lanes 2 --seconds 4",
    "pairs": ". --leads 2000 --rounds 1",
    "publish": "--rows 2000",
    "read_model": "--leads 2000",
    "results": "--leads 2000",
    "routines": "--leads 200 --case webhook --case polled --case notified",
    "safety": "--leads 4000",
    "start": "--rounds 1",
    "take_over": "--leads 2000",
    "waiting": "--waiting 500 --sorting 50",
    "worker_memory": "--leads 2000",
    "yield_alarms": "20 2",
}
"""Benchmark -> the arguments of a small load."""

PARTS: Final = {"baselines", "lead_rows", "whole_worker", "__init__"}
"""Modules that benchmarks share."""

BENCHMARKS: Final = Path(__file__).parents[2] / "benchmarks"


def test_each_benchmark_has_a_small_load() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == SMALL.keys() | PARTS


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_to_its_end(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMALL[name].split()]
    ended = subprocess.run(
        command,
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
        timeout=240 * slowness(),
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    # 1: a goal was missed, which a small load on a busy machine may do
    assert ended.stdout.strip(), ended.stderr
    assert ended.returncode in (0, 1), ended.stderr
