"""The workflows of .github: accepted by their linters, with pinned actions and the least rights."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.pace import BUSY

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
MAY_WRITE = {
    ("release.yml", "publish"): {"id-token"},
    ("release.yml", "image"): {"packages", "id-token", "attestations"},
}


def tool(name: str) -> str:
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert program, f"{name} is missing: pip install -e '.[dev]'"
    return program


def run(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60 * BUSY, check=False)


def lint(where: Path) -> list[str]:
    """Return what the two linters find in the workflows below a folder."""
    outputs = []
    files = [str(path) for path in sorted(where.glob(".github/workflows/*.yml"))]
    for argv in ([tool("actionlint"), "-no-color", *files], [tool("zizmor"), "--offline", "--no-progress", *files]):
        ran = run(*argv, cwd=where)
        if ran.returncode:
            outputs.append(ran.stdout + ran.stderr)
    return outputs


def test_the_linters_find_nothing() -> None:
    assert len(WORKFLOWS) >= 2
    assert not lint(ROOT)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_rights_are_least(path: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}, "no job has a right that it does not name"
    for name, job in workflow["jobs"].items():
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        assert writes == MAY_WRITE.get((path.name, name), set()), name
        assert job["timeout-minutes"] <= 90, name
        for step in job["steps"]:
            if "uses" in step:
                assert PINNED.fullmatch(step["uses"]), step["uses"]
            if str(step.get("uses", "")).startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
                tested = any(str(entry.get("run", "")).startswith(".ci/run") for entry in job["steps"])
                assert (step["with"].get("fetch-depth") == 0) is tested, "tests/upgrade runs an earlier commit"
