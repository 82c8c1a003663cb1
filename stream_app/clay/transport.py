"""POSTs on aiohttp's connections.

The transport knows whether the first byte of a request was written.

Before `write`, an error proves that nothing was sent. After `write`, no error proves it. aiohttp's
connector opens, keeps and checks the connections, and its parser reads the responses.
`ClientSession` is left out: its request objects, cookies, redirects and the task that writes each
body cost a third of a request. pyproject.toml pins aiohttp to the versions whose connections and
protocol were reviewed for this. tests/unit/clay break connections in every known way.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiohttp
import yarl
from aiohttp.client_proto import ResponseHandler

from stream_app.clay import Egress

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
# the end of a head may be split over two packets; this many bytes of it can be in the first
_OVERLAP: Final = 2


class ClayProtocol(ResponseHandler):
    """aiohttp's protocol of one connection: call `expect_answer` before each request, and `rest`
    after its response.

    1. A connection that receives data while no request is under way is closed. Many servers and
       proxies send a 408 before they close an idle connection, and the next lead would take that
       408 for its own response.
    2. The head of a response is parsed before its body. The status then counts even if the body in
       the same packet is malformed.
    """

    was_used = False
    _rests = False
    _in_head = False
    _before = b""

    def expect_answer(self, **params: Any) -> None:
        """Prepare for a response. For `params` see `ResponseHandler.set_response_params`."""
        self.was_used = True
        self._rests = False
        self._in_head = True
        self._before = b""
        self.set_response_params(**params)

    def rest(self) -> None:
        """Mark the connection as idle: any data that arrives now closes it."""
        self._rests = True

    @property
    def has_unread(self) -> bool:
        """True if the kernel holds bytes, or the end of the stream, that the event loop has not
        handled yet.

        The loop handles many events in one turn, so a lead can get a connection whose 408 has not
        been read.
        """
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Handle a parsed head and its body stream. The parser calls it."""
        if _is_final(data[0].code):
            self._in_head = False
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if self._rests:
            self.close()
            return
        while self._in_head and (end := _END_OF_HEAD.search(self._before + data)):
            length = end.end() - len(self._before)
            self._before = b""
            super().data_received(data[:length])
            data = data[length:]
            if not data or self.exception() is not None:
                return
        if self._in_head:
            self._before = (self._before + data)[-_OVERLAP:]
        super().data_received(data)


def _is_final(code: int) -> bool:
    """True unless another response to the same request follows.

    Behind a 101 no further HTTP follows.
    """
    return code == 101 or not 100 <= code <= 199


class NotSent(Exception):
    """No byte of the request was handed to the operating system, or the proxy refused to forward
    it.

    The cause is the error of the connection; a TimeoutError if it took too long.
    """


class ConnectionBroke(Exception):
    """The connection broke, and the request may have arrived."""


class BrokenAnswer(Exception):
    """The request may have arrived, and its response is not valid HTTP."""


