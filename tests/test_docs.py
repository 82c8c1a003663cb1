"""The documents name tests, commands and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream_app.cli import COMMANDS
from tests.simulation.all_mutants import MUTANTS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^(async )?def {name}\b", (ROOT / file).read_text(encoding="utf-8"), re.M), f"{file}::{name}"
    for path in re.findall(r"`((?:tests|stream_app|benchmarks|docs|deploy)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / link).exists(), link
    for module in re.findall(r"python -m ((?:benchmarks|tests|stream_app)[\w.]*)", text):
        at = ROOT / Path(*module.split("."))
        assert at.with_suffix(".py").exists() or (at / "__main__.py").exists(), module


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_command_that_a_document_shows_is_one(document: Path) -> None:
    named = set(re.findall(r"stream-app ([a-z-]+)", document.read_text(encoding="utf-8")))
    assert named <= set(COMMANDS), named - set(COMMANDS)


def test_the_documents_count_the_broken_lines() -> None:
    assert f"breaks the line in {len(MUTANTS)} named ways" in (ROOT / "docs" / "failures.md").read_text()


def test_the_failure_matrix_has_its_rows() -> None:
    rows = re.findall(r"^\| \d+ \|.*`tests/[^`]+::\w+` \|$", (ROOT / "docs" / "failures.md").read_text(), re.M)
    assert len(rows) >= 20
