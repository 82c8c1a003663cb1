"""What tests take from the machine that they run on.

Tests whose program it lacks are left out, and the last lines say what brings it. The configuration
of a system of the user is not taken: tests would publish leads there, which cost credits.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.pace import BUSY

ROOT = Path(__file__).parents[2]


def left_out(tmp_path: Path, file: str, name: str, answer: str, variable: str) -> str:
    """Return what pytest prints of a file whose tests are all left out.

    The program `name` fails with this answer; `variable` leads to it.
    """
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho '{answer}' >&2\nexit 127\n")
    program.chmod(0o755)
    place = program if variable != "PATH" else f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", file],
        cwd=ROOT,
        env=os.environ | {variable: str(place)},
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" not in done.stdout
    return done.stdout


def test_a_machine_that_cannot_run_the_driver_of_browsers_leaves_their_tests_out(
    tmp_path: Path,
) -> None:
    """Small images have no libatomic, which the Node.js of Playwright's wheel needs."""
    file = "tests/board/test_browser.py"
    answer = "libatomic.so.1: cannot open shared object file"
    printed = left_out(tmp_path, file, "node", answer, "PLAYWRIGHT_NODEJS_PATH")
    assert " tests were left out, because there is no Chromium that Playwright can drive" in printed


def test_a_checkout_without_the_history_leaves_the_upgrade_from_it_out(tmp_path: Path) -> None:
    """A shallow clone and an archive lack it, and a bare machine has no git."""
    file = "tests/upgrade/test_upgrade.py"
    printed = left_out(tmp_path, file, "git", "fatal: not a git repository", "PATH")
    assert "1 test was left out, because there is no history of git in this checkout" in printed


def test_a_user_whose_shell_names_a_configuration_and_a_folder_may_run_the_tests() -> None:
    names = ("STREAM_APP_CONFIG", "STATE_DIRECTORY")
    program = (
        "import os, pytest\n"
        "pytest.main(['-n', '0', '--collect-only', '-q', 'tests/unit/test_tasks.py'])\n"
        f"print('taken:', [name for name in {names} if name in os.environ])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(names, "/home/user"),
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "taken: []", done.stdout + done.stderr
