"""Help pages and usage errors in plain text: no boxes, and nothing that a pipe cannot show."""

from __future__ import annotations

import difflib
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, UnusedCliTokensError

from stream_app.domain.text import wrapped

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_WIDEST_LABEL: Final = 22
_VALUES: Final = {"PATH": "FILE", "STR": "TEXT", "INT": "N", "FLOAT": "N", "DATETIME": "TIME", "TIMEDELTA": "AGE"}
_IN_WORDS: Final[dict[Any, str]] = {
    int: "a whole number",
    float: "a number",
    datetime: "a time such as 2026-11-24T08:00",
    timedelta: "an age such as 30m, 2h or 7d",
}


class PlainHelp:
    """Prints help pages in two columns, as plain text."""

    def __init__(self, summaries: Mapping[str, str]) -> None:
        """`summaries`: what the page of the program says of commands that are not imported."""
        self._summaries = summaries

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the line that shows how to write the command."""
        words = [_VALUES.get(word, word) for word in str(usage).split()]
        _print(console, wrapped(f"usage: {' '.join(words)}", _width()))

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what the command does. An example stays on one line, so that it can be copied."""
        lines = str(description.primary_renderable).splitlines()
        text = "\n".join(line if line.startswith("  ") else wrapped(line, _width()) for line in lines)
        _print(console, text)

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of options or commands."""
        if not panel.entries:
            return
        rows = [(_label(entry), self._text(entry)) for entry in panel.entries]
        indent = min(max(len(label) for label, _ in rows), _WIDEST_LABEL) + 4
        lines = [wrapped(f"{panel.title}:", _width())]
        for label, text in rows:
            texts = textwrap.wrap(text, _width() - indent, break_on_hyphens=False) or [""]
            if len(label) > indent - 4:
                lines.append(f"  {label}")
            else:
                lines.append(f"  {label:{indent - 2}}{texts.pop(0)}")
            lines += [" " * indent + text for text in texts]
        _print(console, "\n".join(line.rstrip() for line in lines))

    def _text(self, entry: HelpEntry) -> str:
        described = getattr(entry.description, "primary_renderable", entry.description)
        text = str(described or "") or self._summaries.get("".join(entry.names), "")
        notes = ["required"] if entry.required and not entry.positional_label else []
        if entry.default not in (None, "False", "()", "-"):
            notes.append(f"default: {entry.default}")
        return f"{text} ({'; '.join(notes)})".lstrip() if notes else text


def _label(entry: HelpEntry) -> str:
    if entry.positional_label:
        return f"{entry.positional_label}{' ' + '|'.join(entry.choices) if entry.choices else ''}"
    names = ", ".join(sorted(entry.all_options, key=len))
    if not entry.metavar:
        return names
    value = entry.metavar.removesuffix("...").replace("CHOICE", "|".join(entry.choices or ()))
    dots = "..." if entry.metavar.endswith("...") else ""
    return f"{names} {'|'.join(_VALUES.get(part, part) for part in value.split('|'))}{dots}"


def usage_problem(error: CycloptsError) -> str:
    """Return one line: what is wrong with the command line, and which help page says what is right."""
    page = " ".join(["stream-app", *(error.command_chain or ()), "--help"])
    return f"{_problem(error).rstrip('.')} (see `{page}`)"


def _problem(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _unexpected(error.unused_tokens[0], error.app)
    if isinstance(error, MissingArgumentError) and error.argument is not None and not error.argument.tokens:
        return f"{error.argument.name} is missing" if error.keyword is None else f"{error.keyword} needs a value"
    if isinstance(error, CoercionError) and error.msg is None and error.token and error.target_type is not None:
        return f"{error.token.keyword or 'argument'}: {error.token.value!r} is not {in_words(error.target_type)}"
    return str(error)


def _print(console: Console, text: str) -> None:
    """Print lines that are wrapped, and an empty line."""
    console.out(text, end="\n\n", highlight=False)


def _width() -> int:
    """Return the columns of the terminal now. A console of cyclopts keeps those that it found first."""
    return shutil.get_terminal_size().columns


def _unexpected(word: str, app: App | None) -> str:
    commands = [name for name in app or () if not name.startswith("-")]
    if not commands:
        return f"unexpected argument {word!r}"
    near = difflib.get_close_matches(word, commands, n=1)
    return f"unknown command {word!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(commands)}"
    )


def in_words(kind: Any) -> str:
    """Return what a value of this type is, for people."""
    *first, last = _values_of(kind)
    return f"{', '.join(first)} or {last}" if first else last


def _values_of(kind: Any) -> Sequence[str]:
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if parts := [part for part in get_args(kind) if part not in (NoneType, ...)]:
        return [value for part in parts for value in _values_of(part)]
    return [_IN_WORDS.get(kind, getattr(kind, "__name__", str(kind)))]
