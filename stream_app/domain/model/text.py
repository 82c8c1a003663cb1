"""Text for people: counts in sentences, lines that fit a terminal, and safe foreign text."""

import re
import textwrap
from typing import Final

_COMMAND: Final = re.compile(r"stream-app(?: (?:\"[^\"]*\"|[\w./=@-]+))+")
_GLUE: Final = "\u00a0"  # textwrap breaks at ASCII spaces only

# Control characters, direction overrides, and surrogates, which a terminal cannot encode.
_OBEYED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The characters that start a formula in a spreadsheet, with full-width forms (OWASP, "CSV
Injection").
"""
_NUMBER: Final = re.compile(r"[+-](?:[0-9 ().,/-]+|[0-9.]+[eE][+-]?[0-9]+)")
"""A signed number or a phone number: without a name, so it can neither call a function nor refer to
a cell.
"""


def count(number: float, one: str, many: str = "") -> str:
    """Return a number and what it counts, in the singular or plural.

    Args:
        number: How many. An amount such as a balance is written with at most ten digits.
        one: The words after 1. Include the verb if the count is the subject, such as "lead is".
        many: The words after any other number. Default: `one` with an "s".
    """
    written = f"{number:,}" if isinstance(number, int) else f"{number:,.10g}"
    return f"{written} {one if written == '1' else many or f'{one}s'}"


def amount_text(value: float) -> str:
    """Return an amount that is not counted: 1,240; a fraction with at most one decimal: 10.4."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}".removesuffix(".0")


def rate_text(per_s: float) -> str:
    """Return a rate per second with all its digits, as the view of a lane has it: 8.23."""
    return f"{per_s:,.10g}"


def percent(share: float, decimals: int = 1) -> str:
    """Return a share from 0 to 1 in percent, with as many decimals, so that a column aligns."""
    return f"{share * 100:.{decimals}f} %"


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
    glued = _COMMAND.sub(lambda match: _glued(match[0], width), line)
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


def for_terminal(text: str) -> str:
    """Return the text without terminal control characters. Line ends and tabs stay."""
    return _OBEYED.sub("\ufffd", text)


def for_json(document: str) -> str:
    """Return a JSON document with the same value that contains no terminal control characters.

    They can only be inside strings, where an escape means the same.
    """
    if document.isascii() and "\x7f" not in document:
        return document
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def for_spreadsheet(text: str) -> str:
    """Return a CSV cell that no spreadsheet evaluates.

    An apostrophe precedes the start of a formula. Numbers and phone numbers stay unchanged.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
