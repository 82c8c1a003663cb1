"""An ASGI app on uvicorn for the time of a block, with a bound on the time that a request's head may take.

uvicorn bounds the head's size (h11, not httptools, which does not) and an idle connection's time, but a head that drips
in byte by byte would hold its connection for ever.
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
from uvicorn.protocols.http.h11_impl import H11Protocol

from stream_app.core.errors import StreamAppError

_LARGEST_HEAD_BYTES: Final = 32_768
_BACKLOG: Final = 4_096


class _Protocol(H11Protocol):
    """Ends a connection that has not sent a whole head so long after it was made, or after its last answer."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
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
            h11_max_incomplete_event_size=_LARGEST_HEAD_BYTES,
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
