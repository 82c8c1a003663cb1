"""`pip install stream-app` without an extra is enough to publish leads and follow them."""

import json
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from stream_app.cli.main import COMMANDS, EXTRA_OF
from tests.support.pace import BUSY

WITHOUT = """
import json
import sys
absent = set(json.loads(sys.argv[1]))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@cache
def brought_by_extras() -> list[str]:
    """Return the modules that are installed, and would not be after `pip install stream-app`."""
    missing = ["stream-app"]
    names = set[str]()
    while missing:
        names.add(name := missing.pop())
        needs = [Requirement(line) for line in requires(name) or ()]
        asked = [
            normal(need.name)
            for need in needs
            if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
        missing += [need for need in asked if need not in names]
    brought = packages_distributions()
    return [
        module
        for module, owners in brought.items()
        if not names & {normal(owner) for owner in owners}
    ]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run(code: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", WITHOUT + code, json.dumps(brought_by_extras())]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60 * BUSY, check=False)


def test_the_api_and_every_command_without_an_extra_is_importable() -> None:
    modules = {
        f"stream_app.cli.{COMMANDS[name][0].partition(':')[0]}"
        for name in COMMANDS.keys() - EXTRA_OF.keys()
    }
    done = run(
        f"import importlib\nfor name in {['stream_app.api', *sorted(modules)]}: "
        "importlib.import_module(name)",
    )
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("command", EXTRA_OF)
def test_a_missing_extra_is_one_line_that_names_it(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(f"from stream_app.cli.main import main; sys.exit(main(['{command}']))")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        rf".*`stream-app {command}` needs \w+, .*: pip install 'stream-app\[{EXTRA_OF[command]}\]'",
        line,
    )
