"""An httpx transport on aiohttp's connections, which knows whether a request left.

An error before `write` proves that nothing was sent, and is a `NotSent`. No error after `write`
proves that, and those errors are httpx's own. aiohttp's connector opens, keeps and checks the
connections, and its parser reads the responses. pyproject.toml pins aiohttp to the versions whose
connections and protocol were reviewed for this. tests/unit/clay breaks connections in every known
way, and docs/decisions/03-transport.md says why httpx's own transport is not used.
"""

from __future__ import annotations

import asyncio
import errno
import re
import select
import socket
import ssl
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import aiohttp
import httpx
import yarl
from aiohttp.client_proto import ResponseHandler

from stream_app.clay import Egress
from stream_app.domain.model.outcome import UnsentReason
from stream_app.tasks import causes

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
# The end of a head may be split over two packets. At most this many of its bytes are in the first.
_OVERLAP: Final = 2
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_METHODS_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
PREPARED_HEAD: Final = "prepared_head"
"""The extension of a request that holds what `Transport.head_of` returned for another request. The
two differ in their bodies only.
"""


class ClayProtocol(ResponseHandler):
    """aiohttp's protocol of one connection.

    Call `expect_answer` before each request, and `rest` after its response.

    1. A connection that receives data while no request is under way is closed. Many servers and
       proxies send a 408 before they close an idle connection, and the next lead would take that
       408 for its own response.
    2. The head of a response is parsed before its body. The status then counts even if the body in
       the same packet is malformed.
    """

    was_used = False
    _poll: select.poll | None = None
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
        """True if the kernel holds bytes or the end of the stream, which the loop has not read.

        The loop handles many events in one turn, so a lead could get a connection whose 408 has not
        been read yet.
        """
        if self.transport is None:
            return False
        if self._poll is None:
            sock = self.transport.get_extra_info("socket")
            if sock is None or not hasattr(select, "poll"):
                return False
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Handle a parsed head and its body stream. The parser calls it."""
        if _is_final(data[0].code):
            self._in_head = False
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if self._rests:
            # When a body has been read, aiohttp calls this without data, to let its parser go on.
            if data:
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
    """True unless another response to the same request follows. After a 101 no HTTP follows."""
    return code == 101 or not 100 <= code <= 199


class NotSent(httpx.ConnectError):
    """Nothing was sent, or the proxy refused to forward it.

    No byte of the request was handed to the operating system, unless such a proxy has it. Only this
    error proves that. httpx's own errors of a connection do not, because other transports also
    raise them after the request was written.

    Attributes:
        reason: Why nothing was sent.
        detail: What is to be added to the reason in words, such as the status of the proxy.
    """

    def __init__(self, reason: UnsentReason, detail: str = "") -> None:
        super().__init__(f"nothing was sent ({reason}){detail}")
        self.reason: UnsentReason = reason
        self.detail = detail


def proxy_of(egress: Egress) -> tuple[yarl.URL | None, dict[str, str]]:
    """Return the proxy's address without its credentials, and the credentials as headers.

    Without a proxy that is (None, {}).
    """
    if egress.proxy_url is None:
        return None, {}
    url = yarl.URL(egress.proxy_url)
    if url.user is None:
        return url, {}
    credentials = aiohttp.encode_basic_auth(url.user, url.password or "")
    return url.with_user(None), {"proxy-authorization": credentials}


class Transport(httpx.AsyncBaseTransport):
    """Sends each request once.

    It knows no redirects, cookies, netrc or retries, and always verifies certificates. The caller
    limits the time of the whole exchange, for example by `asyncio.timeout`, because no extension of
    a request is read but `PREPARED_HEAD`. Create it inside a running event loop.

    Args:
        connect_timeout_s: Limit of DNS, proxy, TCP and TLS together.
        keepalive_s: Idle time after which a connection is closed.
        read_buffer_bytes: As soon as this much of a body waits to be read, no more is taken from
            the connection.
        egress: The authorities and the proxy.
    """

    def __init__(
        self,
        *,
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
        factory = partial(ClayProtocol, loop=asyncio.get_running_loop())
        self._connector._factory = factory  # type: ignore[assignment]  # a partial
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._read_buffer_bytes = read_buffer_bytes
        self._proxy, self._login = proxy_of(egress)
        self._login_lines = [
            f"{name}: {value}".encode("ascii") for name, value in self._login.items()
        ]
        self._addresses: dict[tuple[str, bytes, int | None], aiohttp.ClientRequest] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, and return its response as soon as the head of it has come.

        Raises:
            NotSent: Nothing was sent. This includes the 407 of a proxy that reads the request
                itself (without TLS).
            httpx.ReadError: It may have been sent, and the connection broke. Reading the body of
                the response raises it, too.
            httpx.RemoteProtocolError: It may have been sent, and the response is not valid HTTP.
            httpx.LocalProtocolError: A header has a line break. Nothing was sent.
            httpx.UnsupportedProtocol: The URL is not http or https. Nothing was sent.
        """
        body = await _body(request.stream)
        head = request.extensions.get(PREPARED_HEAD) or self.head_of(request)
        if body or request.method in _METHODS_WITH_BODY:
            head = b"%bcontent-length: %d\r\n" % (head, len(body))
        connection = await self._connect(request.url)
        try:
            message, content = await self._exchange(
                connection,
                b"%b\r\n%b" % (head, body),
                has_no_body=request.method == "HEAD",
            )
        except (aiohttp.ClientConnectionError, OSError) as exc:
            raise httpx.ReadError("the connection broke before a response came") from exc
        except Exception as exc:  # any parser error after the request was sent
            raise httpx.RemoteProtocolError("the response is not valid HTTP") from exc
        if message.code == 407 and self._is_for_proxy(request.url):
            connection.close()
            raise _refused_by_proxy(407)
        return httpx.Response(
            message.code,
            headers=message.raw_headers,
            stream=ResponseBody(connection, content),
        )

    def head_of(self, request: httpx.Request) -> bytes:
        """Return the lines of a request's head that do not depend on its body.

        The length of the body is added when it is sent, in place of what the request says of
        framing.

        Raises:
            httpx.LocalProtocolError: A header has a line break.
        """
        path = request.url.raw_path
        lines = [
            b"%b: %b" % header
            for header in request.headers.raw
            if header[0].lower() not in _FRAMING
        ]
        if self._is_for_proxy(request.url):
            path = b"http://%b%b" % (request.url.netloc, path)
            lines += self._login_lines
        lines.insert(0, b"%b %b HTTP/1.1" % (request.method.encode("ascii"), path))
        head = b"".join(line + b"\r\n" for line in lines)
        if len(head.splitlines()) != len(lines):
            raise httpx.LocalProtocolError("a header of the request has a line break")
        return head

    async def reach(self, url: httpx.URL) -> None:
        """Connect as a request to this URL would, and send nothing. Raises NotSent."""
        (await self._connect(url)).close()

    async def aclose(self) -> None:
        await self._connector.close()

    def _is_for_proxy(self, url: httpx.URL) -> bool:
        """True if the proxy reads the request itself, because there is no TLS."""
        return self._proxy is not None and url.scheme == "http"

    def _address(self, url: httpx.URL) -> aiohttp.ClientRequest:
        """Return what the connector needs to find a connection.

        That is costly to make, so it is kept for each host. With TLS, the connector opens a tunnel
        through the proxy. Without TLS, the proxy gets the request itself.
        """
        origin = (url.scheme, url.raw_host, url.port)
        address = self._addresses.get(origin)
        if address is not None:
            return address
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol("the URL must begin with http:// or https://")
        try:
            target = yarl.URL.build(
                scheme=url.scheme,
                host=url.raw_host.decode("ascii"),
                port=url.port,
                path="/",
            )
        except ValueError as exc:  # no host can have this name
            raise NotSent("dns") from exc
        address = aiohttp.ClientRequest(
            "POST",
            target,
            loop=asyncio.get_running_loop(),
            proxy=self._proxy,
            proxy_headers=self._login,
        )
        if address.proxy_headers is not None:
            # The connector adds this header at the first connection, which would change the key of
            # the pool.
            address.proxy_headers["Host"] = address.headers["Host"]  # type: ignore[index]  # a dict of ours
        self._addresses[origin] = address
        return address

    async def _connect(self, url: httpx.URL) -> Any:
        """Return a new or pooled connection that carries nothing of this request."""
        address = self._address(url)
        while True:
            try:
                connection: Any = await self._connector.connect(address, [], self._timeout)
            except Exception as exc:  # nothing was written yet, whatever the error
                raise _not_sent(exc, has_proxy=self._proxy is not None) from exc
            protocol: ClayProtocol = connection.protocol
            # No await from this look to the write in `_exchange`. What arrives before the look
            # closes the connection. What arrives after it is read as the response, as it is by any
            # client.
            is_fresh = not (connection.closed or protocol.should_close)
            if is_fresh and not (protocol.was_used and protocol.has_unread):
                return connection
            connection.close()
            if not protocol.was_used:
                # The new connection ended, or received data, before anything was written.
                raise NotSent("connect_failed")

    async def _exchange(
        self,
        connection: Any,
        data: bytes,
        *,
        has_no_body: bool,
    ) -> tuple[Any, Any]:
        """Write the request and read the head of the response.

        Raises any error of aiohttp's parser or connection. After an error or a cancellation the
        connection is closed.
        """
        protocol = connection.protocol
        try:
            protocol.expect_answer(
                skip_payload=has_no_body,
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=self._read_buffer_bytes,
            )
            connection.transport.write(data)
            while True:
                message, content = await protocol.read()
                if _is_final(message.code):
                    return message, content
        except BaseException:
            connection.close()
            raise


