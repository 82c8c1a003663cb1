"""An ASGI app on uvicorn for the time of a block, with bounds on the time and the size of a request's head.

uvicorn ends a connection that is idle, but a head that drips in byte by byte would hold it for ever, and one without
end would fill the memory. (Its protocol on h11 bounds the size, and makes a request cost 470 us of CPU instead of 270.)
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stream_app.core.errors import StreamAppError

_LARGEST_HEAD_BYTES: Final = 65_536
_BACKLOG: Final = 4_096


class _Protocol(HttpToolsProtocol):
    """Ends a connection that has not sent a whole head so long after it was made, or after its last answer.

    What comes after an answer and is no head, such as the rest of a body that nobody read, is bounded with it.
    """

    _due: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._head_bytes += len(data)
        self._watch()
        if self._head_bytes > _LARGEST_HEAD_BYTES:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
            self._head_bytes = 0
        elif self._due is None:
            self._due = self.loop.call_later(self.config.timeout_keep_alive, self.transport.close)

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's: uvicorn would raise them again before anything else is closed."""
        yield


@asynccontextmanager
async def serve_http(app: ASGIApp, host: str, port: int, *, head_within_s: float, grace_s: float) -> AsyncIterator[int]:
    """Serve until the block ends; yields the port. Requests under way then have `grace_s` to end.

    head_within_s  a connection without a request ends after so long, too; whole seconds.
    """
    listener = _listen(host, port)
    server = _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=max(1, math.ceil(head_within_s)),
            timeout_graceful_shutdown=math.ceil(grace_s),
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]  # it listens already: who comes before uvicorn has started waits
    finally:
        server.should_exit = True
        await serving


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StreamAppError(
            f"cannot serve on {host}:{port} ({error.strerror}): set another port under [http]"
        ) from error
