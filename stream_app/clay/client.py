"""The Clay client: one POST, one outcome. A request counts as uncertain unless it is proved that nothing was sent.

It uses httpx's types and our own transport on aiohttp's connections. `httpx.AsyncClient` costs several times as much,
for cookies, redirects and logged URLs. The ready-made transports are not safe: httpx-aiohttp and pyreqwest report a
connection that broke *after* the request was sent as `ConnectTimeout` or `ConnectError`. A caller that trusts that
sends the lead again and pays twice. This client never sends a request twice; a test counts the requests.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
import httpx
import msgspec

from stream_app.clay.egress import Egress
from stream_app.clay.transport import AiohttpTransport, AnswerStream, ProxyRefused, Target
from stream_app.domain.delivery.outcome import (
    Accepted,
    Outcome,
    Refused,
    Uncertain,
    UncertainReason,
    UnsentReason,
    classify,
)
from stream_app.domain.webhook import MALFORMED, token_problem

_ANSWER_WAIT_S = 2.0  # The status decides the outcome. The body only explains it, so the wait for the body is short.
_MAX_RETRY_AFTER_CHARACTERS = 64

UNSENT_TEXT: Final[dict[UnsentReason, str]] = {
    "dns": "nothing was sent: cannot resolve the webhook's host name",
    "connect_refused": "nothing was sent: the webhook's host refused the connection",
    "connect_failed": "nothing was sent: cannot connect to the webhook's host",
    "connect_timeout": "nothing was sent: the connection to the webhook's host timed out",
    "tls": "nothing was sent: the TLS handshake with the webhook's host failed",
    "proxy": "nothing was sent: the egress proxy",
    "pool_timeout": "nothing was sent: all connections were busy",
}
UNCERTAIN_TEXT: Final[dict[UncertainReason, str]] = {
    "read_timeout": "sent, but no response came in time",
    "request_timeout": "sent, but no response came in time",
    "reset": "sent, but the connection broke before a response came",
    "broken_answer": "sent, but the response is not valid HTTP",
}


class ClayClient:
    """Sends leads to Clay's webhooks. An async context manager; one client serves the whole worker.

    Args:
        request_timeout_s: Limit of one whole `send`, including the wait for a connection.
        connect_timeout_s: Limit of DNS, TCP and TLS together.
        pool_timeout_s: Limit of the wait for one of `max_connections`. `connect_timeout_s` and `pool_timeout_s`
            together must be shorter than `request_timeout_s`, so that the request timeout cannot expire before anything
            was sent.
        max_connections: Number of connections open at the same time.
        keepalive_s: Idle time after which a connection is closed. Keep it shorter than the server's own limit: a
            request on a connection that the server is closing ends as uncertain.
        max_answer_bytes: Number of bytes read of a response body.
        egress: Trusted certificate authorities and the proxy.
        transport: For tests. `ConnectError`, `ConnectTimeout` and `PoolTimeout` must mean that nothing was sent.
    """

    def __init__(
        self,
        *,
        request_timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        pool_timeout_s: float = 5.0,
        max_connections: int = 100,
        keepalive_s: float = 15.0,
        max_answer_bytes: int = 4096,
        egress: Egress | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if connect_timeout_s + pool_timeout_s >= request_timeout_s:
            raise ValueError("request_timeout_s must be longer than connect_timeout_s and pool_timeout_s together")
        self._request_timeout_s = request_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._pool_timeout_s = pool_timeout_s
        self._keepalive_s = keepalive_s
        self._max_answer_bytes = max_answer_bytes
        self._egress = egress or Egress.of()
        self._connections = asyncio.Semaphore(max_connections)
        self._given_transport = transport
        self._transport: httpx.AsyncBaseTransport
        self._targets: dict[tuple[str, str | None], Target] = {}

    async def __aenter__(self) -> Self:
        self._transport = self._given_transport or AiohttpTransport(
            connect_timeout_s=self._connect_timeout_s,
            keepalive_s=self._keepalive_s,
            read_buffer_bytes=self._max_answer_bytes,
            egress=self._egress,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def send(
        self, webhook_url: str, token: str | None, body: bytes, *, unavailable_is_refused: bool = True
    ) -> Outcome:
        """POST one lead and return the outcome. Never sends twice.

        Args:
            webhook_url: The webhook, a secret.
            token: The value of `x-clay-webhook-auth`, if the table needs one.
            body: One JSON object.
            unavailable_is_refused: The destination's setting for 503: True if a 503 proves that Clay took nothing.

        Returns:
            The outcome. Network errors are outcomes, not exceptions. A cancellation passes through and leaves the lead
            uncertain.

        Raises:
            ValueError: The URL or the token is invalid.
        """
        request = self._request(webhook_url, token, body)
        started = asyncio.get_running_loop().time()
        if not await self._has_connection():
            return _unsent("pool_timeout", _since_ms(started))
        try:
            return await self._exchange(request, started + self._request_timeout_s, unavailable_is_refused)
        finally:
            self._connections.release()

    async def reach(self, webhook_url: str) -> Refused | None:
        """Connect to a webhook's host like `send`, and send nothing. Returns the reason if it cannot connect."""
        assert isinstance(self._transport, AiohttpTransport)
        started = asyncio.get_running_loop().time()
        try:
            await self._transport.reach(_target(webhook_url, None, self._egress))
        except httpx.ConnectTimeout:
            return _unsent("connect_timeout", _since_ms(started))
        except httpx.ConnectError as exc:
            return _connect_failure(exc, _since_ms(started), self._egress)
        return None

    async def _has_connection(self) -> bool:
        """Acquire a connection slot. False if none became free in time."""
        if not self._connections.locked():  # The fast path avoids a timeout, which costs more than the semaphore.
            return await self._connections.acquire()
        try:
            async with asyncio.timeout(self._pool_timeout_s):
                return await self._connections.acquire()
        except TimeoutError:
            return False

    def _request(self, webhook_url: str, token: str | None, body: bytes) -> httpx.Request:
        target = self._targets.get((webhook_url, token))
        if target is None:
            target = self._targets[webhook_url, token] = _target(webhook_url, token, self._egress)
        return target.request(body)

    async def _exchange(self, request: httpx.Request, give_up_at: float, unavailable_is_refused: bool) -> Outcome:
        """Send the request and return its outcome. The status decides it, even if the body fails."""
        now = asyncio.get_running_loop().time
        begun = now()
        response: httpx.Response | None = None
        excerpt = bytearray()
        try:
            async with asyncio.timeout_at(give_up_at) as limit:
                response = await self._transport.handle_async_request(request)
                answered = now()
                if not (response.is_success and isinstance(response.stream, AnswerStream) and response.stream.is_whole):
                    limit.reschedule(min(give_up_at, answered + _ANSWER_WAIT_S))
                    await self._read(response, excerpt)
        except (httpx.RequestError, TimeoutError) as exc:
            if response is None:
                return _failure(exc, _since_ms(begun), self._egress)
        latency_ms = round((answered - begun) * 1000)
        if response.is_success:
            return Accepted(response.status_code, latency_ms)  # `classify` would return the same, at a higher cost.
        return classify(
            response.status_code,
            response.headers.get("retry-after", "")[:_MAX_RETRY_AFTER_CHARACTERS] or None,
            "" if "content-encoding" in response.headers else excerpt.decode("utf-8", "replace"),
            latency_ms,
            unavailable_is_refused,
            known=_sent_values(request),
        )

    async def _read(self, response: httpx.Response, consumed: bytearray) -> None:
        """Read the beginning of the body. The body may break off, arrive slowly or never end."""
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        try:
            async for chunk in stream:
                consumed += chunk[: self._max_answer_bytes - len(consumed)]
                if len(consumed) == self._max_answer_bytes:
                    break
        finally:
            await stream.aclose()


