"""Text of others, made safe for what reads it next: a terminal, or a spreadsheet."""

from __future__ import annotations

import re
from typing import Final

# Control characters, what turns the direction of writing round, and halves of characters, which no terminal takes.
_OBEYED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""What a spreadsheet takes for the start of a formula, full-width forms too (OWASP, "CSV Injection")."""
_NUMBER: Final = re.compile(r"[+-](?:[0-9 ().,/-]+|[0-9.]+[eE][+-]?[0-9]+)")
"""A signed number or a phone number: no letter, so it can neither call a function nor refer to a cell."""


def for_terminal(text: str) -> str:
    """The text without what a terminal would obey. Line ends and tabs stay."""
    return _OBEYED.sub("\ufffd", text)


def for_json(document: str) -> str:
    """A JSON document that decodes to the same value and holds nothing that a terminal would obey.

    Args:
        document: JSON text. Inside of it such characters can only stand in strings, where an escape means the same.
    """
    return document if document.isascii() and "\x7f" not in document else _OBEYED.sub(_escape, document)


def for_spreadsheet(text: str) -> str:
    """A CSV cell that no spreadsheet evaluates: an apostrophe stands before the start of a formula.

    Numbers and phone numbers stay as they are.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
