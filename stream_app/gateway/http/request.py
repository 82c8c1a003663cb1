"""The requests in the bytes of one connection, one at a time, parsed by llhttp (httptools) within bounds.

Bytes behind a request stay unparsed until `next`: how many requests a peer sends at once makes no difference.
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
    """What a connection, and all of them, may cost.

    within_s       seconds for a head to arrive, for an answer to be read, and for a closed connection to end
    head_bytes, head_lines
    framing_bytes  of a request: chunk sizes, chunk extensions and trailers, which come with a body and are not data
    read_bytes     of one read
    unread_bytes   of an answer in memory before the app waits for the peer
    dropped_bytes  of a body that comes after its answer; without reading it the peer would not see the answer
    connections    in all; above it the longest waiting one of the peer with most connections is cut
    starts         requests that start in one turn of the event loop, peer by peer
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
    """The bytes are no request."""


class OverrunError(Exception):
    """The bytes break a bound; the text says which one."""


class Requests:
    """See the module. After `add`, `head` and `body` parse what is there. The methods on_... are httptools's.

    head_done  the head of the request is whole
    whole      so is its body
    last       the connection cannot have another request after it
    expects    the peer waits for 100 Continue
    body       data that came and was not taken
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._parser = httptools.HttpRequestParser(self)
        self._rest = bytearray()
        self.next()

    def next(self) -> None:
        """Forget the request. What came behind it is the next one."""
        self.head_done = self.whole = self.last = self.expects = False
        self.body = bytearray()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._left: int | None = 0  # bytes of the body still to come; None: it is chunked
        self._framing = 0

    @property
    def rest_bytes(self) -> int:
        """Bytes that are not parsed."""
        return len(self._rest)

    def add(self, data: bytes | memoryview) -> None:
        """These bytes came."""
        self._rest += data

    def drop(self) -> None:
        """Drop what came and is not parsed."""
        self._rest.clear()

    def parse_head(self) -> None:
        """Parse the head if it is there as a whole. Raises NotHttpError and OverrunError."""
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
        """Parse what is there of the body. Raises NotHttpError and OverrunError."""
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
        """The data of the body that came since the last time."""
        consumed = bytes(self.body)
        self.body.clear()
        return consumed

    def scope(self) -> Scope:
        """The request as ASGI has it, without the connection's part. Raises NotHttpError."""
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserError:
            raise NotHttpError from None
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")  # the parser has refused all else
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
            self.last = True  # an upgrade is ignored; a body behind one cannot be told from the other protocol
            if self._left != 0:
                raise NotHttpError from None
        except httptools.HttpParserError:
            # Another request may begin behind a whole chunked body. The parser does not say where, so it is dropped.
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
