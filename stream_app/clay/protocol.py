"""aiohttp's protocol of one connection, with two rules that a client of Clay needs.

1. A connection that receives data while no request is under way is closed. Many servers and proxies send a 408 before
   they close an idle connection, and the next lead would take that 408 for its own response.
2. The head of a response is parsed before its body. The status then counts even if the body in the same packet is
   malformed.
"""

from __future__ import annotations

import re
import select
from typing import Any, Final

from aiohttp.client_proto import ResponseHandler

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_OVERLAP: Final = 3  # a blank line may be split over two packets; this many bytes of it can be in the first


class ClayProtocol(ResponseHandler):
    """Call `expect_answer` before each request, and `rest` when the response is complete."""

    was_used = False
    _rests = False
    _in_head = False
    _before = b""

    def expect_answer(self, **params: Any) -> None:
        """Prepare for a response. For `params` see `ResponseHandler.set_response_params`."""
        self.was_used, self._rests = True, False
        self._in_head, self._before = True, b""
        self.set_response_params(**params)

    def rest(self) -> None:
        """Mark the connection as idle: any data that arrives now closes it."""
        self._rests = True

    @property
    def has_unread(self) -> bool:
        """True if the kernel holds bytes, or the end of the stream, that the event loop has not handled yet.

        The loop handles many events in one turn, so a lead can get a connection whose 408 has not been read.
        """
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Handle a parsed head and its body stream. The parser calls it."""
        code = data[0].code
        if code == 101 or not 100 <= code <= 199:
            self._in_head = False
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if self._rests:
            self.close()
            return
        while self._in_head and (end := _END_OF_HEAD.search(self._before + data)):
            length = end.end() - len(self._before)
            self._before = b""
            super().data_received(data[:length])
            data = data[length:]
            if not data or self.exception() is not None:
                return
        if self._in_head:
            self._before = (self._before + data)[-_OVERLAP:]
        super().data_received(data)