async def _body(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> bytes:
    """Return the whole body of a request."""
    if isinstance(stream, httpx.ByteStream):
        return b"".join(stream)  # without a turn of the event loop
    assert isinstance(stream, httpx.AsyncByteStream)
    return b"".join([piece async for piece in stream])


def _refused_by_proxy(status: int) -> NotSent:
    return NotSent("proxy", f" refused (HTTP {status})")


def _not_sent(error: Exception, *, has_proxy: bool) -> NotSent:
    """Name the reason why there is no connection."""
    if isinstance(error, TimeoutError):
        return NotSent("connect_timeout")
    for cause in causes(error):
        if isinstance(cause, aiohttp.ClientHttpProxyError):
            return _refused_by_proxy(cause.status)
        if isinstance(cause, aiohttp.ClientProxyConnectionError):
            return NotSent("proxy", " cannot be reached")
        if isinstance(cause, aiohttp.ClientConnectorDNSError) and has_proxy:
            return NotSent("proxy", "'s host name cannot be resolved")
        if isinstance(cause, socket.gaierror):
            return NotSent("dns")
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return NotSent("tls", f" ({cause.reason})")
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return NotSent("connect_refused")
    return NotSent("connect_failed")


class ResponseBody(httpx.AsyncByteStream):
    """The body of a response as it arrives. At its end, the pool gets the connection back."""

    def __init__(self, connection: Any, content: Any) -> None:
        self._connection = connection
        self._content = content
        content.on_eof(self._end)

    @property
    def is_whole(self) -> bool:
        """True if the whole body has arrived, so that the pool has the connection back.

        Then the body need not be read.
        """
        return bool(self._content.is_eof())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces. Raises httpx.ReadError if it breaks off."""
        while True:
            try:
                chunk: bytes = await self._content.readany()
            except Exception as exc:  # any parser error
                raise httpx.ReadError("the body broke off") from exc
            if not chunk:
                return
            yield chunk

    async def aclose(self) -> None:
        """Close the connection, unless the pool has it back."""
        self._connection.close()

    def _end(self) -> None:
        transport = self._connection.transport
        # The response came before the whole request was written, so a rest of it would still leave.
        if transport is not None and transport.get_write_buffer_size():
            self._connection.close()
        else:
            self._connection.protocol.rest()
            self._connection.release()
