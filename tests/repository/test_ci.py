"""The script that CI runs: what it runs, and that it fails when any part of it fails.

Python, pip and pytest are stand-ins here, which write down how they are called.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "{log}"
case "$name $*" in
"python3 -m venv "*) mkdir -p "$3/bin"; for each in pip python pytest; do ln -s "{program}" "$3/bin/$each"; done ;;
*tests.simulation*) echo "5 schedules" ;;
esac
case "$name $*" in
{fails}) exit 1 ;;
esac
"""


class Run(NamedTuple):
    """How the script ended: its exit code, its output, and the programs that it called."""

    code: int
    output: str
    calls: list[str]


def run(tmp_path: Path, fails: str) -> Run:
    """Run the script where the calls that match the shell pattern `fails` fail."""
    programs, log = tmp_path / "programs", tmp_path / "log"
    programs.mkdir()
    program = programs / "python3"
    program.write_text(PROGRAM.format(log=log, program=program, fails=fails))
    program.chmod(0o755)
    (programs / "sleep").symlink_to("/bin/true")  # the pause before a second installation
    for name in ("apt-get", "chromium"):
        (programs / name).symlink_to(program)
    done = subprocess.run(
        [ROOT / ".ci" / "run"],
        env=os.environ | {"PATH": f"{programs}:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return Run(done.returncode, done.stdout, log.read_text().splitlines())


def test_every_stage_runs_and_the_simulation_is_shown(tmp_path: Path) -> None:
    ran = run(tmp_path, "nothing")
    assert ran.code == 0, ran.output
    tests = [call for call in ran.calls if call.startswith("pytest")]
    assert [call.split()[1:3] for call in tests] == [[], ["-m", "long"]]
    assert "python -m tests.simulation" in ran.calls
    assert "5 schedules" in ran.output


@pytest.mark.parametrize("fails", ["pytest*", '"pytest -m long"*', "*tests.simulation*", "pip*"])
def test_it_fails_when_a_stage_fails(tmp_path: Path, fails: str) -> None:
    assert run(tmp_path, fails).code != 0
