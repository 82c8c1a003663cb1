"""Wraps text for a terminal between words. A command stays on one line so that it can be copied."""

from __future__ import annotations

import re
import textwrap
from typing import Final

_COMMAND: Final = re.compile(r"stream-app(?: (?:\"[^\"]*\"|[\w./=@-]+))+")
_GLUE: Final = "\u00a0"  # textwrap breaks at ASCII spaces only


def wrapped(text: str, width: int, hang: int = 0) -> str:
    """Return the text with each line wrapped.

    Args:
        text: One or more lines. A continuation keeps the indent of its line.
        width: The width of the terminal, in cells. A longer word overflows.
        hang: Additional indent of continuations, in cells.
    """
    return "\n".join(_wrapped(line, width, hang) for line in text.split("\n"))


def _wrapped(line: str, width: int, hang: int) -> str:
    if len(line) <= width:
        return line
    glued = _COMMAND.sub(lambda found: _glued(found[0], width), line)
    indent = " " * (len(line) - len(line.lstrip(" ")) + hang)
    parts = textwrap.wrap(
        glued,
        max(width, len(indent) + 1),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return "\n".join(parts).replace(_GLUE, " ")


def _glued(command: str, width: int) -> str:
    return command.replace(" ", _GLUE) if len(command) <= width // 2 else command
