"""Reads what a browser sends: small forms, words and places in an address. Everything is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast, get_args
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.requests import Request

from stream_app.board.access import PATH
from stream_app.board.api_access import Refused
from stream_app.board.pages.now import Span
from stream_app.board.read_model.query import Place

LONGEST_WORD: Final = 300
_MOST_FORM_BYTES: Final = 8_192
_MOST_FIELDS: Final = 20
_FORM_WITHIN_S: Final = 10.0
_IN_PATH: Final = "/:@!$&'()*+,;=~"
_IN_QUERY: Final = f"{_IN_PATH}?%"
"""What a query may have as it is: it is not decoded."""


async def read_form(
    request: Request, most_bytes: int = _MOST_FORM_BYTES, most_fields: int = _MOST_FIELDS
) -> dict[str, str]:
    """Read a small form. Raises Refused if it is no form, too large, or too slow."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise Refused(415, "no_form", "Send the form of the page")
    body = bytearray()
    try:
        async with asyncio.timeout(_FORM_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise Refused(413, "too_large", "The form is too large: enter less text")
    except TimeoutError:
        raise Refused(408, "too_slow", "The form did not arrive in time: try again") from None
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=most_fields))
    except ValueError:
        raise Refused(400, "no_form", "Send the form of the page") from None


def address_of(request: Request) -> str:
    """Return the path and the query that were requested, as a header may have them: printable ASCII."""
    path, query = quote(request.scope["path"], safe=_IN_PATH), quote(request.scope["query_string"], safe=_IN_QUERY)
    return f"{path}?{query}" if query else path


def own_path(path: str) -> str:
    """Return a path of the board, and nothing that leads elsewhere."""
    parts = urlsplit(path)
    own = parts.path == PATH or parts.path.startswith(f"{PATH}/")
    clean = not (parts.scheme or parts.netloc or "\\" in path or "//" in parts.path or ".." in parts.path)
    return path if own and clean and path.isascii() and path.isprintable() else PATH


def word(request: Request, name: str) -> str:
    """Return a word of the address; '' if it is not there."""
    return request.query_params.get(name, "")[:LONGEST_WORD]


def one_of(request: Request, name: str, allowed: tuple[str, ...]) -> str:
    """Return a word of the address if it is allowed, else ''."""
    found = word(request, name)
    return found if found in allowed else ""


def span_of(request: Request) -> Span | None:
    """Return the time that a chart shows; None if the address names none."""
    return cast(Span, one_of(request, "span", get_args(Span))) or None


def number(request: Request, name: str) -> int | None:
    """Return a number of the address; None if it is not there."""
    return _number(word(request, name))


def numbers(request: Request, many: int) -> tuple[int, ...] | None:
    """Return the numbers of `after`, the last row of the page before; None if there are not `many`."""
    found = [_number(part) for part in word(request, "after").split("-")]
    known = [each for each in found if each is not None]
    return tuple(known) if len(found) == len(known) == many else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def after_of(request: Request) -> Place | None:
    """Return the place after which the page of a list begins."""
    found = numbers(request, 2)
    return Place(*found) if found else None


def lead_id_of(path: Mapping[str, Any]) -> str:
    """Return the lead id in the parameters of a path. Raises Refused if it cannot be one."""
    lead_id = str(path["lead_id"])
    if "@" in lead_id or len(lead_id) > LONGEST_WORD:
        raise Refused(400, "no_id", "This is not a lead id. Enter an e-mail or a URL in the search of the page Leads")
    return lead_id
