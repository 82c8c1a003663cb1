"""A server that plays a script of good or bad HTTP on real sockets, and a Clay client with short
limits.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache, wraps
from typing import Any, ParamSpec

from stream_app.clay import Egress
from stream_app.clay.client import ClayClient
from stream_app.domain.model.addresses import WEBHOOK_PATH
from stream_app.domain.model.outcome import Outcome
from stream_app.services import process
from tests.support.pace import BUSY, slowness

SLUG = "secret-slug"
TOKEN = "secret-token"
LEAD = b'{"lead_id":"1","email":"ada@example.com","first_name":"Ada"}'
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

EGRESS = Egress.of()  # made once: it loads all public certificate authorities

READ = "read a whole request"
SKIM = "read some bytes"
RESET = "reset the connection"
HANG = "wait for ever"
ServerStep = str | bytes | float | Callable[["RawServer"], bytes]
"""What a server does: one of the words above, bytes to write (or what gives them), seconds to wait.
"""


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next request. Raises IncompleteReadError if there is none."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or b"0")
    return head, await reader.readexactly(length)


class RawServer:
    """Plays `script` on every connection and then closes it.

    `requests` (head, body) are the complete ones.
    """

    def __init__(self, script: tuple[ServerStep, ...]) -> None:
        self._script = script
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.url = ""
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.written_bytes = 0
        self.arrived = asyncio.Event()
        self.ended = asyncio.Event()

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.create_task(self._play(reader, writer)))

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for step in self._script:
                await self._do(step, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.ended.set()

    async def _do(
        self,
        step: ServerStep,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if step is READ:
            self.requests.append(await read_request(reader))
            self.arrived.set()
        elif step is SKIM:
            await reader.read(10)
        elif step is RESET:
            await asyncio.sleep(0.02)  # a reset throws away what has not left yet
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif step is HANG:
            await asyncio.Event().wait()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif not isinstance(step, str):
            data = step if isinstance(step, bytes) else step(self)
            writer.write(data)
            await writer.drain()
            self.written_bytes += len(data)


@asynccontextmanager
async def serve(*script: ServerStep, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    server = RawServer(script)
    listening = await asyncio.start_server(server.connect, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}{WEBHOOK_PATH}{SLUG}"
    try:
        yield server
    finally:
        listening.close()
        for task in server.tasks:
            task.cancel()
        # cancelled before it began, perhaps
        ended = await asyncio.gather(*server.tasks, return_exceptions=True)
        assert not [error for error in ended if isinstance(error, Exception)]


@cache
def _times() -> float:
    """How slow the machine was at the first test with a client."""
    return slowness()


def client(**settings: Any) -> ClayClient:
    quick: dict[str, Any] = {
        "request_timeout_s": 0.6 * _times(),
        "connect_timeout_s": 0.3 * _times(),
        "pool_timeout_s": 0.2 * _times(),
        "max_connections": 100,
        "keepalive_s": 15.0,
        "egress": EGRESS,
    }
    return ClayClient(**(quick | settings))


def patient(**settings: Any) -> ClayClient:
    """A client that waits as long as a worker does by default."""
    return client(
        **({"request_timeout_s": 30.0, "connect_timeout_s": 5.0, "pool_timeout_s": 5.0} | settings),
    )


async def send_once(url: str, clay: ClayClient | None = None) -> Outcome:
    async with clay or client() as sender:
        return await sender.send(url, TOKEN, LEAD)


async def say(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send these, a pause between them, and return what the server answers until it hangs up."""

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.create_task(send())
    answer = b""
    try:
        async with asyncio.timeout(30 * BUSY):
            while piece := await reader.read(65_536):
                answer += piece
    except ConnectionResetError:
        pass  # we were still sending when it hung up; what it had answered counts
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    return answer


P = ParamSpec("P")


def on_uvloop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run a test on the event loop of the processes, whose transports differ from asyncio's in
    details.
    """

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        process.run(test(*args, **kwargs))

    return run
