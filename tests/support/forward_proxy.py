"""A real HTTP forward proxy: CONNECT for TLS, absolute-form requests without; with credentials, or refusing."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class ForwardProxy:
    """`refuse`: the status of all its answers. `asked`: the request lines that it got, each with its answer."""

    def __init__(self, credentials: str = "", refuse: int = 0) -> None:
        self._credentials = base64.b64encode(credentials.encode()).decode() if credentials else ""
        self.refuse = refuse
        self.asked: list[tuple[str, int]] = []
        self.heads: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            line, *lines = head.split("\r\n")
            method, target, _ = line.split(" ")
            given = [
                header.partition(": ")[2] for header in lines if header.lower().startswith("proxy-authorization: ")
            ]
            status = self.refuse or (407 if self._credentials and given != [f"Basic {self._credentials}"] else 200)
            self.asked.append((f"{method} {target}", status))
            if status != 200:
                writer.write(b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\nno" % status)
                await writer.drain()
                return
            place = urlsplit(f"//{target}" if method == "CONNECT" else target)
            far_reader, far_writer = await asyncio.open_connection(place.hostname, place.port)
            ends.append(far_writer)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                passed = [header for header in lines if not header.lower().startswith("proxy-")]
                far_writer.write("\r\n".join([f"{method} {place.path} HTTP/1.1", *passed]).encode())
            await asyncio.wait(
                [asyncio.create_task(pump) for pump in (_pump(reader, far_writer), _pump(far_reader, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for end in ends:
                end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass


@asynccontextmanager
async def forward_proxy(credentials: str = "", refuse: int = 0) -> AsyncIterator[tuple[ForwardProxy, str]]:
    """Start one. Return it and "127.0.0.1:port"."""
    proxy = ForwardProxy(credentials, refuse)
    listening = await asyncio.start_server(proxy.connect, "127.0.0.1", 0)
    try:
        yield proxy, f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in proxy.tasks:
            task.cancel()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
