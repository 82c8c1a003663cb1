"""The transport as a part of httpx: other transports fit in its place, and it in httpx's client."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from stream_app.clay.client import ClayClient
from stream_app.clay.transport import NotSent, Transport
from stream_app.dev.process import free_port
from stream_app.domain.model.addresses import WEBHOOK_PATH
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
)
from tests.support.pace import BUSY
from tests.support.raw_server import (
    EGRESS,
    LEAD,
    OK,
    READ,
    SLUG,
    TOKEN,
    client,
    send_once,
    serve,
)

URL = f"https://api.clay.com{WEBHOOK_PATH}{SLUG}"
LATE = b"HTTP/1.1 408 Request Time-out\r\ncontent-length: 3\r\n\r\nbye"


def transport() -> Transport:
    return Transport(
        connect_timeout_s=5.0,
        keepalive_s=15.0,
        read_buffer_bytes=4_096,
        egress=EGRESS,
    )


def mocked(*answers: httpx.Response | Exception) -> tuple[ClayClient, list[httpx.Request]]:
    """A client on httpx's MockTransport, and the requests that it has sent."""
    requests: list[httpx.Request] = []
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    return client(transport=httpx.MockTransport(answer)), requests


@pytest.mark.parametrize("is_ours", [False, True], ids=["httpx as it comes", "our transport"])
async def test_a_second_answer_in_the_packet_of_the_first_is_not_the_answer_to_the_next_lead(
    is_ours: bool,
) -> None:
    """The reason for a transport of ours.

    The first row fails once httpx's own transport no longer has the fault.
    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(READ, OK + LATE, READ, OK))
        sender = httpx.AsyncClient(
            transport=transport() if is_ours else httpx.AsyncHTTPTransport(),
            timeout=httpx.Timeout(5.0 * BUSY),
        )
        await stack.enter_async_context(sender)
        first = await sender.post(server.url, content=b'{"n":1}')
        second = await sender.post(server.url, content=b'{"n":2}')
        assert first.status_code == 200
        assert second.status_code == (200 if is_ours else 408)
        assert server.connections == (2 if is_ours else 1)
        # httpx as it comes did not wait until the server had read the second lead.
        await asyncio.wait_for(server.ended.wait(), 5.0 * BUSY)
        assert [body for _, body in server.requests] == [b'{"n":1}', b'{"n":2}']


async def test_the_mock_transport_fits_in_its_place() -> None:
    clay, requests = mocked(
        httpx.Response(200, json={"status": "ok"}),
        httpx.Response(429, headers={"retry-after": "7"}),
        httpx.Response(422, text=f"no column for {TOKEN}"),
    )
    async with clay:
        accepted = await clay.send(URL, TOKEN, LEAD)
        limited = await clay.send(URL, TOKEN, LEAD)
        poison = await clay.send(URL, None, b"{}")
    assert isinstance(accepted, Accepted)
    assert isinstance(limited, RateLimited)
    assert limited.retry_after == "7"
    assert isinstance(poison, Poison)
    assert poison.excerpt.startswith("no column for")
    assert [str(request.url) for request in requests] == [URL, URL, URL]
    assert [request.content for request in requests] == [LEAD, LEAD, b"{}"]
    assert dict(requests[0].headers) == {
        "host": "api.clay.com",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "stream-app",
        "x-clay-webhook-auth": TOKEN,
        "content-length": str(len(LEAD)),
    }


async def test_what_leaves_is_the_request_that_another_transport_is_given() -> None:
    mock, requests = mocked(httpx.Response(200), httpx.Response(200))
    async with serve(READ, OK, READ, OK) as server, client() as clay, mock:
        for body in (LEAD, b"{}"):
            await clay.send(server.url, TOKEN, body)
            await mock.send(server.url, TOKEN, body)
    for (head, body), request in zip(server.requests, requests, strict=True):
        _, *lines = head.decode().splitlines()
        headers = [tuple(line.split(": ", 1)) for line in lines if line]
        assert headers == request.headers.multi_items()
        assert body == request.content
        assert not request.extensions


async def test_the_asgi_transport_fits_in_its_place() -> None:
    leads: list[bytes] = []

    async def webhook(request: Request) -> JSONResponse:
        leads.append(await request.body())
        is_known = request.headers["x-clay-webhook-auth"] == TOKEN
        return JSONResponse(
            {"slug": request.path_params["slug"]},
            status_code=200 if is_known else 401,
        )

    app = Starlette(routes=[Route(WEBHOOK_PATH + "{slug}", webhook, methods=["POST"])])
    async with client(transport=httpx.ASGITransport(app)) as clay:
        assert isinstance(await clay.send(URL, TOKEN, LEAD), Accepted)
        assert isinstance(await clay.send(URL, "another-token", b"{}"), Denied)
    assert leads == [LEAD, b"{}"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ConnectError("x"), "reset"),
        (httpx.ConnectTimeout("x"), "request_timeout"),
        (httpx.PoolTimeout("x"), "request_timeout"),
        (httpx.ReadTimeout("x"), "request_timeout"),
        (httpx.WriteError("x"), "reset"),
        (httpx.ProxyError("x"), "reset"),
        (httpx.RemoteProtocolError("x"), "broken_answer"),
    ],
)
async def test_errors_of_httpx_prove_nothing(error: Exception, reason: str) -> None:
    clay, requests = mocked(error)
    outcome = await send_once(URL, clay)
    assert isinstance(outcome, Uncertain)
    assert outcome.reason == reason
    assert len(requests) == 1


async def test_only_our_own_error_proves_that_nothing_was_sent() -> None:
    clay, _ = mocked(NotSent("tls", " (EXPIRED)"))
    outcome = await send_once(URL, clay)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "tls"
    assert outcome.text.endswith("failed (EXPIRED)")


async def test_the_transport_in_the_place_of_ours_is_closed_with_the_client() -> None:
    class Noting(httpx.MockTransport):
        is_closed = False

        async def aclose(self) -> None:
            self.is_closed = True

    noting = Noting(lambda _: httpx.Response(200))
    await send_once(URL, client(transport=noting))
    assert noting.is_closed


async def test_the_client_of_httpx_gets_whole_responses_over_it() -> None:
    page = b"<p>" + b"x" * 50_000
    packed = gzip.compress(page)
    head = (
        b"HTTP/1.1 201 Made\r\ncontent-encoding: gzip\r\nX-Odd: \xe9\r\ncontent-length: %d\r\n\r\n"
        % len(packed)
    )
    async with (
        serve(READ, head + packed) as server,
        httpx.AsyncClient(transport=transport()) as sender,
    ):
        response = await sender.put(server.url, params={"q": "ü"}, content=b"body")
    assert response.status_code == 201
    assert response.content == page
    assert response.headers["x-odd"] == "\u00e9"
    (request, body) = server.requests[0]
    assert request.startswith(b"PUT " + f"{WEBHOOK_PATH}{SLUG}?q=%C3%BC HTTP/1.1\r\n".encode())
    assert body == b"body"


async def test_a_request_in_pieces_leaves_as_one_of_known_length() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"n":'
        yield b"1}"

    async with serve(READ, OK) as server, httpx.AsyncClient(transport=transport()) as sender:
        await sender.post(server.url, content=pieces())
    (head, body) = server.requests[0]
    assert b"content-length: 7\r\n" in head
    assert b"transfer-encoding" not in head.lower()
    assert body == b'{"n":1}'


async def test_an_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"
    async with (
        serve(READ, answer, READ, answer) as server,
        httpx.AsyncClient(transport=transport()) as sender,
    ):
        for _ in range(2):
            assert (await sender.head(server.url)).status_code == 200
        assert server.connections == 1
    assert b"content-length" not in server.requests[0][0].lower()


async def test_a_connection_that_cannot_be_made_is_an_error_of_httpx() -> None:
    async with httpx.AsyncClient(transport=transport()) as sender:
        with pytest.raises(httpx.ConnectError, match="nothing was sent") as caught:
            await sender.post(f"http://127.0.0.1:{free_port()}/")
    assert isinstance(caught.value, NotSent)
    assert caught.value.reason == "connect_refused"


async def test_a_request_that_is_no_http_is_not_sent() -> None:
    async with serve(READ, OK) as server, transport() as sender:
        for header in ("a\r\nb: c", "a\nb", "a\rb"):
            request = httpx.Request("POST", server.url, headers={"x": header})
            with pytest.raises(httpx.LocalProtocolError):
                await sender.handle_async_request(request)
        with pytest.raises(httpx.UnsupportedProtocol):
            await sender.handle_async_request(httpx.Request("GET", "ftp://127.0.0.1/"))
        assert server.connections == 0


@pytest.mark.parametrize("host", ["exa%20mple.com", "nosuch.invalid"])
async def test_a_host_that_no_name_server_can_know_got_nothing(host: str) -> None:
    outcome = await send_once(f"https://{host}/x")
    assert isinstance(outcome, Refused)
    assert outcome.reason == "dns"


@pytest.mark.parametrize(
    "url",
    [
        "https://[secret/x",
        "https://secret h/x",
        "ftp://secret/x",
        "https:///secret",
        "https://h:secret/x",
    ],
)
async def test_a_url_whose_host_two_parsers_read_differently_is_refused(url: str) -> None:
    async with client() as clay:
        with pytest.raises(ValueError, match="copy it from Clay again") as caught:
            await clay.send(url, None, b"{}")
    assert "secret" not in str(caught.value)
