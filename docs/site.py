"""Write the generated pages of docs/reference, or build the site: `python docs/site.py reference`,
`... build`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

from from_code import ATTRIBUTE, cell, failures, metrics, settings

from stream_app import __version__
from stream_app.board.lookup import document
from stream_app.cli.main import COMMANDS, build_app, main

DOCS: Final = Path(__file__).parent
SCHEMAS: Final = DOCS.parent / "schemas"
REPOSITORY: Final = "https://github.com/stream-app/stream-app/blob/main"
_MADE: Final = "<!-- Generated from the code: python docs/site.py reference -->\n\n"
_WIDTH: Final = "100"
"""The columns of help."""


def commands() -> str:
    """Return the page with the help of each command."""
    parts = [
        (
            "# Commands\n\nThis page is what `--help` prints. Every command has `--help`, "
            "`--config` and `--json`.\n"
        ),
        _help([]),
    ]
    for name in COMMANDS:
        parts.append(f"## `stream-app {name}`\n\n{_help([name])}")
        actions = [action for action in build_app()[name] if not action.startswith("-")]
        parts += [
            f"### `stream-app {name} {action}`\n\n{_help([name, action])}" for action in actions
        ]
    return "\n".join(parts)


def _help(words: list[str]) -> str:
    with (
        mock.patch.dict(os.environ, COLUMNS=_WIDTH),
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        main([*words, "--help"])
    # The options that all commands have are on the program's own page.
    text = out.getvalue().partition("\nCommon options:")[0] if words else out.getvalue()
    return f"```text\n{text.strip()}\n```\n"


def api() -> str:
    """Return the page of the look-up API."""
    described = document(__version__)
    text = described["info"]["description"]
    parts = [
        f"# Look-up API\n\n{text}\n\nThe board serves this description as `GET /openapi.json`.\n",
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"## `{method.upper()} {path}`\n\n{operation['summary']}\n")
            if rows := [_parameter(parameter) for parameter in operation.get("parameters", [])]:
                parts.append(
                    "| Parameter | In | Meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n",
                )
            answers = [
                f"| {code} | {cell(answer['description'])} |"
                for code, answer in operation["responses"].items()
            ]
            parts.append("| Answer | Meaning |\n|---|---|\n" + "\n".join(answers) + "\n")
    return "\n".join(parts)


def _parameter(parameter: dict[str, Any]) -> str:
    name = f"`{parameter['name']}`{' (required)' if parameter.get('required') else ''}"
    return f"| {name} | {parameter['in']} | {cell(parameter.get('description', ''))} |"


def messages() -> str:
    """Return the page of the message formats."""
    parts = [
        (
            "# Messages\n\nThe JSON Schemas are in [`schemas/`](../../schemas), which also has "
            "an AsyncAPI document.\n"
        ),
    ]
    for path in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        kind = schema["$defs"][schema["$ref"].rpartition("/")[2]]
        text, _, attributes = kind.get("description", "").partition("\n\nAttributes:\n")
        meanings = dict(re.findall(ATTRIBUTE, attributes, re.M))
        parts.append(f"## `{path.stem}`\n\n{text}\n\n| Field | Type | Meaning |\n|---|---|---|")
        for name, field in kind["properties"].items():
            shown = f"`{name}`{' (required)' if name in kind.get('required', ()) else ''}"
            meaning = " ".join(meanings.get(name, "").split())
            parts.append(f"| {shown} | {cell(_type(field))} | {cell(meaning)} |")
        parts.append("")
    return "\n".join(parts)


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_type, field["anyOf"])))
    if "$ref" in field:
        return f"`{field['$ref'].rpartition('/')[2]}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", "any"))


PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands,
    "settings.md": settings,
    "api.md": api,
    "messages.md": messages,
    "metrics.md": metrics,
    "failures.md": failures,
}


def write_reference(folder: Path) -> None:
    """Write the generated pages."""
    for name, page in PAGES.items():
        (folder / name).write_text(_MADE + page().rstrip("\n") + "\n", encoding="utf-8")


def build(target: Path) -> None:
    """Build the site into a folder.

    Raises CalledProcessError if a link or an anchor leads nowhere.
    """
    with tempfile.TemporaryDirectory() as root:
        pages = Path(root, "docs")
        shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
        for page in pages.rglob("*.md"):
            page.write_text(
                _on_site(page.read_text(encoding="utf-8"), page, pages),
                encoding="utf-8",
            )
        shutil.copy(DOCS / "zensical.toml", root)
        argv = [sys.executable, "-m", "zensical", "build", "--strict"]
        subprocess.run(argv, cwd=root, check=True, timeout=300, env={**os.environ, "NO_COLOR": "1"})
        shutil.copytree(Path(root, "site"), target, dirs_exist_ok=True)


def _on_site(text: str, page: Path, pages: Path) -> str:
    """Lead the links that leave docs/ to the repository."""

    def target(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        if "://" in path or not path:
            return match[0]
        place = os.path.relpath((page.parent / path).resolve(), pages.resolve())
        if not place.startswith(".."):
            return match[0] if not (pages / place).is_dir() else f"]({REPOSITORY}/docs/{place})"
        return f"]({REPOSITORY}/{os.path.normpath(os.path.join('docs', place))}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", target, text)


def pages_of(nav: list[Any]) -> Iterator[str]:
    """Yield the pages of a navigation."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values():
                yield from pages_of(inner)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["reference"]:
            write_reference(DOCS / "reference")
        case ["build", *where]:
            build(Path(where[0] if where else "site"))
        case _:
            sys.exit("usage: python docs/site.py reference | build [FOLDER]")
