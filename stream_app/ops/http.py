"""The HTTP server of every process: uvicorn with httptools, and what it leaves to its caller.

uvicorn does not bound a peer that sends endless heads or reads no answer, so a reverse proxy stands
in front of every port that other machines reach (docs/gateway-bounds.md).
"""

import asyncio
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import uvicorn
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_app import __version__
from stream_app.domain.model.errors import StreamAppError

LIMIT_CONCURRENCY: Final = 256
"""Connections that are served at once, unless a server has a limit of its own; uvicorn answers 503
above it.
"""

_BACKLOG: Final = 2_048
_FILES: Final = 16_384
_DROPPED_BYTES: Final = 64 * 2**20
_DROPPED_WITHIN_S: Final = 2.0


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for the traceback of a request that was cancelled when the server ended.

    uvicorn counts these requests.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


logging.getLogger("uvicorn.error").addFilter(_is_news)


@dataclass(frozen=True, slots=True)
class Limit:
    """A server's own limit of connections, and the app that refuses those above it."""

    connections: int
    refusal: ASGIApp


class _Server(uvicorn.Server):
    """Leaves signals to the process, and says when it serves and when it no longer listens."""

    def __init__(self, config: uvicorn.Config, on_closed: Callable[[], None] | None) -> None:
        super().__init__(config)
        self.serves = asyncio.Event()
        self._on_closed = on_closed

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serves.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # First, because a peer that is told to call again must not reach this process.
        for listener in self.servers:
            listener.close()
        for listening in sockets or []:
            listening.close()
        if self._on_closed is not None:
            self._on_closed()
        await super().shutdown(sockets)


@asynccontextmanager
async def serve_http(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    grace_s: int,
    limit: Limit | None = None,
    on_closed: Callable[[], None] | None = None,
) -> AsyncIterator[int]:
    """Serve until the block ends; yields the port (`port` 0: any free one).

    Requests under way when the block ends have `grace_s` to finish. Every other connection closes
    at once. `limit` replaces LIMIT_CONCURRENCY. `on_closed` is called when the block has ended and
    no new connection can come.

    Raises:
        StreamAppError: The port is taken.
    """
    listener = _listen(host, port)
    _allow_files()
    config = uvicorn.Config(
        guarded(
            app if limit is None else _limited(app, limit, lambda: server.server_state.connections),
        ),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        limit_concurrency=LIMIT_CONCURRENCY if limit is None else None,
        timeout_graceful_shutdown=grace_s,
    )
    server = _Server(config, on_closed)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    await server.serves.wait()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await serving
        # After the grace uvicorn leaves connections open whose peers do not read, and does not wait
        # for its tasks.
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        if server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=1)


def _limited(app: ASGIApp, limit: Limit, connections: Callable[[], Sized]) -> ASGIApp:
    """Have a request refused while more connections are open than the limit."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        too_many = len(connections()) > limit.connections
        await (limit.refusal if too_many else app)(scope, receive, send)

    return served


def guarded(app: ASGIApp) -> ASGIApp:
    """Refuse all but HTTP/1.x with exactly one Host, and read each body before its response ends.

    Two parties that read different hosts from one request would answer two requests. A response
    that ends before its request does closes the connection with bytes unread: the kernel then
    resets it, and the proxy answers 502.
    """

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        # A peer that expects "100 Continue" sends no body before the app has asked for it.
        whole = any(name == b"expect" for name, _ in scope["headers"])

        async def seen() -> Message:
            nonlocal whole
            message = await receive()
            whole = not message.get("more_body", False)
            return message

        async def ended(message: Message) -> None:
            if (
                message["type"] == "http.response.body"
                and not message.get("more_body", False)
                and not whole
            ):
                await _drop(seen)
            await send(message)

        hosts = sum(name == b"host" for name, _ in scope["headers"])
        if hosts != 1 or scope["http_version"] not in ("1.0", "1.1"):
            refusal = PlainTextResponse(
                "Send HTTP/1.x with exactly one header Host.\n",
                400,
                {"connection": "close"},
            )
            await refusal(scope, seen, ended)
        else:
            await app(scope, seen, ended)

    return served


async def _drop(receive: Receive) -> None:
    """Read the rest of a body and keep none of it."""
    dropped = 0
    more = True
    with suppress(TimeoutError):  # it is refused: what the peer still sends is lost to it
        async with asyncio.timeout(_DROPPED_WITHIN_S):
            while more and dropped < _DROPPED_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                more = message.get("more_body", False)


def _allow_files() -> None:
    """Raise the soft limit of open files.

    A burst of connections then waits for its 503 and not for a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StreamAppError(
            f"cannot serve on {host}:{port} ({error.strerror}): set another port under [http]",
        ) from error
    listener.setblocking(False)
    return listener


def process_registry() -> CollectorRegistry:
    """Return a registry with the metrics of this process.

    On macOS there are none of CPU, memory and files.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Gauge(
        "stream_app_build_info",
        "1, with the version that runs.",
        ("version",),
        registry=registry,
    ).labels(__version__).set(1)
    return registry
