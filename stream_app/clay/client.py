"""The Clay client: one POST, one outcome.

The status of an answer decides the outcome (`domain/model/outcome.py`). Without an answer the lead
is uncertain, unless it is proved that nothing was sent. The client sends through `Transport`, an
httpx transport (docs/decisions/03-transport.md), whose `NotSent` is that proof. The client never
sends a request twice, and a test counts the requests. `Webhooks` turns an alias and a webhook id
into a URL and a token. The requests of the Public API (runs.py) go through the same client.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

import httpx
import msgspec
from attrs import define, field

from stream_app.clay import Egress
from stream_app.clay.transport import (
    PREPARED_HEAD,
    NotSent,
    ResponseBody,
    Transport,
    proxy_of,
)
from stream_app.domain.model import seen
from stream_app.domain.model.addresses import (
    MALFORMED,
    WebhookKind,
    secret_part,
    token_problem,
    webhook_kind,
)
from stream_app.domain.model.outcome import (
    Accepted,
    Outcome,
    Refused,
    Uncertain,
    UncertainReason,
    UnsentReason,
    classify,
)
from stream_app.domain.model.seen import Seen
from stream_app.tasks import cancel

# The status decides the outcome. The body only explains it, so the wait for the body is short.
_ANSWER_WAIT_S = 2.0
_HOST_WITHIN_S: Final = 3.0
_MAX_ANSWER_BYTES = 4096
_MAX_DESCRIBED_BYTES = 65_536
_MAX_RETRY_AFTER_CHARACTERS = 64
USER_AGENT: Final = "stream-app"

UNSENT_TEXT: Final[dict[UnsentReason, str]] = {
    "dns": "nothing was sent: cannot resolve Clay's host name",
    "connect_refused": "nothing was sent: Clay's host refused the connection",
    "connect_failed": "nothing was sent: cannot connect to Clay's host",
    "connect_timeout": "nothing was sent: the connection to Clay's host timed out",
    "tls": "nothing was sent: the TLS handshake with Clay's host failed",
    "proxy": "nothing was sent: the egress proxy",
    "pool_timeout": "nothing was sent: all connections were busy",
}
UNCERTAIN_TEXT: Final[dict[UncertainReason, str]] = {
    "request_timeout": "sent, but no response came in time",
    "reset": "sent, but the connection broke before a response came",
    "broken_answer": "sent, but the response is not valid HTTP",
}


@dataclass(frozen=True, slots=True, repr=False)
class _Target:
    """The constant part of all requests to one webhook.

    Attributes:
        headers: All headers but the length of the body.
        secrets: What must be removed from excerpts, because an answer can echo it.
        kind: What the webhook starts.
        extensions: What httpx hands to the transport with each request: the head that our transport
            has prepared.
    """

    url: httpx.URL
    headers: httpx.Headers
    secrets: tuple[str, ...]
    kind: WebhookKind
    extensions: Mapping[str, bytes]

    def request(self, body: bytes) -> httpx.Request:
        request = httpx.Request(
            "POST",
            self.url,
            headers=self.headers,
            stream=httpx.ByteStream(body),
            extensions=self.extensions,
        )
        # The transport that has prepared the head adds the length to it.
        if PREPARED_HEAD not in self.extensions:
            request.headers["content-length"] = str(len(body))
        return request


def _target_of(webhook_url: str, token: str | None, egress: Egress) -> _Target:
    """Return the constant part of all requests to a webhook.

    Raises:
        ValueError: The URL or the token is invalid.
    """
    url = parsed(webhook_url)
    headers = [
        (b"host", url.netloc),
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"user-agent", USER_AGENT.encode("ascii")),
    ]
    secrets = [webhook_url, secret_part(webhook_url), *proxy_secrets(egress)]
    if token is not None:
        if problem := token_problem(token):
            raise ValueError(problem)
        headers.append((b"x-clay-webhook-auth", token.encode("ascii")))
        secrets.append(token)
    kind = webhook_kind(webhook_url)
    return _Target(url, httpx.Headers(headers), tuple(secrets), kind, extensions={})


def proxy_secrets(egress: Egress) -> list[str]:
    """Return the proxy's credentials as headers show them: an error page can echo them."""
    _, login = proxy_of(egress)
    return [credentials.rpartition(" ")[2] for credentials in login.values()]


