"""The scripts of `stream-app completion`, which cyclopts makes: a shell completes our commands and files with them."""

import contextlib
import functools
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from stream_app.cli.main import main
from tests.support.pace import BUSY

# Calls the function that the script has registered, as bash does when a user presses Tab.
ASK_BASH = """
source "$1"
read -ra COMP_WORDS <<< "$2"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2}
$(complete -p stream-app | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@functools.cache
def text_of(shell: str) -> str:
    """The script; to make it imports every command."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["completion", shell]) == 0
    return out.getvalue()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_options_and_files(tmp_path: Path) -> None:
    script, leads = tmp_path / "completion.bash", tmp_path / "leads.csv"
    script.write_text(text_of("bash"), encoding="utf-8")
    leads.touch()
    for typed, completed in (
        ("--config x lanes pau", "pause"),
        ("lanes pause acme --wh", "--why"),
        (f"publish {tmp_path}/lea", str(leads)),
    ):
        argv = ["bash", "-c", ASK_BASH, "bash", str(script), f"stream-app {typed}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60 * BUSY, check=True)
        assert (done.stderr, completed in done.stdout.splitlines()) == ("", True), typed
