"""promtool of Prometheus, which checks rules and calculates queries."""

import subprocess
from pathlib import Path

from tests.support.pace import BUSY
from tests.support.programs import find_promtool


def ran(*argv: str | Path) -> tuple[int, str]:
    """Run promtool with these arguments. Return its exit code and its output."""
    program = find_promtool()
    assert program is not None, "a test that needs promtool has the marker of that name"
    done = subprocess.run(
        [program, *argv],
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
