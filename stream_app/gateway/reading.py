"""Reading the body of a request: never more than so many bytes, never longer than so many seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.requests import ClientDisconnect, Request

from stream_app.gateway.answers import BUSY, TOO_LARGE, TOO_SLOW, Answer

_READ_AND_DROPPED_BYTES: Final = 16 * 2**20
"""So much of a body that is too large is read all the same: who has not sent all of it does not see the answer."""


class Room:
    """Memory for bodies that are under way, of all requests together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A request's share, given back at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            self._held_bytes -= share.held_bytes

    def take(self, count: int) -> bool:
        """Whether there is room for so many bytes more."""
        if self._held_bytes + count > self._max_bytes:
            return False
        self._held_bytes += count
        return True


class Share:
    """What one request holds of the room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.held_bytes = 0

    def take(self, count: int) -> bool:
        """Whether there is room for so many bytes more."""
        taken = self._room.take(count)
        self.held_bytes += count if taken else 0
        return taken


async def read_within(request: Request, share: Share, max_bytes: int, within_s: float) -> bytes | Answer | None:
    """The body, or why it is not taken; None: whoever sent it is gone."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > _READ_AND_DROPPED_BYTES):
        return TOO_LARGE
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > _READ_AND_DROPPED_BYTES:
                    break
                if size > max_bytes:
                    body.clear()
                elif share.take(len(chunk)):
                    body += chunk
                else:
                    return BUSY
    except TimeoutError:
        return TOO_SLOW
    except ClientDisconnect:
        return None
    return TOO_LARGE if size > max_bytes else bytes(body)
