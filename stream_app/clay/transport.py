"""An httpx transport on aiohttp's connections. It knows whether the first byte of a request was written.

Before `write`, an error proves that nothing was sent. After `write`, no error proves it. aiohttp's connector opens,
keeps and checks the connections, and its parser reads the responses. `ClientSession` is left out: its request objects,
cookies, redirects and the task that writes each body cost a third of a request. pyproject.toml pins aiohttp to the
versions whose connections and protocol were reviewed for this. tests/unit/clay break connections in every known way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import aiohttp
import httpx
import yarl

from stream_app.clay.egress import Egress
from stream_app.clay.protocol import ClayProtocol

_TARGET: Final = "stream_app.target"


class ProxyRefused(Exception):
    """The egress proxy forwarded nothing and answered with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """The constant part of all requests to one webhook: for httpx, for aiohttp's connector, and as bytes.

    Create it inside the event loop of its transport.

    Attributes:
        url: The webhook.
        headers: The request headers as httpx has them.
        address: What the connector needs to find a connection.
        head: The request head, up to the value of `content-length`.
    """

    url: httpx.URL
    headers: httpx.Headers
    address: aiohttp.ClientRequest
    head: bytes

    @classmethod
    def of(cls, url: httpx.URL, headers: Mapping[str, str], egress: Egress) -> Target:
        """Build a target. The caller has checked that the header values are printable ASCII; httpx checks the URL.

        With TLS, the connector opens a tunnel through the proxy. Without TLS, the proxy gets the request itself.
        """
        proxy, login = egress.proxy, egress.proxy_headers
        path, host = url.raw_path.decode("ascii"), url.netloc.decode("ascii")
        if proxy is not None and url.scheme == "http":
            path = f"http://{host}{path}"
            headers = {**headers, **login}
        lines = [f"POST {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
        address = aiohttp.ClientRequest(
            "POST",
            yarl.URL(str(url), encoded=True),
            loop=asyncio.get_running_loop(),
            proxy=proxy,
            proxy_headers=login,
        )
        if address.proxy_headers is not None:
            # The connector adds this header at the first connection, which would change the key of the pool.
            address.proxy_headers["Host"] = address.headers["Host"]  # type: ignore[index]
        return cls(url, httpx.Headers(headers), address, "\r\n".join([*lines, "content-length: "]).encode("ascii"))

    @property
    def is_for_proxy(self) -> bool:
        """True if the proxy reads the request itself, because there is no TLS."""
        return self.address.proxy is not None and self.url.scheme == "http"

    def request(self, body: bytes) -> httpx.Request:
        """Build a request. `stream` adds no headers: they are already in `head`, and adding them doubles the cost."""
        return httpx.Request(
            "POST", self.url, headers=self.headers, stream=httpx.ByteStream(body), extensions={_TARGET: self}
        )


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends the requests that `Target.request` builds.

    `ConnectError` and `ConnectTimeout` mean that no byte of the request was handed to the operating system, or that the
    proxy answered 407 instead of forwarding the request (without TLS). Every other failure is `ReadError` or
    `RemoteProtocolError`. There are no redirects, cookies, netrc, decompression or retries. Certificates are always
    verified. Create it inside a running event loop.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        keepalive_s: float,
        read_buffer_bytes: int,
        egress: Egress,
    ) -> None:
        self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=keepalive_s, ssl=egress.tls)
        # aiohttp has no option for the protocol of its connections.
        self._connector._factory = partial(ClayProtocol, loop=asyncio.get_running_loop())  # type: ignore[assignment]
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._read_buffer_bytes = read_buffer_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.ByteStream)
        target: Target = request.extensions[_TARGET]
        connection = await self._connect(target.address)
        try:
            message, body = await self._exchange(connection, target.head, b"".join(request.stream))
        except (aiohttp.ClientConnectionError, OSError) as exc:
            raise httpx.ReadError("the connection broke") from exc
        except Exception as exc:  # any parser error after the request was sent
            raise httpx.RemoteProtocolError("not an HTTP answer") from exc
        if message.code == 407 and target.is_for_proxy:
            connection.close()
            raise httpx.ConnectError("the proxy forwarded nothing") from ProxyRefused(407)
        return httpx.Response(message.code, headers=message.raw_headers, stream=AnswerStream(connection, body))

    async def reach(self, target: Target) -> None:
        """Connect as a request would, and send nothing. Raises ConnectError or ConnectTimeout."""
        (await self._connect(target.address)).close()

    async def aclose(self) -> None:
        await self._connector.close()

    async def _connect(self, address: aiohttp.ClientRequest) -> Any:
        """Return a new or pooled connection that carries nothing of this request."""
        while True:
            try:
                connection: Any = await self._connector.connect(address, [], self._timeout)
            except TimeoutError as exc:
                raise httpx.ConnectTimeout("the connection timed out") from exc
            except aiohttp.ClientHttpProxyError as exc:
                raise httpx.ConnectError("the proxy refused the tunnel") from ProxyRefused(exc.status)
            except Exception as exc:  # nothing was written yet, whatever the error
                raise httpx.ConnectError("cannot connect") from exc
            protocol: ClayProtocol = connection.protocol
            if not (connection.closed or protocol.should_close or (protocol.was_used and protocol.has_unread)):
                return connection
            connection.close()
            if not protocol.was_used:
                raise httpx.ConnectError("the new connection ended, or received data, before anything was written")

    async def _exchange(self, connection: Any, head: bytes, body: bytes) -> tuple[Any, Any]:
        """Write the request and read the head of the response. Closes the connection on an error or a cancellation.

        Raises:
            Exception: Any error of aiohttp's parser or connection.
        """
        protocol = connection.protocol
        try:
            protocol.expect_answer(read_until_eof=True, auto_decompress=False, read_bufsize=self._read_buffer_bytes)
            connection.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            while True:
                message, answer = await protocol.read()
                if message.code == 101 or not 100 <= message.code <= 199:
                    return message, answer
        except BaseException:
            connection.close()
            raise


class AnswerStream(httpx.AsyncByteStream):
    """The body of a response. The pool gets the connection back when the body is complete."""

    def __init__(self, connection: Any, body: Any) -> None:
        self._connection = connection
        self._body = body
        body.on_eof(self._end)

    @property
    def is_whole(self) -> bool:
        """True if the whole body has arrived and the pool has the connection back. Reading it is then optional."""
        whole: bool = self._body.is_eof()
        return whole

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk: bytes = await self._body.readany()
        except Exception as exc:  # any parser error
            raise httpx.ReadError("the response broke off") from exc
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Close the connection, unless the pool has it back."""
        self._connection.close()

    def _end(self) -> None:
        transport = self._connection.transport
        # the response came before the whole request was written
        if transport is not None and transport.get_write_buffer_size():
            self._connection.close()
        else:
            self._connection.protocol.rest()
            self._connection.release()