class ProxyRefused(Exception):
    """The egress proxy forwarded nothing and answered with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """The constant part of all requests to one webhook: for aiohttp's connector, and as bytes.

    Create it inside the event loop of its transport.

    Attributes:
        address: What the connector needs to find a connection.
        head: The request head, up to the value of `content-length`.
    """

    url: yarl.URL
    headers: Mapping[str, str]
    address: aiohttp.ClientRequest
    head: bytes

    @classmethod
    def of(cls, url: yarl.URL, headers: Mapping[str, str], egress: Egress) -> Target:
        """Build a target. The caller has checked that the header values are printable ASCII.

        With TLS, the connector opens a tunnel through the proxy. Without TLS, the proxy gets the
        request itself.
        """
        proxy, login = proxy_of(egress)
        path = url.raw_path_qs
        host = url.host_port_subcomponent
        if proxy is not None and url.scheme == "http":
            path = f"http://{host}{path}"
            headers = {**headers, **login}
        lines = [
            f"POST {path} HTTP/1.1",
            f"host: {host}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        address = aiohttp.ClientRequest(
            "POST",
            url,
            loop=asyncio.get_running_loop(),
            proxy=proxy,
            proxy_headers=login,
        )
        if address.proxy_headers is not None:
            # The connector adds this header at the first connection, which would change the key of
            # the pool.
            address.proxy_headers["Host"] = address.headers["Host"]  # type: ignore[index]
        return cls(url, headers, address, "\r\n".join([*lines, "content-length: "]).encode("ascii"))

    @property
    def is_for_proxy(self) -> bool:
        """True if the proxy reads the request itself, because there is no TLS."""
        return self.address.proxy is not None and self.url.scheme == "http"


def proxy_of(egress: Egress) -> tuple[yarl.URL | None, dict[str, str]]:
    """Return the proxy's address without its credentials, and these as headers; (None, {}) if there
    is no proxy.
    """
    if egress.proxy_url is None:
        return None, {}
    url = yarl.URL(egress.proxy_url)
    if url.user is None:
        return url, {}
    return url.with_user(None), {
        "proxy-authorization": aiohttp.encode_basic_auth(url.user, url.password or ""),
    }


class Transport:
    """Sends POSTs.

    No redirects, cookies, netrc, decompression or retries; certificates are always verified.

    Create it inside a running event loop.
    """

    def __init__(
        self,
        connect_timeout_s: float,
        keepalive_s: float,
        read_buffer_bytes: int,
        egress: Egress,
    ) -> None:
        self._connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=keepalive_s,
            ssl=egress.tls,
        )
        # aiohttp has no option for the protocol of its connections.
        self._connector._factory = partial(ClayProtocol, loop=asyncio.get_running_loop())  # type: ignore[assignment]
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._read_buffer_bytes = read_buffer_bytes

    async def post(self, target: Target, body: bytes) -> Answer:
        """Send one request, and return its response when the head of it is there.

        Raises:
            NotSent: Nothing was sent. This includes the 407 of a proxy that reads the request
                itself (without TLS).
            ConnectionBroke: It may have been sent, and the connection broke.
            BrokenAnswer: It may have been sent, and the response is not valid.
        """
        connection = await self._connect(target.address)
        try:
            message, content = await self._exchange(connection, target.head, body)
        except (aiohttp.ClientConnectionError, OSError) as exc:
            raise ConnectionBroke from exc
        except Exception as exc:  # any parser error after the request was sent
            raise BrokenAnswer from exc
        if message.code == 407 and target.is_for_proxy:
            connection.close()
            raise NotSent from ProxyRefused(407)
        return Answer(message, connection, content)

    async def reach(self, target: Target) -> None:
        """Connect as a request would, and send nothing. Raises NotSent."""
        (await self._connect(target.address)).close()

    async def close(self) -> None:
        await self._connector.close()

    async def _connect(self, address: aiohttp.ClientRequest) -> Any:
        """Return a new or pooled connection that carries nothing of this request."""
        while True:
            try:
                connection: Any = await self._connector.connect(address, [], self._timeout)
            except aiohttp.ClientHttpProxyError as exc:
                raise NotSent from ProxyRefused(exc.status)
            except Exception as exc:  # nothing was written yet, whatever the error
                raise NotSent from exc
            protocol: ClayProtocol = connection.protocol
            if not (
                connection.closed
                or protocol.should_close
                or (protocol.was_used and protocol.has_unread)
            ):
                return connection
            connection.close()
            if not protocol.was_used:
                raise NotSent(
                    "the new connection ended, or received data, before anything was written",
                )

    async def _exchange(self, connection: Any, head: bytes, body: bytes) -> tuple[Any, Any]:
        """Write the request and read the head of the response.

        Raises any error of aiohttp's parser or connection.

        It closes the connection on an error or a cancellation.
        """
        protocol = connection.protocol
        try:
            protocol.expect_answer(
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=self._read_buffer_bytes,
            )
            connection.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            while True:
                message, answer = await protocol.read()
                if _is_final(message.code):
                    return message, answer
        except BaseException:
            connection.close()
            raise


class Answer:
    """A response with this HTTP `status`.

    The pool gets the connection back when the body is complete.
    """

    def __init__(self, message: Any, connection: Any, content: Any) -> None:
        self.status: int = message.code
        self._message = message
        self._connection = connection
        self._content = content
        content.on_eof(self._end)

    @property
    def is_whole(self) -> bool:
        """True if the whole body has arrived and the pool has the connection back.

        Reading it is then optional.
        """
        return bool(self._content.is_eof())

    def header(self, name: str) -> str | None:
        """Return the first header of this name, None if there is none."""
        value: str | None = self._message.headers.get(name)
        return value

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises ConnectionBroke if it breaks off."""
        while True:
            try:
                chunk: bytes = await self._content.readany()
            except Exception as exc:  # any parser error
                raise ConnectionBroke from exc
            if not chunk:
                return
            yield chunk

    def close(self) -> None:
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
