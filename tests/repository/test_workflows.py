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
MAY_WRITE = {
    ("release.yml", "publish"): {"id-token"},
    ("release.yml", "image"): {"packages", "id-token", "attestations"},
    ("release.yml", "chart"): {"packages", "id-token", "attestations"},
}


@pytest.mark.parametrize(
    "command",
    [("actionlint", "-no-color"), ("zizmor", "--offline", "--no-progress")],
)
def test_a_linter_finds_nothing(command: tuple[str, ...]) -> None:
    """zizmor wants pinned actions, among others, and no credentials left by a checkout."""
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or shutil.which(
        command[0],
    )
    assert program, f"{command[0]} is missing: pip install -e '.[dev]'"
    assert len(WORKFLOWS) >= 2
    argv: list[str | Path] = [program, *command[1:], *WORKFLOWS]
    ran = subprocess.run(
        argv,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_rights_are_least_and_tests_have_the_history(path: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}, "no job has a right that it does not name"
    for name, job in workflow["jobs"].items():
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        assert writes == MAY_WRITE.get((path.name, name), set()), name
        for step in job["steps"]:
            if str(step.get("uses", "")).startswith("actions/checkout@"):
                tested = any(
                    str(entry.get("run", "")).startswith(".ci/run") for entry in job["steps"]
                )
                assert (step["with"].get("fetch-depth") == 0) is tested, (
                    "tests/upgrade runs an earlier commit"
                )


def test_a_bare_container_runs_the_two_commands_of_the_readme() -> None:
    """A machine of CI has programs that a user's may lack."""
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["bare"]
    assert job["container"].startswith("python:")
    commands = [step["run"] for step in job["steps"] if "run" in step]
    readme = (ROOT / "README.md").read_text()
    assert commands == re.findall(r"^python3 -m venv \.venv && .+$", readme, re.MULTILINE)
    assert len(commands) == 2
