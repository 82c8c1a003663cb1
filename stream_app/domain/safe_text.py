"""Makes foreign text safe for a terminal or a spreadsheet."""

from __future__ import annotations

import re
from typing import Final

# Control characters, direction overrides, and surrogates, which a terminal cannot encode.
_OBEYED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The characters that start a formula in a spreadsheet, with full-width forms (OWASP, "CSV Injection")."""
_NUMBER: Final = re.compile(r"[+-](?:[0-9 ().,/-]+|[0-9.]+[eE][+-]?[0-9]+)")
"""A signed number or a phone number: no letter, so it can neither call a function nor refer to a cell."""


def for_terminal(text: str) -> str:
    """Return the text without terminal control characters. Line ends and tabs stay."""
    return _OBEYED.sub("\ufffd", text)


def for_json(document: str) -> str:
    """Return a JSON document with the same value that contains no terminal control characters.

    Args:
        document: JSON text. Such characters can only be inside strings, where an escape means the same.
    """
    return document if document.isascii() and "\x7f" not in document else _OBEYED.sub(_escape, document)


def for_spreadsheet(text: str) -> str:
    """Return a CSV cell that no spreadsheet evaluates: an apostrophe precedes the start of a formula.

    Numbers and phone numbers stay unchanged.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
