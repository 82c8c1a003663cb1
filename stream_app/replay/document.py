"""The JSON of letters, whoever wrote them: read and written as every reader of JSON would have it, or not at all."""

from __future__ import annotations

import json
from typing import Any


def read_document(value: bytes | None) -> Any:
    """What the bytes say. Raises ValueError where they are no JSON, or are nested too deep."""
    try:
        return json.loads(value or b"", parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def write_document(document: Any) -> bytes:
    """As short as it goes. Raises ValueError for what JSON cannot hold: half a character, a number that is none."""
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")
