"""The bytes of the head of an HTTP/1.1 response."""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}


def head_of(status: int, headers: Iterable[tuple[bytes, bytes]], *, last: bool) -> tuple[bytes, bool]:
    """Build the head of a response. `last`: the connection closes after it.

    Returns:
        The head, and whether the connection closes. It also closes if the app sends `connection: close`, or does not
        send the length of the body.

    Raises:
        ValueError: A header contains a line break.
    """
    lines, ends, sized = [_STATUS_LINES[status], b"date: " + _date(int(time.time()))], last, False
    bodiless = status in (204, 304)
    for name, value in headers:
        if b"\n" in name + value or b"\r" in name + value:
            raise ValueError("a response header contains a line break")
        if name == b"connection":
            ends = ends or value == b"close"
            continue
        sized = sized or name == b"content-length"
        lines.append(b"\r\n" + name + b": " + value)
    ends = ends or not (sized or bodiless)
    lines.append(b"\r\nconnection: close\r\n\r\n" if ends else b"\r\n\r\n")
    return b"".join(lines), ends


def bad_request() -> bytes:
    """The response to bytes that are not HTTP. The connection closes after it."""
    text = b"The request is not valid HTTP/1.1.\n"
    head, _ = head_of(400, [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))], last=True)
    return head + text


@lru_cache(maxsize=1)
def _date(now_s: int) -> bytes:
    return formatdate(now_s, usegmt=True).encode()
