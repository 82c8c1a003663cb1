"""An HTTP/1.1 server for an ASGI app. Its peers cannot exhaust it.

`connection.py` limits each connection. This module limits all of them together: how many there are, how many are
accepted and how many requests start in one turn of the event loop (peer by peer in turn), and how long shutdown takes.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.types import ASGIApp

from stream_app.domain.errors import StreamAppError
from stream_app.domain.fair_share import FairTurns, Holders
from stream_app.gateway.http.connection import Connection
from stream_app.gateway.http.request import Bounds

_BACKLOG: Final = 4_096
_ACCEPTED_A_TURN: Final = 64
_OTHER_FILES: Final = 256
_MAY_WAIT_S: Final = 0.25  # a new connection gets this long to send its request before it can be closed for others
_POLL_S: Final = 0.05


class HttpServer:
    """Implements `connection.Host`."""

    def __init__(self, app: ASGIApp, listener: socket.socket, bounds: Bounds, on_cut: Callable[[str], None]) -> None:
        self.app = app
        self.bounds = bounds
        self.buffer = memoryview(bytearray(bounds.read_bytes))
        self.stopping = False
        self.cut = on_cut
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._most = max(1, min(bounds.connections, _files() - _OTHER_FILES))
        self._connections: set[Connection] = set()
        self._waiting: Holders[Connection] = Holders()
        self._ready: FairTurns[Connection] = FairTurns()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting = False

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    # ------------------------------------------------------------------------------------------------- connections

    def accept(self) -> None:
        """Start or resume accepting connections."""
        if not self._accepting and not self.stopping:
            self._accepting = True
            self._loop.add_reader(self._listener, self._accept_some)

    def _pause_accepting(self, seconds: float) -> None:
        self._accepting = False
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self.accept)

    def _accept_some(self) -> None:
        for _ in range(_ACCEPTED_A_TURN):
            longest = None
            if len(self._connections) >= self._most:
                longest = self._waiting.gives_way()
                if longest is None or self._loop.time() - longest.waits_since < _MAY_WAIT_S:
                    # each connection has a request in progress, or had no time to send one
                    self._pause_accepting(_POLL_S)
                    return
            try:
                connected, address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # the peer has already closed it
                continue
            except OSError:  # out of file descriptors or memory
                self._pause_accepting(_POLL_S)
                return
            if longest is not None:
                longest.cut("too_many_connections")
            connected.setblocking(False)
            connection = Connection(self, self._loop, address[0])
            self.waits(connection)
            opening = self._loop.create_task(self._open(connection, connected))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection, connected: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, connected)
        except OSError:
            connected.close()
            connection.abort()
        if self.stopping:
            connection.stop()

    def waits(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._waiting.remove(connection.peer, connection)
        self._waiting.add(connection.peer, connection, 1)
        connection.waits_since = self._loop.time()

    def works(self, connection: Connection) -> None:
        self._waiting.remove(connection.peer, connection)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._waiting.remove(connection.peer, connection)

    # ----------------------------------------------------------------------------------------------------- requests

    def ready(self, connection: Connection) -> None:
        if not self._ready:
            self._loop.call_soon(self._start_some)
        self._ready.push(connection.peer, connection)

    def _start_some(self) -> None:
        for _ in range(self.bounds.starts):
            if not self._ready:
                return
            task = self._loop.create_task(self._ready.pop().serve())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._ready:
            self._loop.call_soon(self._start_some)

    # ------------------------------------------------------------------------------------------------------ the end

    async def stop(self, grace_s: float) -> None:
        """Stop accepting, let requests in progress finish within the grace period, and close the rest."""
        self.stopping = True
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in list(self._connections):
            connection.stop()
        over = self._loop.time() + grace_s
        while self._busy() and self._loop.time() < over:  # noqa: ASYNC110 - it is many things, once in a process
            await asyncio.sleep(_POLL_S)
        for connection in list(self._connections):
            connection.abort()
        left = self._tasks | self._opening
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)

    def _busy(self) -> bool:
        under_way = self._opening or self._ready or self._tasks
        return bool(under_way) or any(connection.unsent_bytes for connection in self._connections)


@asynccontextmanager
async def serve_http(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    head_within_s: float,
    grace_s: float,
    on_cut: Callable[[str], None] = lambda _: None,
    bounds: Bounds | None = None,
) -> AsyncIterator[int]:
    """Serve until the block ends; yields the port (`port` 0: any free one).

    `head_within_s`: for a head to arrive, for a response to be read, and for an idle connection. `grace_s`: for
    requests in progress when the block ends. `on_cut` is called with the reason of each connection that is closed
    early. `bounds` are for tests.
    """
    server = HttpServer(app, _listen(host, port), bounds or Bounds(head_within_s), on_cut)
    server.accept()
    try:
        yield server.port
    finally:
        await server.stop(grace_s)


def _files() -> int:
    """Return the number of files that the process may open. Raises the soft limit as far as useful and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _BACKLOG
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StreamAppError(
            f"cannot serve on {host}:{port} ({error.strerror}): set another port under [http]"
        ) from error
    listener.setblocking(False)
    return listener
