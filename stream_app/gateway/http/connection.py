"""One HTTP/1.1 connection of the server: reads requests, runs the ASGI app, and stays within its limits.

One request is in progress at a time, and reading pauses until it is answered. A connection therefore buffers at most
one read beyond what it waits for. Each phase has a time limit:

    OPENING   accepted, not yet read
    HEAD      waits for a complete head, or is idle       at most `head_bytes` and `head_lines`, `within_s`
    REQUEST   waits for its turn, or for the app          reads what the app asks for; at most `framing_bytes` beside it
    CLOSING   answered; further bytes are dropped         at most `dropped_bytes`, `within_s`

A response that the peer does not read ends the connection after `within_s`, too.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Protocol, cast

from starlette.types import ASGIApp, Message

from stream_app.domain.fair_share import peer_of
from stream_app.gateway.http.answer import CONTINUE, bad_request, head_of
from stream_app.gateway.http.request import Bounds, NotHttpError, OverrunError, Requests
from stream_app.ops import logs as log


class Host(Protocol):
    """The server, as its connections see it."""

    app: ASGIApp
    bounds: Bounds
    buffer: memoryview
    stopping: bool

    def ready(self, connection: Connection) -> None:
        """A request is complete enough to start: call `serve` when it is its turn."""

    def waits(self, connection: Connection) -> None:
        """The connection waits for its peer: it may be closed in favour of others."""

    def works(self, connection: Connection) -> None:
        """The connection has a whole request: it must not be closed in favour of others."""

    def cut(self, because: str) -> None:
        """Count a connection that is closed for this reason."""

    def lost(self, connection: Connection) -> None:
        """The connection has ended."""


class _Phase(Enum):
    OPENING = auto()
    HEAD = auto()
    REQUEST = auto()
    CLOSING = auto()
    LOST = auto()


class Connection(asyncio.BufferedProtocol):
    """A connection from its start to its end, in the phases that the module describes."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self.peer = peer_of(address)
        self.waits_since = 0.0
        self._host, self._bounds, self._loop = host, host.bounds, loop
        self._transport: asyncio.Transport
        self._request = Requests(host.bounds)
        self._phase = _Phase.OPENING
        # set on more body bytes, on room for the response, and on the end of the connection
        self._changed = asyncio.Event()
        self._due: asyncio.TimerHandle | None = None
        self._reading = True
        self._write_paused = False
        self._dropped = 0
        self._next()

    def _next(self) -> None:
        self._request.next()
        self._method = ""
        self._status = 0
        self._answer_head: bytes | None = None
        self._took_end = self._answered = False

    # ------------------------------------------------------------------------------------------------- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport class does not inherit from asyncio.Transport
        self._transport = cast(asyncio.Transport, transport)
        if self._phase is _Phase.LOST:  # closed before the transport was ready
            self._transport.abort()
            return
        self._phase = _Phase.HEAD
        self._transport.set_write_buffer_limits(high=self._bounds.unread_bytes, low=0)
        self._client = transport.get_extra_info("peername")
        self._address = transport.get_extra_info("sockname")
        self._limit("slow_head")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._host.buffer  # shared by all connections: it is emptied before another one is read

    def buffer_updated(self, nbytes: int) -> None:
        if self._phase is _Phase.CLOSING:
            self._dropped += nbytes
            if self._dropped > self._bounds.dropped_bytes:
                self.cut("too_much_after_answer")
            return
        self._request.add(self._host.buffer[:nbytes])
        self._parse()

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()

    def _lose(self) -> None:
        if self._phase is not _Phase.LOST:
            self._phase = _Phase.LOST
            self._limit(None)
            self._changed.set()
            self._host.lost(self)

    def cut(self, because: str) -> None:
        """Close the connection now and count the reason."""
        if self._phase is not _Phase.LOST:
            self._host.cut(because)
            self.abort()

    def abort(self) -> None:
        """Close the connection now; unread response bytes are lost."""
        opened = self._phase is not _Phase.OPENING
        self._lose()
        if opened:
            self._transport.abort()

    def _limit(self, because: str | None) -> None:
        """Close the connection after `within_s` for this reason; None cancels the limit."""
        if self._due is not None:
            self._due.cancel()
        self._due = None if because is None else self._loop.call_later(self._bounds.within_s, self._timed_out, because)

    def _timed_out(self, because: str) -> None:
        idle = self._phase is _Phase.HEAD and not self._request.rest_bytes
        ended = self._phase is _Phase.CLOSING and not self._transport.get_write_buffer_size()
        if idle or ended:
            self.abort()  # nothing is lost
        else:
            self.cut(because)

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading and self._phase is not _Phase.LOST:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _parse(self) -> None:
        try:
            if self._phase is _Phase.HEAD:
                self._request.parse_head()
                self._read(not self._request.head_done)
                if not self._request.head_done:
                    return
            self._request.parse_body()
        except OverrunError as overrun:
            self.cut(str(overrun))
        except NotHttpError:
            self._refuse()
        else:
            if self._request.whole:
                self._host.works(self)
            self._read(False)
            self._changed.set()
            if self._phase is _Phase.HEAD:
                self._phase = _Phase.REQUEST
                self._limit(None)
                self._host.ready(self)

    def _refuse(self) -> None:
        """Answer bytes that are not HTTP."""
        if not self._status:
            self._transport.write(bad_request())
        self._close(lingers=True)

    # ------------------------------------------------------------------------------------------------------ answering

    async def serve(self) -> None:
        """Answer the request that is ready."""
        if self._phase is not _Phase.REQUEST:
            return
        try:
            scope = self._request.scope()
        except NotHttpError:
            self._refuse()
            return
        scope["client"] = self._client[:2] if self._client else None
        scope["server"] = self._address[:2] if self._address else None
        self._method = scope["method"]
        try:
            await self._host.app(scope, self._receive, self._send)
        except Exception:  # noqa: BLE001 - a crash of the app must end one request, not the server
            log.get("http").exception("request_crashed")
        if self._phase is not _Phase.REQUEST:
            return
        if not self._answered:
            self.abort()
        elif self._request.last or self._host.stopping:
            self._close(lingers=not self._request.whole or bool(self._request.rest_bytes))
        else:
            self._next()
            self._phase = _Phase.HEAD
            self._host.waits(self)
            self._limit("slow_head")
            self._parse()

    async def _receive(self) -> Message:
        while self._phase is _Phase.REQUEST:
            request = self._request
            if not self._took_end and (request.body or request.whole):
                self._took_end = request.whole
                return {"type": "http.request", "body": request.take_body(), "more_body": not request.whole}
            if request.expects and not self._status:
                self._transport.write(CONTINUE)
            request.expects = False
            self._changed.clear()
            if not request.whole:
                self._read(True)
            await self._changed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._phase is not _Phase.REQUEST or self._answered:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            last = self._request.last or self._host.stopping or not self._request.whole
            self._answer_head, self._request.last = head_of(self._status, message.get("headers", ()), last=last)
            return
        data = b"" if self._method == "HEAD" else message.get("body", b"")
        if self._answer_head is not None:
            data = self._answer_head + data
            self._answer_head = None
        self._answered = not message.get("more_body", False)
        self._transport.write(data)
        if self._write_paused:
            await self._until_read()

    async def _until_read(self) -> None:
        self._host.waits(self)
        self._limit("answer_not_read")
        while self._write_paused and self._phase is _Phase.REQUEST:
            self._changed.clear()
            await self._changed.wait()
        self._limit(None)
        if self._phase is _Phase.REQUEST:
            self._host.works(self)

    def _close(self, *, lingers: bool) -> None:
        """Close after the response. With `lingers`, read and drop further bytes, so that the peer sees the response."""
        self._phase = _Phase.CLOSING
        self._request.drop()
        self._host.waits(self)
        self._changed.set()
        self._limit("answer_not_read")
        if lingers and self._transport.can_write_eof():
            self._transport.write_eof()
            self._read(True)
        else:
            self._transport.close()

    def stop(self) -> None:
        """Stop with the server. An idle connection closes now; one with a request closes after it."""
        if self._phase is _Phase.HEAD:
            self._close(lingers=False)

    @property
    def held_bytes(self) -> int:
        """Bytes of the peer in memory, before the app reads them or while an earlier request is in progress."""
        return self._request.rest_bytes + len(self._request.body)

    @property
    def unsent_bytes(self) -> int:
        """Bytes of responses that the kernel has not accepted."""
        return 0 if self._phase in (_Phase.OPENING, _Phase.LOST) else self._transport.get_write_buffer_size()
