"""The script that CI runs: what it runs, and that it fails when any part of it fails.

Python, pip, uv and pytest are stand-ins here, which write down how they are called.
"""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.pace import BUSY

ROOT = Path(__file__).parents[2]
MARK = "pytest.mark" + ".long"  # in two parts, so that this file has none
PROGRAM = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "{log}"
case "$name $*" in
"python3 -m venv "*) mkdir -p "$3/bin"; for each in pip python pytest uv; do ln -s "{program}" "$3/bin/$each"; done ;;
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


def run(tmp_path: Path, fails: str, *options: str) -> Run:
    """Run the script with these options where the calls that match the shell pattern `fails` fail."""
    programs, log = tmp_path / "programs", tmp_path / "log"
    programs.mkdir()
    program = programs / "python3"
    program.write_text(PROGRAM.format(log=log, program=program, fails=fails))
    program.chmod(0o755)
    (programs / "sleep").symlink_to("/bin/true")  # the pause before a second installation
    for name in ("apt-get", "chromium"):
        (programs / name).symlink_to(program)
    done = subprocess.run(
        [ROOT / ".ci" / "run", *options], env=os.environ | {"PATH": f"{programs}:/usr/bin:/bin"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60 * BUSY, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, log.read_text().splitlines())


def test_it_runs_what_a_change_must_pass(tmp_path: Path) -> None:
    ran = run(tmp_path, "nothing")
    assert ran.code == 0, ran.output
    tests = [call.strip() for call in ran.calls if call.startswith("pytest")]
    assert tests == ["pytest -n 0 --collect-only -qq", "pytest -n 6 -m not long --durations=30"]
    assert not any("tests.simulation" in call for call in ran.calls)


def test_the_long_run_has_the_long_tests_and_the_simulation(tmp_path: Path) -> None:
    ran = run(tmp_path, "nothing", "--long")
    assert ran.code == 0, ran.output
    tests = [call.split()[1:3] for call in ran.calls if call.startswith("pytest")]
    assert tests == [["-m", "long"], ["--hypothesis-profile=thorough", "tests/partition"]]
    assert "python -m tests.simulation" in ran.calls
    assert "5 schedules" in ran.output
    [call] = [call for call in ran.calls if call.startswith("pytest -m long")]
    files = (path for path in (ROOT / "tests").rglob("test_*.py") if MARK in path.read_text(encoding="utf-8"))
    assert {"/".join(path.relative_to(ROOT).parts[:2]) for path in files} == set(call.split()[3:])


@pytest.mark.parametrize(
    ("options", "fails"),
    [((), '"pytest -n 0"*'), ((), '"pytest -n 6"*'), ((), "pip*"), (("--long",), '"pytest -m long"*'),
     (("--long",), "*thorough*"), (("--long",), "*tests.simulation*"), (("--mutants",), "*tests.mutants*"),
     (("--mutants",), "*tests.simulation.account*"), (("--long",), "pip*")],
)  # fmt: skip
def test_it_fails_when_a_stage_fails(tmp_path: Path, options: tuple[str, ...], fails: str) -> None:
    assert run(tmp_path, fails, *options).code == 1
