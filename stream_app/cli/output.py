"""What a command prints: lines on stdout and stderr, for people, and JSON, for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from stream_app.domain.model.text import for_json, for_terminal, wrapped

if TYPE_CHECKING:
    from rich.console import Console


def say(line: str) -> None:
    """Print a line on stderr: progress, warnings, problems."""
    _print(line, stderr=True)


def show(line: str, hang: int = 0) -> None:
    """Print a line of the result on stdout, for people.

    `hang` is how far the line is indented where it goes on, in cells.
    """
    _print(line, stderr=False, hang=hang)


def show_json(document: Any) -> None:
    """Print the result on stdout as JSON, for programs. Structs become objects."""
    import msgspec

    text = json.dumps(msgspec.to_builtins(document, str_keys=True), ensure_ascii=False, indent=2)
    sys.stdout.write(for_json(text) + "\n")


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text literally: text from outside may look like markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _print(line: str, *, stderr: bool, hang: int = 0) -> None:
    out = console(stderr=stderr)
    text = for_terminal(line)
    out.print(wrapped(text, out.width, hang) if out.is_terminal else text, soft_wrap=True)
