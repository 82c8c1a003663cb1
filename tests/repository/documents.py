"""The documents of the repository, and the command lines in them."""

import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from stream_app.cli.main import build_app, in_order, usage_problem
from stream_app.cli.main import parse as command_line

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
CHART = ROOT / "deploy" / "chart" / "README.md"
DOCUMENTS = [
    README,
    CHART,
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
]


def options_of(words: list[str]) -> set[str]:
    """All options of the command and the action that the words name."""
    app = build_app()
    for word in in_order(app, words):
        if word.startswith("-") or word not in app:
            break
        app = app[word]
    return {
        "--help",
        "--version",
        *(name for option in app.assemble_argument_collection() for name in option.names),
    }


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def parse(words: list[str], *, complete: bool = True) -> None:
    """Raises CommandError unless `stream-app` takes these arguments; if not `complete`, others may
    be missing.
    """
    try:
        command_line(words)
    except CycloptsError as error:
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        missing = isinstance(error, MissingArgumentError) and options <= options_of(words)
        if complete or not missing:
            raise CommandError(f"stream-app {shlex.join(words)}: {usage_problem(error)}") from None


class CommandError(Exception):
    """The command line does not parse."""
