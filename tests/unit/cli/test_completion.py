"""The scripts of `stream-app completion` complete commands, options and files, in the shells themselves."""

import contextlib
import functools
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from stream_app.cli.main import main
from tests.support.pace import BUSY

SHELLS = ("bash", "zsh", "fish")

CASES = [
    ("stream-app la", "lanes"),
    ("stream-app lanes pau", "pause"),
    ("stream-app --config x lanes pau", "pause"),
    ("stream-app lanes pause acme --wh", "--why"),
    ("stream-app dlq export x --dispo", "--disposition"),
]

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


def script(shell: str, folder: Path) -> Path:
    path = folder / f"completion.{shell}"
    path.write_text(text_of(shell), encoding="utf-8")
    return path


def answer(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * BUSY, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@needs("bash")
@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_bash(typed: str, completed: str, tmp_path: Path) -> None:
    assert completed in answer("bash", "-c", ASK_BASH, "bash", str(script("bash", tmp_path)), typed)


@needs("bash")
def test_a_file_is_completed(tmp_path: Path) -> None:
    leads = tmp_path / "leads.csv"
    leads.touch()
    path = str(script("bash", tmp_path))
    assert str(leads) in answer("bash", "-c", ASK_BASH, "bash", path, f"stream-app publish {tmp_path}/lea")


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs(shell)) for shell in SHELLS])
def test_the_shell_reads_its_script(shell: str, tmp_path: Path) -> None:
    assert answer(shell, "-n", str(script(shell, tmp_path))) == []


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete "), ("zsh", "#compdef stream-app"), ("fish", "-c ")])
def test_each_shell_has_a_script_of_its_own(shell: str, mark: str) -> None:
    assert mark in text_of(shell)
