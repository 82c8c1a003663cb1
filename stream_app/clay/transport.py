"""An httpx transport on aiohttp's connections that knows whether the first byte of a request was handed over.

Until `write` nothing was sent, whatever went wrong; from `write` on nothing is proof. aiohttp's connector makes, keeps
and checks the connections, and its parser reads the answers; `ClientSession` is left out: a third of what a request
costs is its requests, cookies, redirects and a task to write each body. pyproject.toml bounds aiohttp to the version
whose connections and protocol were read for this; tests/unit/clay break them in every way known.
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
    """The egress proxy passed nothing on, and answered `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """What is the same in all requests to a webhook: for httpx, for aiohttp's connector, and as bytes.

    `head` ends where the body's length has to follow. Must be made inside the running event loop of its transport.
    """

    url: httpx.URL
    headers: httpx.Headers
    address: aiohttp.ClientRequest
    head: bytes

    @classmethod
    def of(cls, url: httpx.URL, headers: Mapping[str, str], egress: Egress) -> Target:
        """The headers' values are printable ASCII, which domain/webhook.py sees to; of the URL httpx does.

        TLS goes through a tunnel that the connector asks the proxy for. Without TLS the proxy gets the request itself.
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
            # The connector adds this at the first connection. The key of the pool would be another one from then on.
            address.proxy_headers["Host"] = address.headers["Host"]  # type: ignore[index]
        return cls(url, httpx.Headers(headers), address, "\r\n".join([*lines, "content-length: "]).encode("ascii"))

    @property
    def is_for_proxy(self) -> bool:
        """True if a proxy reads the request itself: there is no TLS."""
        return self.address.proxy is not None and self.url.scheme == "http"

    def request(self, body: bytes) -> httpx.Request:
        """`stream` adds no headers, which are written as they are in `head`: half of what a Request costs."""
        return httpx.Request(
            "POST", self.url, headers=self.headers, stream=httpx.ByteStream(body), extensions={_TARGET: self}
        )


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends what `Target.request` gives.

    `ConnectError` and `ConnectTimeout`: not one byte of the request was handed to the operating system, or (without
    TLS) the proxy answered 407, which it does instead of passing the request on. All else is `ReadError` or
    `RemoteProtocolError`. No redirects, cookies, netrc, decompression or retries; certificates are always verified.
    Must be made inside a running event loop.
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
        except Exception as exc:  # whatever a bad answer breaks in the parser: the request was sent
            raise httpx.RemoteProtocolError("not an HTTP answer") from exc
        if message.code == 407 and target.is_for_proxy:
            connection.close()
            raise httpx.ConnectError("the proxy passed nothing on") from ProxyRefused(407)
        return httpx.Response(message.code, headers=message.raw_headers, stream=AnswerStream(connection, body))

    async def reach(self, target: Target) -> None:
        """Connect as a request would, and send nothing. Raises ConnectError, ConnectTimeout."""
        (await self._connect(target.address)).close()

    async def aclose(self) -> None:
        await self._connector.close()

    async def _connect(self, address: aiohttp.ClientRequest) -> Any:
        """A connection that was made or kept, with nothing of this request on it."""
        while True:
            try:
                connection: Any = await self._connector.connect(address, [], self._timeout)
            except TimeoutError as exc:
                raise httpx.ConnectTimeout("no connection in time") from exc
            except aiohttp.ClientHttpProxyError as exc:
                raise httpx.ConnectError("the proxy made no tunnel") from ProxyRefused(exc.status)
            except Exception as exc:  # whatever it is: nothing was written yet
                raise httpx.ConnectError("no connection") from exc
            protocol: ClayProtocol = connection.protocol
            if not (connection.closed or protocol.should_close or (protocol.was_used and protocol.has_unread)):
                return connection
            connection.close()
            if not protocol.was_used:
                raise httpx.ConnectError("the new connection ended, or spoke first, before anything was written")

    async def _exchange(self, connection: Any, head: bytes, body: bytes) -> tuple[Any, Any]:
        """Write the request, read the head of its answer. Raises what aiohttp's parser and connections do, and ends the
        connection then, and when it is cancelled.
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
    """The body of an answer. When all of it has come, the pool has the connection back."""

    def __init__(self, connection: Any, body: Any) -> None:
        self._connection = connection
        self._body = body
        body.on_eof(self._end)

    @property
    def is_whole(self) -> bool:
        """All of it has come, and the pool has the connection back: whoever needs no word of it need not read it."""
        whole: bool = self._body.is_eof()
        return whole

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk: bytes = await self._body.readany()
        except Exception as exc:  # whatever a bad body breaks in the parser
            raise httpx.ReadError("the answer broke off") from exc
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Ends the connection, unless the pool has it back."""
        self._connection.close()

    def _end(self) -> None:
        transport = self._connection.transport
        if transport is not None and transport.get_write_buffer_size():  # the answer has overtaken its request
            self._connection.close()
        else:
            self._connection.protocol.rest()
            self._connection.release()
