"""Parses the payload of a request to a webhook."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

import msgspec

_ECHO_CHARACTERS = 200
_MOST_LEVELS = 100  # a parser recurses on them
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)

Echo = tuple[str | None, str | None]

_raw_elements = msgspec.json.Decoder(list[msgspec.Raw])


class Submission(msgspec.Struct):
    """The rows of a payload. `refusal` is the status of Clay's rejection, else None.

    Per row: `bodies` has its JSON, `cells` its fields, `echoes` its lead id and delivery id.
    """

    refusal: int | None = None
    is_array: bool = False
    bodies: list[bytes] = []
    cells: list[dict[str, Any]] = []
    echoes: list[Echo] = []


def read_submission(body: bytes | None, max_bytes: int, lead_field: str, delivery_field: str) -> Submission:
    """Parse a body (None: larger than the server reads).

    The refusal is 413 over `max_bytes`, 400 for invalid JSON, 422 if it is not an object or a list of objects.
    """
    if body is None or len(body) > max_bytes:
        return Submission(refusal=413)
    if _levels(body) > _MOST_LEVELS:
        return Submission(refusal=400)
    try:
        content = msgspec.json.decode(body)
    except ValueError:  # msgspec's own errors, and bytes that are not UTF-8
        return Submission(refusal=400)
    is_array = isinstance(content, list)
    rows = content if is_array else [content]
    if not rows or not all(isinstance(row, dict) for row in rows):
        return Submission(refusal=422)
    bodies = [bytes(raw) for raw in _raw_elements.decode(body)] if is_array else [body]
    echoes = [(_echo(row.get(lead_field)), _echo(row.get(delivery_field))) for row in rows]
    return Submission(is_array=is_array, bodies=bodies, cells=rows, echoes=echoes)


def _echo(value: object) -> str | None:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)[:_ECHO_CHARACTERS]
    return None


def _levels(body: bytes) -> int:
    """Return how many lists and objects are within each other."""
    tokens = (match[0] for match in _TOKEN.finditer(body))
    return max(accumulate((token in b"[{") - (token in b"]}") for token in tokens if len(token) == 1), default=0)
