"""The Clay client: one POST, one outcome. What is not certainly unsent is uncertain.

httpx's types, a transport of our own on aiohttp's connections. `httpx.AsyncClient` is left out (it costs several
times as much, for cookies, redirects and logged URLs), and so are the ready-made transports: httpx-aiohttp and
pyreqwest report a connection that broke *after* the request was sent as `ConnectTimeout` or `ConnectError`; to
believe that is to pay twice. Nothing here sends a request twice, and a test counts them.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Self
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

_ANSWER_WAIT_S = 2.0  # the status decides; the body only explains, and frees the connection for the next lead
_MAX_RETRY_AFTER_CHARACTERS = 64

_UNSENT_TEXT: dict[UnsentReason, str] = {
    "dns": "nothing was sent: the webhook's host name cannot be resolved",
    "connect_refused": "nothing was sent: the webhook's host refuses connections",
    "connect_failed": "nothing was sent: no connection to the webhook's host",
    "connect_timeout": "nothing was sent: the webhook's host did not take the connection in time",
    "tls": "nothing was sent: TLS with the webhook's host failed",
    "proxy": "nothing was sent: the egress proxy",
    "pool_timeout": "nothing was sent: all connections were busy",
}
_UNCERTAIN_TEXT: dict[UncertainReason, str] = {
    "read_timeout": "sent, but no answer came in time",
    "request_timeout": "sent, but no answer came in time",
    "reset": "the connection broke before an answer came",
    "broken_answer": "what came back is not an HTTP answer",
}


class ClayClient:
    """Sends leads to Clay's webhooks. An async context manager; one serves the whole worker.

    `request_timeout_s` bounds a whole `send`, the wait for a connection included. `connect_timeout_s`
    covers DNS, TCP and TLS, `pool_timeout_s` the wait for one of `max_connections`. These two together
    must be shorter, so that the whole's limit is never met while nothing was sent yet. `keepalive_s`
    should be shorter than the server's, or a request meets a connection that is just being closed and is
    uncertain. `egress`: whom to trust, and through which proxy to go. `transport` is for tests and must keep
    httpx's meaning of `ConnectError`, `ConnectTimeout` and `PoolTimeout`: nothing was sent.
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

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def send(
        self, webhook_url: str, token: str | None, body: bytes, *, unavailable_is_refused: bool = True
    ) -> Outcome:
        """POSTs one lead (`body`: one JSON object) and says what became of it. Never sends twice.

        `unavailable_is_refused` is the destination's setting for 503. Network trouble is an outcome, never an
        exception; cancellation passes through and leaves the lead uncertain. Raises ValueError for a URL or a
        token that domain/webhook.py refuses.
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
        """Connects to a webhook's host as `send` would, and sends nothing. Returns why there is no connection."""
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
        """Whether one became free in time; it is taken then."""
        if not self._connections.locked():  # a time-out costs more than the semaphore
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
        """The outcome of a request that may go now. A status decides, whatever becomes of the body."""
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
            return Accepted(response.status_code, latency_ms)  # as classify says, without a look at what else came
        return classify(
            response.status_code,
            response.headers.get("retry-after", "")[:_MAX_RETRY_AFTER_CHARACTERS] or None,
            "" if "content-encoding" in response.headers else excerpt.decode("utf-8", "replace"),
            latency_ms,
            unavailable_is_refused,
            known=_sent_values(request),
        )

    async def _read(self, response: httpx.Response, consumed: bytearray) -> None:
        """The beginning of the body, or what came of it: it may break off, drip or never end."""
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
        urlsplit(webhook_url)  # stricter on brackets than httpx, as strict as aiohttp
        url = httpx.URL(webhook_url)
    except (ValueError, httpx.InvalidURL):
        raise ValueError(MALFORMED) from None
    return Target.of(url, headers, egress)


def _failure(exc: httpx.RequestError | TimeoutError, latency_ms: int, egress: Egress) -> Outcome:
    """No status came. Only httpx's three errors from before the sending are proof; anything else is not."""
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
    return Refused(reason, latency_ms, text=_UNSENT_TEXT[reason] + detail)


def _uncertain(reason: UncertainReason, latency_ms: int) -> Uncertain:
    return Uncertain(reason, latency_ms, text=_UNCERTAIN_TEXT[reason])


def _sent_values(request: httpx.Request) -> list[str]:
    """What may not survive in an excerpt: an error page can echo the lead, the token or the webhook."""
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