def _target(webhook_url: str, token: str | None, egress: Egress) -> Target:
    headers = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "stream-app",
    }
    if token is not None:
        if problem := token_problem(token):
            raise ValueError(problem)
        headers["x-clay-webhook-auth"] = token
    try:
        urlsplit(webhook_url)  # urlsplit checks brackets as strictly as aiohttp does; httpx does not
        url = httpx.URL(webhook_url)
    except (ValueError, httpx.InvalidURL):
        raise ValueError(MALFORMED) from None
    return Target.of(url, headers, egress)


def _failure(exc: httpx.RequestError | TimeoutError, latency_ms: int, egress: Egress) -> Outcome:
    """The outcome of a request without a status. Only three httpx errors prove that nothing was sent."""
    match exc:
        case httpx.ConnectTimeout():
            return _unsent("connect_timeout", latency_ms)
        case httpx.PoolTimeout():
            return _unsent("pool_timeout", latency_ms)
        case httpx.ConnectError():
            return _connect_failure(exc, latency_ms, egress)
        case httpx.TimeoutException():
            return _uncertain("read_timeout", latency_ms)
        case TimeoutError():
            return _uncertain("request_timeout", latency_ms)
        case httpx.NetworkError():
            return _uncertain("reset", latency_ms)
        case _:
            return _uncertain("broken_answer", latency_ms)


def _connect_failure(exc: httpx.ConnectError, latency_ms: int, egress: Egress) -> Refused:
    for cause in _causes(exc):
        if isinstance(cause, ProxyRefused):
            return _unsent("proxy", latency_ms, f" refused (HTTP {cause.status})")
        if isinstance(cause, aiohttp.ClientProxyConnectionError):
            return _unsent("proxy", latency_ms, " cannot be reached")
        if isinstance(cause, aiohttp.ClientConnectorDNSError) and egress.proxy_url is not None:
            return _unsent("proxy", latency_ms, "'s host name cannot be resolved")
        if isinstance(cause, socket.gaierror):
            return _unsent("dns", latency_ms)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return _unsent("tls", latency_ms, f" ({cause.reason})")
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return _unsent("connect_refused", latency_ms)
    return _unsent("connect_failed", latency_ms)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _unsent(reason: UnsentReason, latency_ms: int, detail: str = "") -> Refused:
    return Refused(reason, latency_ms, text=UNSENT_TEXT[reason] + detail)


def _uncertain(reason: UncertainReason, latency_ms: int) -> Uncertain:
    return Uncertain(reason, latency_ms, text=UNCERTAIN_TEXT[reason])


def _sent_values(request: httpx.Request) -> list[str]:
    """The values to remove from an excerpt: an error page can echo the lead, the token or the webhook."""
    try:
        lead = msgspec.json.decode(request.read())
    except msgspec.DecodeError:
        lead = None
    fields = lead.values() if isinstance(lead, dict) else ()
    url = str(request.url)
    proxy = request.headers.get("proxy-authorization", "").rpartition(" ")[2]
    secrets = (request.headers.get("x-clay-webhook-auth", ""), proxy, url, url.rpartition("/")[2])
    return [str(value) for value in (*fields, *secrets) if isinstance(value, str | int | float)]


def _since_ms(started: float) -> int:
    return round((asyncio.get_running_loop().time() - started) * 1000)
