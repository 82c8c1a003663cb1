"""The Clay client: one POST, one outcome.

A request counts as uncertain unless it is proved that nothing was sent.

It sends through a transport of ours (docs/decisions/03-transport.md). This client never sends a
request twice; a test counts the requests. Only `Webhooks` turns an alias and a webhook id into a
URL and a token.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
import msgspec
import yarl
from attrs import define, field

from stream_app.clay import Egress
from stream_app.clay.transport import (
    Answer,
    BrokenAnswer,
    ConnectionBroke,
    NotSent,
    ProxyRefused,
    Target,
    Transport,
    proxy_of,
)
from stream_app.domain.model.addresses import MALFORMED, token_problem
from stream_app.domain.model.outcome import (
    Accepted,
    Outcome,
    Refused,
    Uncertain,
    UncertainReason,
    UnsentReason,
    classify,
)
from stream_app.tasks import cancel, causes

# The status decides the outcome. The body only explains it, so the wait for the body is short.
_ANSWER_WAIT_S = 2.0
_HOST_WITHIN_S: Final = 3.0
_MAX_ANSWER_BYTES = 4096
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
    "request_timeout": "sent, but no response came in time",
    "reset": "sent, but the connection broke before a response came",
    "broken_answer": "sent, but the response is not valid HTTP",
}


@define(eq=False, repr=False, kw_only=True)
class ClayClient:
    """Sends leads to Clay's webhooks. An async context manager; one client serves the whole worker.

    Args:
        request_timeout_s: Limit of one whole `send`, including the wait for a connection.
        connect_timeout_s: Limit of DNS, TCP and TLS together.
        pool_timeout_s: Limit of the wait for one of `max_connections`. `connect_timeout_s` and
            `pool_timeout_s` together must be shorter than `request_timeout_s`, so that the request
            timeout cannot expire before anything was sent.
        keepalive_s: Idle time after which a connection is closed. Keep it shorter than the server's
            own limit: a request on a connection that the server is closing ends as uncertain.
    """

    _request_timeout_s: float
    _connect_timeout_s: float
    _pool_timeout_s: float
    _max_connections: int
    _keepalive_s: float
    _egress: Egress = field(factory=Egress.of)
    _connections: asyncio.Semaphore = field(init=False)
    _transport: Transport = field(init=False)
    _targets: dict[tuple[str, str | None], Target] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        if self._connect_timeout_s + self._pool_timeout_s >= self._request_timeout_s:
            raise ValueError(
                "request_timeout_s must be longer than connect_timeout_s and pool_timeout_s "
                "together",
            )
        self._connections = asyncio.Semaphore(self._max_connections)

    async def __aenter__(self) -> Self:
        self._transport = Transport(
            self._connect_timeout_s,
            self._keepalive_s,
            _MAX_ANSWER_BYTES,
            self._egress,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def send(
        self,
        webhook_url: str,
        token: str | None,
        body: bytes,
        *,
        unavailable_is_refused: bool = True,
    ) -> Outcome:
        """POST one lead and return the outcome. Never sends twice.

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
        started = asyncio.get_running_loop().time()
        if not await self._has_connection():
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

    async def reach(self, webhook_url: str) -> Refused | None:
        """Connect to a webhook's host like `send`, and send nothing.

        Returns the reason if it cannot connect.
        """
        started = asyncio.get_running_loop().time()
        try:
            await self._transport.reach(self._target(webhook_url, None))
        except NotSent as exc:
            return _not_sent(exc, _since_ms(started), self._egress)
        return None

    async def _has_connection(self) -> bool:
        """Acquire a connection slot. False if none became free in time."""
        # The fast path avoids a timeout, which costs more than the semaphore.
        if not self._connections.locked():
            return await self._connections.acquire()
        try:
            async with asyncio.timeout(self._pool_timeout_s):
                return await self._connections.acquire()
        except TimeoutError:
            return False

    def _target(self, webhook_url: str, token: str | None) -> Target:
        target = self._targets.get((webhook_url, token))
        if target is not None:
            return target
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
            url = yarl.URL(webhook_url)
        except ValueError:
            raise ValueError(MALFORMED) from None
        target = self._targets[webhook_url, token] = Target.of(url, headers, self._egress)
        return target

    async def _exchange(
        self,
        target: Target,
        body: bytes,
        give_up_at: float,
        unavailable_is_refused: bool,
    ) -> Outcome:
        """Send the request and return its outcome.

        The status decides it, even if the body fails.
        """
        now = asyncio.get_running_loop().time
        begun = now()
        answer: Answer | None = None
        excerpt = bytearray()
        try:
            async with asyncio.timeout_at(give_up_at) as limit:
                answer = await self._transport.post(target, body)
                answered = now()
                is_success = 200 <= answer.status <= 299
                if not (is_success and answer.is_whole):
                    limit.reschedule(min(give_up_at, answered + _ANSWER_WAIT_S))
                    await self._read(answer, excerpt)
        except NotSent as exc:
            return _not_sent(exc, _since_ms(begun), self._egress)
        except (ConnectionBroke, BrokenAnswer, TimeoutError) as exc:
            if answer is None:
                reason = _uncertain(exc)
                return Uncertain(reason, _since_ms(begun), text=UNCERTAIN_TEXT[reason])
        latency_ms = round((answered - begun) * 1000)
        if is_success:
            # `classify` would return the same, at a higher cost.
            return Accepted(answer.status, latency_ms)
        return classify(
            answer.status,
            (answer.header("retry-after") or "")[:_MAX_RETRY_AFTER_CHARACTERS] or None,
            ""
            if answer.header("content-encoding") is not None
            else excerpt.decode("utf-8", "replace"),
            latency_ms,
            unavailable_is_refused,
            known=_sent_values(target, body),
        )

    async def _read(self, answer: Answer, excerpt: bytearray) -> None:
        """Read the beginning of the body. The body may break off, arrive slowly or never end."""
        try:
            async for chunk in answer.body():
                excerpt += chunk[: _MAX_ANSWER_BYTES - len(excerpt)]
                if len(excerpt) == _MAX_ANSWER_BYTES:
                    break
        finally:
            answer.close()


