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


def test_a_machine_that_cannot_run_the_driver_of_browsers_leaves_their_tests_out(
    tmp_path: Path,
) -> None:
    """Small images have no libatomic, which the Node.js of Playwright's wheel needs."""
    node = tmp_path / "node"
    node.write_text(
        "#!/bin/sh\necho 'libatomic.so.1: cannot open shared object file' >&2\nexit 127\n",
    )
    node.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "tests/board/test_browser.py"],
        cwd=ROOT,
        env=os.environ | {"PLAYWRIGHT_NODEJS_PATH": str(node)},
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    left_out = "tests were left out, because there is no Chromium that Playwright can drive on this"
    assert left_out in done.stdout
    assert " passed" not in done.stdout


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
