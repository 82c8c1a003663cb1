"""promtool of Prometheus: from the PATH, else extracted from Debian's package, without an installation."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.pace import BUSY

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stream-app"
NONE = "there is no Prometheus: install it (apt-get install prometheus, brew install prometheus)"


def ran(*argv: str | Path) -> tuple[int, str]:
    """Run promtool with these arguments. Return its exit code and its output."""
    done = subprocess.run([promtool(), *argv], capture_output=True, text=True, timeout=60 * BUSY, check=False)
    return done.returncode, done.stdout + done.stderr


def promtool() -> Path:
    """Return the path of promtool. Raises LookupError, which says what to install."""
    program = shutil.which("promtool")
    kept = CACHE / "promtool"
    if program is not None:
        return Path(program)
    if kept.exists():
        return kept
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise LookupError(NONE)
    with tempfile.TemporaryDirectory() as directory:
        if not _download(directory):
            _run(["apt-get", "update", "-qq"], directory)
            if not _download(directory):
                raise LookupError(NONE)
        _run(["dpkg-deb", "-x", str(next(Path(directory).glob("*.deb"))), "package"], directory)
        CACHE.mkdir(parents=True, exist_ok=True)
        part = CACHE / f"promtool.{os.getpid()}"
        shutil.copy(Path(directory) / "package/usr/bin/promtool", part)
        part.rename(kept)  # whole or not at all: another process may look for it
    return kept


def _download(directory: str) -> bool:
    return _run(["apt-get", "download", "-qq", "prometheus"], directory) and any(Path(directory).glob("*.deb"))


def _run(argv: list[str], directory: str) -> bool:
    return subprocess.run(argv, cwd=directory, capture_output=True, timeout=180, check=False).returncode == 0
