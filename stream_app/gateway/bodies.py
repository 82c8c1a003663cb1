"""Reads request bodies, bounded in bytes, seconds, and memory for all bodies together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from stream_app.domain.fair_share import Holders, peer_of
from stream_app.gateway.callback_answers import BUSY, TOO_LARGE, TOO_SLOW, Answer


class BodyMemory:
    """The memory for the bodies of all requests.

    When it is full, the peer whose unfinished bodies hold the most memory loses its oldest one. A stalled body
    therefore loses against one that arrives, and a peer with many stalled bodies loses against every other peer.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0
        self.unfinished: Holders[Share] = Holders()

    @contextmanager
    def share(self, host: str) -> Iterator[Share]:
        """Yield the share of one request from that host. It is released at the end of the block."""
        share = Share(self, peer_of(host))
        try:
            yield share
        finally:
            share.give_back()

    def take(self, share: Share, count: int) -> bool:
        """Reserve bytes for a share. False if there is no room."""
        if count > self._max_bytes:
            return False
        while self.held_bytes + count > self._max_bytes:
            other = self.unfinished.gives_way()
            if other is None or other is share:
                return False
            other.drop()
        self.held_bytes += count
        return True


class Share:
    """The memory that one request holds."""

    def __init__(self, memory: BodyMemory, peer: str) -> None:
        self._memory, self._peer = memory, peer
        self._body = bytearray()
        self._held_bytes = 0
        self._reading: asyncio.Timeout | None = None
        self._dropped = False

    async def read(self, request: Request, max_bytes: int, within_s: float) -> bytes | Answer | None:
        """Return the body, the answer that rejects it, or None if the peer disconnected."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
            return TOO_LARGE
        try:
            async with asyncio.timeout(within_s) as self._reading:
                async for chunk in request.stream():
                    if len(self._body) + len(chunk) > max_bytes:
                        return TOO_LARGE
                    if self._dropped or not self._take(chunk):
                        return BUSY
        except TimeoutError:
            return BUSY if self._dropped else TOO_SLOW
        except ClientDisconnect:
            return None
        self._memory.unfinished.remove(self._peer, self)
        return BUSY if self._dropped else bytes(self._body)

    def _take(self, chunk: bytes) -> bool:
        if not chunk:
            return True
        if not self._memory.take(self, len(chunk)):
            return False
        self._held_bytes += len(chunk)
        self._memory.unfinished.add(self._peer, self, len(chunk))
        self._body += chunk
        return True

    def drop(self) -> None:
        """Release the memory and stop reading, in favour of another request."""
        self._dropped = True
        self.give_back()
        if self._reading is not None:
            self._reading.reschedule(0)

    def give_back(self) -> None:
        """Release the memory."""
        self._memory.unfinished.remove(self._peer, self)
        self._memory.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self._body.clear()
