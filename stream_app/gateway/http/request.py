"""Parses the requests of one connection, one at a time, with llhttp (httptools) and within limits.

Bytes after a request stay unparsed until `next`, so pipelined requests cost nothing extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import httptools
from starlette.types import Scope

_HEAD_ENDS: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a connection, and of all connections together.

    Attributes:
        within_s: Seconds for a head to arrive, for a response to be read, and for a closed connection to end.
        head_bytes: Maximum size of a head.
        head_lines: Maximum number of its lines.
        framing_bytes: Maximum size of chunk sizes, chunk extensions and trailers of one request.
        read_bytes: Maximum size of one read.
        unread_bytes: Response bytes in memory before the app waits for the peer.
        dropped_bytes: Body bytes read after the response. Without reading them, the peer would not see the response.
        connections: Maximum number of connections. Above it, the peer with the most connections loses the one that has
            waited longest.
        starts: Requests started in one turn of the event loop, peer by peer.
    """

    within_s: float
    head_bytes: int = 16_384
    head_lines: int = 100
    framing_bytes: int = 16_384
    read_bytes: int = 16_384
    unread_bytes: int = 16_384
    dropped_bytes: int = 16 * 2**20
    connections: int = 4_096
    starts: int = 8


class NotHttpError(Exception):
    """The bytes are not a request."""


class OverrunError(Exception):
    """The bytes exceed a limit; the text names it."""


class Requests:
    """Parses one request at a time. The `on_...` methods are httptools callbacks.

    Attributes:
        head_done: True if the head is complete.
        whole: True if the body is complete, too.
        last: True if no other request can follow on this connection.
        expects: True if the peer waits for 100 Continue.
        body: Data that arrived and was not consumed.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._parser = httptools.HttpRequestParser(self)
        self._rest = bytearray()
        self.next()

    def next(self) -> None:
        """Prepare for the next request on this connection."""
        self.head_done = self.whole = self.last = self.expects = False
        self.body = bytearray()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._left: int | None = 0  # bytes of the body still to come; None: the body is chunked
        self._framing = 0

    @property
    def rest_bytes(self) -> int:
        """The number of unparsed bytes."""
        return len(self._rest)

    def add(self, data: bytes | memoryview) -> None:
        """Add received bytes."""
        self._rest += data

    def drop(self) -> None:
        """Drop the unparsed bytes."""
        self._rest.clear()

    def parse_head(self) -> None:
        """Parse the head if it is complete. Raises NotHttpError and OverrunError."""
        end = self._rest.find(_HEAD_ENDS)
        size = len(self._rest) if end < 0 else end + len(_HEAD_ENDS)
        if size > self._bounds.head_bytes or self._rest.count(b"\n", 0, size) > self._bounds.head_lines:
            raise OverrunError("head_too_large")
        if end < 0:
            return
        head = bytes(self._rest[:size])
        del self._rest[:size]
        self._feed(head)
        if not self.head_done:
            raise NotHttpError

    def parse_body(self) -> None:
        """Parse the available part of the body. Raises NotHttpError and OverrunError."""
        if self.whole or not self._rest:
            return
        size = len(self._rest) if self._left is None else min(self._left, len(self._rest))
        piece, held = bytes(self._rest[:size]), len(self.body)
        del self._rest[:size]
        self._feed(piece)
        self._framing += size - (len(self.body) - held)
        if self._left is not None:
            self._left -= size
        if self._framing > self._bounds.framing_bytes:
            raise OverrunError("too_much_framing")

    def take_body(self) -> bytes:
        """Return the body data that arrived since the last call."""
        consumed = bytes(self.body)
        self.body.clear()
        return consumed

    def scope(self) -> Scope:
        """Return the ASGI scope without the connection's addresses. Raises NotHttpError."""
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserError:
            raise NotHttpError from None
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")  # the parser rejects anything else
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._parser.get_http_version(),
            "scheme": "http",
            "method": self._parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": {},
        }

    def _feed(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self.last = True  # an upgrade is ignored; a body after one cannot be distinguished from the other protocol
            if self._left != 0:
                raise NotHttpError from None
        except httptools.HttpParserError:
            # Another request may follow a complete chunked body. The parser does not say where it starts, so it is
            # dropped.
            self.last = True
            if not self.whole:
                raise NotHttpError from None

    def on_message_begin(self) -> None:
        if self.whole:
            raise ValueError("one request at a time")

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # trailers are ignored
        name = name.lower()
        self._headers.append((name, value))
        if name == b"content-length":
            self._left = int(value)
        elif name == b"transfer-encoding":
            self._left = None
        elif name == b"expect":
            self.expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self.head_done = True
        self.last = not self._parser.should_keep_alive() or self._parser.get_http_version() != "1.1"

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True
