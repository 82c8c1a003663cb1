"""aiohttp's protocol of one connection, with two things that a client of Clay needs and aiohttp does not have.

A connection that says anything while no request is under way is closed: many servers and proxies send a 408 before
they close an idle connection, and the next lead would take it for its own answer. And the head of an answer is parsed
before its body, so that a status counts whatever is wrong with the body that came in the same packet.
"""

from __future__ import annotations

import re
import select
from typing import Any, Final

from aiohttp.client_proto import ResponseHandler

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_OVERLAP: Final = 3  # bytes of a blank line that may stand in the packet before


class ClayProtocol(ResponseHandler):
    """`expect_answer` before each request, `rest` when its answer is complete and the connection goes to the pool."""

    was_used = False
    _rests = False
    _in_head = False
    _before = b""

    def expect_answer(self, **params: Any) -> None:
        """A request follows. `params`: see ResponseHandler.set_response_params."""
        self.was_used, self._rests = True, False
        self._in_head, self._before = True, b""
        self.set_response_params(**params)

    def rest(self) -> None:
        """No request is under way: whatever comes now closes the connection."""
        self._rests = True

    @property
    def has_unread(self) -> bool:
        """True if bytes, or the end of the stream, are in the kernel that the event loop has not handled yet.

        The loop handles many events in one turn, so a lead can find a connection whose 408 was not read so far.
        """
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Called by the parser with each head and its body to come."""
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
