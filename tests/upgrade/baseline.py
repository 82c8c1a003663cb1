"""The version that this one has to run beside: the commit in the file `baseline`, unpacked and
ready to start.

Until the first release it is a commit of main, later the last tag. A checkout without that commit
(a shallow clone, an archive of the source, a machine without git) cannot show anything about an
upgrade, so the tests that need it are left out there, and a run of CI fails.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import venv
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.pace import BUSY

ROOT: Final = Path(__file__).parents[2]
NAMED: Final = Path(__file__).with_name("baseline")
_INSTALL_S: Final = 900

Program = tuple[str, ...]
"""What follows the interpreter, before the arguments of `stream-app`."""

HEAD: Final[Program] = ("-m", "stream_app")
_START: Final = """
import os
import sys
os.environ["PYTHONPATH"] = {folder!r}
os.execv({python!r}, [{python!r}, "-P", "-m", "stream_app", *sys.argv[1:]])
"""


class NoBaseline(Exception):
    """The baseline cannot run. The text is one line that says what to do."""


def is_at_hand(commit: str = "") -> bool:
    """Return True if this checkout has the baseline, or another commit."""
    commit = commit or NAMED.read_text(encoding="utf-8").strip()
    try:
        return _git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0
    except FileNotFoundError:  # this machine has no git
        return False


def unpack(folder: Path, commit: str = "") -> Program:
    """Unpack the baseline into an empty folder and return how to start it.

    It runs with the interpreter of the tests. If its pinned requirements are others, it gets an
    environment of its own.

    Args:
        folder: Where its source goes.
        commit: Another baseline; '': the one that the file names.

    Raises:
        NoBaseline: This checkout does not have the commit, or it is not in the history of this one.
    """
    commit = commit or NAMED.read_text(encoding="utf-8").strip()
    if not is_at_hand(commit):
        raise NoBaseline(
            f"tests/upgrade: this checkout does not have the commit {commit} that "
            "tests/upgrade/baseline names: clone "
            "with the whole history (git fetch --unshallow)",
        )
    if _git("merge-base", "--is-ancestor", commit, "HEAD").returncode:
        raise NoBaseline(
            f"tests/upgrade: {commit} of tests/upgrade/baseline is not in the history of "
            "HEAD: name one",
        )
    packed = _git("archive", "--format=tar", commit)
    packed.check_returncode()
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(folder)  # Python 3.11.2 knows no filter, and git archives no path outside
    return "-c", _START.format(folder=str(folder), python=str(_python(folder)))


def _python(folder: Path) -> Path:
    """Return the interpreter of these tests, or one with the requirements of the baseline if this
    one has others.
    """
    theirs = folder / "requirements.txt"
    if not (others := other_requirements(theirs.read_text(encoding="utf-8"))):
        return Path(sys.executable)
    sys.stderr.write(
        "tests/upgrade: the baseline gets an environment of its own, because it pins "
        f"{others[0]}\n",
    )
    own = folder / ".venv"
    venv.create(own, with_pip=True)
    python = own / "bin" / "python"
    argv: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "-r",
        theirs,
    ]
    subprocess.run(argv, check=True, timeout=_INSTALL_S)
    return python


def other_requirements(pinned: str) -> list[str]:
    """Return the pins of a requirements.txt that this interpreter does not have."""
    pins = [
        Requirement(line.rstrip("\\ "))
        for line in pinned.splitlines()
        if re.match(r"[A-Za-z0-9]", line)
    ]
    installed = {
        canonicalize_name(distribution.name): distribution.version
        for distribution in distributions()
    }
    return [
        str(pin)
        for pin in pins
        if (pin.marker is None or pin.marker.evaluate())
        and not pin.specifier.contains(
            installed.get(canonicalize_name(pin.name), "0"),
            prereleases=True,
        )
    ]


def place_of(program: Program) -> str:
    """Return the folder from which this program takes its code."""
    code = "import stream_app; print(stream_app.__file__)"
    start = (
        program[1].replace('"-m", "stream_app", *sys.argv[1:]', f'"-c", {code!r}')
        if program != HEAD
        else code
    )
    ran = subprocess.run(
        [sys.executable, "-c", start],
        check=True,
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
    )
    return str(Path(ran.stdout.strip()).parents[1])


def _git(*argv: str) -> subprocess.CompletedProcess[bytes]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *argv],
        cwd=ROOT,
        capture_output=True,
        env=environ,
        check=False,
        timeout=120 * BUSY,
    )
