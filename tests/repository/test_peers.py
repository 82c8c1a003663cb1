"""The servers that systems of `benchmarks.peers` need beside their programs: asked for, and measured with them."""

import io
import subprocess
import sys
from itertools import count
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks import line
from benchmarks.peers import systems
from benchmarks.peers.__main__ import candidates

_RESTATE = next(system for system in systems.SYSTEMS if system.server)


def test_without_npm_a_system_with_a_server_is_left_out_in_one_line_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out = io.StringIO()
    chosen = candidates([_RESTATE.name, systems.OURS], Console(file=out, width=500))
    assert [candidate.system.name for candidate in chosen] == [systems.OURS]
    assert out.getvalue() == (
        "left out: Restate needs npm on the PATH, which brings its server (@restatedev/restate-server@1.7.12): install"
        " Node.js, or leave it out\n"
    )


def test_what_a_server_uses_is_counted_with_its_program() -> None:
    argv = [sys.executable, "-c", "print(flush=True); input()"]
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        numbers = count(1)
        measured = line.measure(processes[0], lambda: next(numbers), 10, processes[1:])
        sizes = [psutil.Process(process.pid).memory_info().rss / 2**20 for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert measured["rss_mb_at_100_percent"] == pytest.approx(sum(sizes), rel=0.1)