@dataclass(frozen=True, slots=True, repr=False)
class ApiAnswer:
    """An answer whose body was read as far as it was wanted.

    Attributes:
        status: The HTTP status.
        latency_ms: From the start of the exchange to the status.
        retry_after: The raw header; None if there is none.
        body: The whole body, or its beginning; empty if it is compressed.
        end: How reading ended: `whole`, at the end of the body; `more`, because the body has more
            bytes than were wanted; `cut`, because it broke off, took too long, or is compressed.
    """

    status: int
    latency_ms: int
    retry_after: str | None
    body: bytes
    end: Literal["whole", "more", "cut"]


@define(eq=False, repr=False, kw_only=True)
class ClayClient:
    """Sends leads to Clay's webhooks. An async context manager; one client serves the whole worker.

    Args:
        request_timeout_s: Limit of one whole `send`, including the wait for a connection.
        connect_timeout_s: Limit of DNS, TCP and TLS together.
        pool_timeout_s: Limit of the wait for one of `max_connections`. `connect_timeout_s` and
            `pool_timeout_s` together must be shorter than `request_timeout_s`, so that the request
            timeout cannot expire before anything was sent.
        max_connections: How many requests may be under way at a time.
        keepalive_s: Idle time after which a connection is closed. Keep it shorter than the server's
            own limit, because a request on a connection that the server is closing ends as
            uncertain.
        egress: The authorities and the proxy.
        transport: Sends the requests in place of our transport. It is closed with the client. Only
            `NotSent` proves that nothing was sent, so its own errors leave a lead uncertain.
    """

    _request_timeout_s: float
    _connect_timeout_s: float
    _pool_timeout_s: float
    _max_connections: int
    _keepalive_s: float
    _egress: Egress = field(factory=Egress.of)
    _given_transport: httpx.AsyncBaseTransport | None = field(default=None, alias="transport")
    _connections: asyncio.Semaphore = field(init=False)
    _transport: httpx.AsyncBaseTransport = field(init=False)
    _now: Callable[[], float] = field(init=False)  # the clock of the event loop
    _targets: dict[tuple[str, str | None], _Target] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        if self._connect_timeout_s + self._pool_timeout_s >= self._request_timeout_s:
            raise ValueError(
                "request_timeout_s must be longer than connect_timeout_s and pool_timeout_s "
                "together",
            )
        self._connections = asyncio.Semaphore(self._max_connections)

    async def __aenter__(self) -> Self:
        # Looked up once, because each look-up of the loop is a system call, and each POST needs the
        # time three times.
        self._now = asyncio.get_running_loop().time
        self._transport = self._given_transport or Transport(
            connect_timeout_s=self._connect_timeout_s,
            keepalive_s=self._keepalive_s,
            read_buffer_bytes=_MAX_ANSWER_BYTES,
            egress=self._egress,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    @property
    def egress(self) -> Egress:
        """How its requests leave."""
        return self._egress

    @property
    def request_timeout_s(self) -> float:
        """The limit of one whole request."""
        return self._request_timeout_s

    async def send(
        self,
        webhook_url: str,
        token: str | None,
        body: bytes,
        *,
        unavailable_is_refused: bool = True,
    ) -> Outcome:
        """POST one lead, never twice, and return the outcome.

        Args:
            webhook_url: The webhook, a secret.
            token: The value of `x-clay-webhook-auth`, if the table needs one.
            body: One JSON object.
            unavailable_is_refused: The destination's setting for 503: True if a 503 proves that
                Clay took nothing.

        Returns:
            The outcome. Network errors are outcomes, not exceptions. A cancellation passes through
            and leaves the lead uncertain.

        Raises:
            ValueError: The URL or the token is invalid.
        """
        target = self._target(webhook_url, token)
        started = self._now()
        if not await self._acquire_connection():
            return _unsent("pool_timeout", _since_ms(started))
        try:
            return await self._exchange(
                target,
                body,
                started + self._request_timeout_s,
                unavailable_is_refused,
            )
        finally:
            self._connections.release()

    async def exchange(
        self,
        request: httpx.Request,
        max_bytes: int,
        give_up_at: float | None = None,
    ) -> ApiAnswer | Refused | Uncertain:
        """Send a request of the Public API, never twice, and read its answer.

        Args:
            request: The request, with its host and length.
            max_bytes: The most bytes of the body that are wanted.
            give_up_at: When the answer must have been read, by the event loop's clock. None: after
                the request timeout, which also begins with the wait for a connection.

        Returns:
            The answer. `Refused` if nothing was sent, and `Uncertain` if no status came back.
        """
        begun = self._now()
        if give_up_at is None:
            give_up_at = begun + self._request_timeout_s
        if not await self._acquire_connection():
            return _unsent("pool_timeout", _since_ms(begun))
        response: httpx.Response | None = None
        body = bytearray()
        end: Literal["whole", "more", "cut"] = "cut"
        begun = self._now()
        try:
            async with asyncio.timeout_at(give_up_at):
                response = await self._transport.handle_async_request(request)
                answered = self._now()
                end = await _read_body(response, body, max_bytes)
        except NotSent as exc:
            return _unsent(exc.reason, _since_ms(begun), exc.detail)
        except (httpx.TransportError, TimeoutError) as exc:
            if response is None:
                reason = _uncertain(exc)
                return Uncertain(reason, _since_ms(begun), text=UNCERTAIN_TEXT[reason])
            # The status is known: only the body broke off or took too long.
        finally:
            self._connections.release()
        is_plain = "content-encoding" not in response.headers
        return ApiAnswer(
            response.status_code,
            round((answered - begun) * 1000),
            _retry_after(response),
            bytes(body) if is_plain else b"",
            end if is_plain else "cut",
        )

    async def _acquire_connection(self) -> bool:
        """Acquire one of `max_connections`. False if none became free in time."""
        # If a connection is free, `acquire` does not suspend. A timeout, which costs more than the
        # semaphore, is not needed then.
        if not self._connections.locked():
            return await self._connections.acquire()
        try:
            async with asyncio.timeout(self._pool_timeout_s):
                return await self._connections.acquire()
        except TimeoutError:
            return False

    def _target(self, webhook_url: str, token: str | None) -> _Target:
        target = self._targets.get((webhook_url, token))
        if target is None:
            target = _target_of(webhook_url, token, self._egress)
            if isinstance(self._transport, Transport):
                head = self._transport.head_of(target.request(b""))
                target = replace(target, extensions={PREPARED_HEAD: head})
            self._targets[webhook_url, token] = target
        return target

    async def _exchange(
        self,
        target: _Target,
        body: bytes,
        give_up_at: float,
        unavailable_is_refused: bool,
    ) -> Outcome:
        """Send the request and return its outcome. The status decides it even if the body fails."""
        begun = self._now()
        request = target.request(body)
        response: httpx.Response | None = None
        excerpt = bytearray()
        is_test = seen.is_of_test(body)
        try:
            async with asyncio.timeout_at(give_up_at) as limit:
                response = await self._transport.handle_async_request(request)
                answered = self._now()
                stream = response.stream
                is_success = 200 <= response.status_code <= 299
                # The body of an accepted lead says nothing. It is read only if the connection could
                # not be used again otherwise.
                is_read = isinstance(stream, ResponseBody) and stream.is_whole
                if is_test or not (is_success and is_read):
                    limit.reschedule(min(give_up_at, answered + _ANSWER_WAIT_S))
                    await _read_body(response, excerpt, _MAX_ANSWER_BYTES)
        except NotSent as exc:
            return _unsent(exc.reason, _since_ms(begun), exc.detail)
        except (httpx.TransportError, TimeoutError) as exc:
            if response is None:
                reason = _uncertain(exc)
                return Uncertain(reason, _since_ms(begun), text=UNCERTAIN_TEXT[reason])
            # The status is known: only the body broke off or took too long.
        latency_ms = round((answered - begun) * 1000)
        if is_success and not is_test:
            # `classify` would return the same outcome at a higher cost.
            return Accepted(response.status_code, latency_ms)
        known = _sent_values(target, body)
        outcome = classify(
            response.status_code,
            _retry_after(response),
            "" if "content-encoding" in response.headers else excerpt.decode("utf-8", "replace"),
            latency_ms,
            unavailable_is_refused,
            known=known,
            kind=target.kind,
        )
        if not is_test:
            return outcome
        described = _described(response, latency_ms, excerpt, known)
        return msgspec.structs.replace(outcome, seen=described)


def _retry_after(response: httpx.Response) -> str | None:
    """Return the raw header. If there are two, the first one counts."""
    value = next(iter(response.headers.get_list("retry-after")), "")
    return value[:_MAX_RETRY_AFTER_CHARACTERS] or None


async def _read_body(
    response: httpx.Response,
    body: bytearray,
    max_bytes: int,
) -> Literal["whole", "more"]:
    """Read a body as it was sent, or its first `max_bytes`, into `body`.

    The body may break off, arrive slowly or never end. One of exactly `max_bytes` is read to its
    end, because a connection whose answer is not at its end cannot be used again.
    """
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    try:
        async for chunk in stream:
            left = max_bytes - len(body)
            body += chunk[:left]
            if len(chunk) > left:
                return "more"
    finally:
        await stream.aclose()
    return "whole"


def _described(
    response: httpx.Response,
    latency_ms: int,
    excerpt: bytes | bytearray,
    known: Iterable[str],
) -> Seen:
    """Describe an answer without its values, and without what was sent."""
    headers = response.headers.multi_items()
    return seen.shape_of_answer(response.status_code, latency_ms, headers, bytes(excerpt), known)


def _transport_for_once(egress: Egress, within_s: float) -> Transport:
    return Transport(
        connect_timeout_s=within_s,
        keepalive_s=within_s,
        read_buffer_bytes=_MAX_ANSWER_BYTES,
        egress=egress,
    )


def parsed(webhook_url: str) -> httpx.URL:
    """Parse the URL of a webhook or of the Public API.

    Raises:
        ValueError: The URL is malformed. The message does not repeat the URL, which is a secret.
    """
    try:
        url = httpx.URL(webhook_url)
        host = urlsplit(webhook_url).hostname
    except (httpx.InvalidURL, ValueError):
        raise ValueError(MALFORMED) from None
    # Which hosts are allowed was checked with the parser of the standard library, so httpx must see
    # the same host.
    if url.scheme not in ("http", "https") or url.raw_host.decode("ascii") != host:
        raise ValueError(MALFORMED)
    return url


def _uncertain(error: httpx.TransportError | TimeoutError) -> UncertainReason:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "request_timeout"
    return "broken_answer" if isinstance(error, httpx.RemoteProtocolError) else "reset"


def _unsent(reason: UnsentReason, latency_ms: int, detail: str = "") -> Refused:
    return Refused(reason, latency_ms, text=UNSENT_TEXT[reason] + detail)


def _sent_values(target: _Target, body: bytes) -> list[str]:
    """Return the values to remove from an excerpt, because an error page can echo them.

    They are the values of the lead, the token, the webhook and the credentials of the proxy.
    """
    fields = msgspec.json.decode(body, type=dict[str, Any]).values()
    return [
        str(value) for value in (*fields, *target.secrets) if isinstance(value, str | int | float)
    ]


def _since_ms(started: float) -> int:
    return round((asyncio.get_running_loop().time() - started) * 1000)


@define(eq=False, repr=False)
class HostCheck:
    """Sends `HEAD /` to the host of a webhook. Callers share the request that is under way.

    An answer does not prove that a webhook takes leads. But if the host does not answer, no webhook
    on it does.
    """

    _egress: Egress
    _running: dict[httpx.URL, asyncio.Task[bool]] = field(init=False, factory=dict)

    async def __call__(self, webhook_url: str) -> bool:
        """Return True if the host answers within 3 s with anything but a server error."""
        host = parsed(webhook_url).copy_with(raw_path=b"/")
        running = self._running.get(host)
        if running is None:
            running = asyncio.create_task(self._answers(host))
            self._running[host] = running
            running.add_done_callback(lambda _: self._running.pop(host, None))
        # Others may wait for the same request, so a caller that is cancelled must not cancel it.
        return await asyncio.shield(running)

    async def close(self) -> None:
        await cancel(list(self._running.values()))

    async def _answers(self, host: httpx.URL) -> bool:
        request = httpx.Request("HEAD", host, headers={"user-agent": USER_AGENT})
        try:
            async with (
                asyncio.timeout(_HOST_WITHIN_S),
                _transport_for_once(self._egress, _HOST_WITHIN_S) as transport,
            ):
                response = await transport.handle_async_request(request)
        except (httpx.TransportError, TimeoutError):
            return False
        status = response.status_code
        # A healthy host that does not know HEAD answers with 501.
        return status < HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.NOT_IMPLEMENTED


@define(frozen=True, repr=False)
class Endpoint:
    """The URLs (by webhook id) and the token of one destination."""

    urls: Mapping[str, str]
    token: str | None
    unavailable_is_refused: bool


@define(eq=False, repr=False)
class Webhooks:
    """The webhooks of `ports.Clay` over HTTP. `Doors` (runs.py) adds the routines to them.

    Calls `posted` with destination, outcome and trace id after each POST.
    """

    client: ClayClient
    endpoints: Mapping[str, Endpoint]
    posted: Callable[[str, Outcome, str], None]
    check: HostCheck

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        endpoint = self.endpoints[destination]
        outcome = await self.client.send(
            endpoint.urls[webhook_id],
            endpoint.token,
            body,
            unavailable_is_refused=endpoint.unavailable_is_refused,
        )
        self.posted(destination, outcome, trace_id)
        return outcome

    async def host_answers(self, destination: str) -> bool:
        """Ask whether the host of the destination's webhooks answers; see `HostCheck`."""
        return await self.check(next(iter(self.endpoints[destination].urls.values())))


async def answer_of(
    webhook_url: str,
    token: str | None,
    body: bytes,
    egress: Egress,
    within_s: float,
) -> Seen | None:
    """POST bytes that are no lead to a webhook, once, and describe the answer.

    Returns:
        The description; None if no answer came.

    Raises:
        ValueError: The URL or the token is invalid.
    """
    target = _target_of(webhook_url, token, egress)
    return await described_answer(target.request(body), target.secrets, egress, within_s)


async def described_answer(
    request: httpx.Request,
    known: Iterable[str],
    egress: Egress,
    within_s: float,
) -> Seen | None:
    """Send a request once, and describe the answer without `known`; None if no answer came."""
    now = asyncio.get_running_loop().time
    body = bytearray()
    begun = now()
    try:
        async with _transport_for_once(egress, within_s) as transport, asyncio.timeout(within_s):
            response = await transport.handle_async_request(request)
            latency_ms = _since_ms(begun)
            await _read_body(response, body, _MAX_DESCRIBED_BYTES)
    except (httpx.TransportError, TimeoutError):
        return None
    return _described(response, latency_ms, body, known)


async def reach(webhook_url: str, egress: Egress, within_s: float) -> Refused | None:
    """Connect to a webhook's host as a `ClayClient` does, and send nothing.

    Returns:
        Why it cannot connect; None if it can.

    Raises:
        ValueError: The URL is invalid.
    """
    url = parsed(webhook_url)
    started = asyncio.get_running_loop().time()
    try:
        async with _transport_for_once(egress, within_s) as transport:
            await transport.reach(url)
    except NotSent as exc:
        return _unsent(exc.reason, _since_ms(started), exc.detail)
    return None