def _uncertain(exc: ConnectionBroke | BrokenAnswer | TimeoutError) -> UncertainReason:
    if isinstance(exc, ConnectionBroke):
        return "reset"
    return "broken_answer" if isinstance(exc, BrokenAnswer) else "request_timeout"


def _not_sent(exc: NotSent, latency_ms: int, egress: Egress) -> Refused:
    if isinstance(exc.__cause__, TimeoutError):
        return _unsent("connect_timeout", latency_ms)
    for cause in causes(exc):
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


def _unsent(reason: UnsentReason, latency_ms: int, detail: str = "") -> Refused:
    return Refused(reason, latency_ms, text=UNSENT_TEXT[reason] + detail)


def _sent_values(target: Target, body: bytes) -> list[str]:
    """Return the values to remove from an excerpt: an error page can echo them.

    They are the values of the lead, the token and the webhook.
    """
    fields = msgspec.json.decode(body, type=dict[str, Any]).values()
    headers = target.headers
    url = str(target.url)
    proxy = headers.get("proxy-authorization", "").rpartition(" ")[2]
    secrets = (headers.get("x-clay-webhook-auth", ""), proxy, url, url.rpartition("/")[2])
    return [str(value) for value in (*fields, *secrets) if isinstance(value, str | int | float)]


def _since_ms(started: float) -> int:
    return round((asyncio.get_running_loop().time() - started) * 1000)


@define(eq=False, repr=False)
class HostCheck:
    """Sends `HEAD /` to the host of a webhook.

    Callers share the one request that is in flight to a host.

    An answer does not prove that a webhook takes leads. But where the host does not answer, no
    webhook does.
    """

    _egress: Egress
    _running: dict[yarl.URL, asyncio.Task[bool]] = field(init=False, factory=dict)

    async def __call__(self, webhook_url: str) -> bool:
        """Return True if the host answers within 3 s with anything but a server error."""
        host = yarl.URL(webhook_url).origin()
        running = self._running.get(host)
        if running is None:
            running = self._running[host] = asyncio.create_task(self._answers(host))
            running.add_done_callback(lambda _: self._running.pop(host, None))
        return await asyncio.shield(running)

    async def close(self) -> None:
        await cancel(list(self._running.values()))

    async def _answers(self, host: yarl.URL) -> bool:
        proxy, login = proxy_of(self._egress)
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=_HOST_WITHIN_S),
                ) as session,
                session.head(
                    host,
                    allow_redirects=False,
                    ssl=self._egress.tls,
                    proxy=proxy,
                    proxy_headers=login,
                ) as answer,
            ):
                # A host may know no HEAD, and answers with 501 although it is well.
                return (
                    answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
                    or answer.status == HTTPStatus.NOT_IMPLEMENTED
                )
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


@define(frozen=True, repr=False)
class Endpoint:
    """The URLs (by webhook id) and the token of one destination."""

    urls: Mapping[str, str]
    token: str | None
    unavailable_is_refused: bool


@define(eq=False, repr=False)
class Webhooks:
    """`ports.Clay` over HTTP.

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
