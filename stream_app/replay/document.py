"""Strict JSON for the values of dead letters, which other programs may have written."""

from __future__ import annotations

import json
from typing import Any

from stream_app.domain.untrusted import check_depth


def read_document(value: bytes | None) -> Any:
    """Parse JSON. Raises ValueError if it is not JSON, or is nested too deep."""
    check_depth(value or b"")
    return json.loads(value or b"", parse_constant=_no_number)


def write_document(document: Any) -> bytes:
    """Write compact JSON. Raises ValueError if JSON cannot hold it: a lone surrogate, NaN or infinity, or too deep."""
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")
