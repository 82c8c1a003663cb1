"""A real HTTP forward proxy: CONNECT for TLS, absolute-form requests without; with credentials, or
refusing.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class ForwardProxy:
    """`asked`: the request lines that it got, each with the status of its answer.

    `heads`: all of their heads.
    """

    def __init__(self, credentials: str, refuse: int) -> None:
        self._proof = (
            f": Basic {base64.b64encode(credentials.encode()).decode()}\r\n" if credentials else ""
        )
        self._refuse = refuse
        self.asked: list[tuple[str, int]] = []
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            line, *lines = head.split("\r\n")
            method, target, _ = line.split(" ")
            status = self._refuse or (200 if self._proof in head else 407)
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
                [
                    asyncio.create_task(pump)
                    for pump in (_pump(reader, far_writer), _pump(far_reader, writer))
                ],
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
async def forward_proxy(
    credentials: str = "",
    refuse: int = 0,
) -> AsyncIterator[tuple[ForwardProxy, str]]:
    """Start one. `refuse`: the status of all its answers. Return it and "127.0.0.1:port"."""
    proxy = ForwardProxy(credentials, refuse)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
