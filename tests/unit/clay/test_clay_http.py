"""The Clay client on real sockets, against a server that misbehaves in every way known."""

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from aiohttp.client_proto import ResponseHandler
from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.clay import Egress
from stream_app.clay import client as clay_http
from stream_app.clay.transport import ClayProtocol, Transport
from stream_app.domain.model.addresses import WEBHOOK_PATH
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
    WebhookOut,
)
from tests.support.pace import BUSY
from tests.support.raw_server import (
    HANG,
    LEAD,
    OK,
    READ,
    RESET,
    SKIM,
    SLUG,
    TOKEN,
    RawServer,
    ServerStep,
    client,
    patient,
    send_once,
    serve,
)
from tests.unit.clay.conftest import Authority


@pytest.mark.parametrize(
    ("reason", "script"),
    [
        pytest.param("reset", [RESET], id="reset before reading"),
        pytest.param("reset", [], id="close before reading"),
        pytest.param("reset", [READ, RESET], id="reset after reading"),
        pytest.param("reset", [READ], id="close after reading"),
        pytest.param("request_timeout", [READ, HANG], id="hang after reading"),
        pytest.param("broken_answer", [READ, b"\0\1\2garbage\r\n\r\n"], id="garbage"),
        pytest.param("broken_answer", [READ, b"HTTP/1.1 abc OK\r\n\r\n"], id="broken status"),
        pytest.param("reset", [READ, b"HTTP/1.1 200 OK\r\ncontent-le"], id="half headers"),
        pytest.param(
            "request_timeout",
            [READ, b"HTTP/1.1 200 OK\r\n", HANG],
            id="half headers, then nothing",
        ),
        pytest.param("reset", [READ, b"HTTP/1.1 100 Continue\r\n\r\n"], id="only 100"),
        pytest.param(
            "broken_answer",
            [READ, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000],
            id="huge header",
        ),
        pytest.param(
            "broken_answer",
            [READ, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000],
            id="many headers",
        ),
        pytest.param(
            "http_500",
            [READ, b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n", HANG],
            id="500",
        ),
        pytest.param(
            "http_504",
            [READ, b"HTTP/1.1 504 X\r\ncontent-length: 9\r\n\r\n", HANG],
            id="504",
        ),
    ],
)
async def test_uncertain(reason: str, script: list[ServerStep]) -> None:
    async with serve(*script) as server:
        outcome = await send_once(server.url)
        assert type(outcome) is Uncertain
        assert outcome.reason == reason
        assert server.connections == 1, "a second connection would be a second try"
        assert len(server.requests) <= 1


async def test_never_connected() -> None:
    unknown = await send_once(f"http://nosuch.invalid{WEBHOOK_PATH}x", patient())
    assert type(unknown) is Refused
    assert unknown.reason == "dns"
    waiting = [socket.socket() for _ in range(4)]
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}{WEBHOOK_PATH}x"
        refused = await send_once(url)
        server.listen(0)
        for other in waiting:  # fill its backlog
            other.setblocking(False)
            other.connect_ex(server.getsockname())
        late = await send_once(url)
    for other in waiting:
        other.close()
    assert type(refused) is Refused
    assert refused.reason == "connect_refused"
    assert type(late) is Refused
    assert late.reason == "connect_timeout"


@pytest.mark.parametrize(
    ("reason", "script"),
    [("tls", [SKIM, OK, HANG]), ("connect_failed", [SKIM]), ("connect_timeout", [SKIM, HANG])],
)
async def test_a_tls_handshake_that_fails(reason: str, script: list[ServerStep]) -> None:
    async with serve(*script) as server:
        outcome = await send_once(server.url.replace("http://", "https://"))
        assert type(outcome) is Refused
        assert outcome.reason == reason


async def test_certificates_are_verified(authority: Authority) -> None:
    known = authority.file
    async with serve(READ, OK, HANG, tls=authority.tls) as server:
        unknown = await send_once(server.url)
        assert type(unknown) is Refused
        assert unknown.reason == "tls"
        assert server.requests == []
        assert "CERTIFICATE_VERIFY_FAILED" in repr(unknown)
        other_name = await send_once(
            server.url.replace("127.0.0.1", "localhost"),
            client(egress=Egress.of(known)),
        )
        assert isinstance(other_name, Refused)
        assert isinstance(await send_once(server.url, client(egress=Egress.of(known))), Accepted)


async def test_all_connections_busy_until_a_cancellation_passes_through_and_frees_one() -> None:
    async with serve(READ, HANG) as server, client(max_connections=1) as clay:
        first = asyncio.create_task(clay.send(server.url, None, LEAD))
        await asyncio.wait_for(server.arrived.wait(), 2.0 * BUSY)
        second = await clay.send(server.url, None, LEAD)
        assert type(second) is Refused
        assert second.reason == "pool_timeout"
        assert len(server.requests) == 1
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert isinstance(await clay.send(server.url, None, LEAD), Uncertain)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n", HANG], id="no body"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", OK, HANG], id="100 first"),
        pytest.param([b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf"], id="half a body"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf", RESET],
            id="half a body, reset",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", HANG],
            id="body never comes",
        ),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\nto the end"], id="body without a length"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 0.05, b"zz\r\n"],
            id="bad chunk",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
            id="bad first chunk",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\0junk", HANG],
            id="more than its length",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nx: y\r", 0.05, b"\n\r\njunk\r\n\r\n"],
            id="head in two packets",
        ),
        pytest.param(
            [b"HTTP/1.1 299 ?\r\nx: \xff\r\ncontent-length: 1\r\n\r\n\xff"],
            id="odd bytes",
        ),
    ],
)
async def test_a_2xx_is_accepted_with_any_body(
    script: list[ServerStep],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clay_http, "_ANSWER_WAIT_S", 0.1)
    async with serve(READ, *script) as server:
        assert isinstance(await send_once(server.url), Accepted)


@pytest.mark.parametrize(
    ("code", "counts"),
    [(b"099", 99), (b"100", 503), (b"101", 101), (b"102", 503), (b"199", 503), (b"200", 200)],
)
async def test_an_interim_response_is_passed_over_and_the_next_one_counts_in_the_same_packet(
    code: bytes,
    counts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clay_http, "_ANSWER_WAIT_S", 0.1)
    final = b"HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    async with serve(READ, b"HTTP/1.1 %b X\r\n\r\n%b" % (code, final)) as server:
        outcome = await send_once(server.url)
        assert outcome.http_status == counts
        assert isinstance(outcome, Refused) == (counts == 503)


async def test_a_dripping_body_delays_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clay_http, "_ANSWER_WAIT_S", 0.15)
    drip: list[ServerStep] = [0.02, b"."]
    async with serve(READ, b"HTTP/1.1 422 X\r\n\r\nbad column", *drip * 500) as server:
        outcome = await asyncio.wait_for(send_once(server.url, patient()), 2.0 * BUSY)
        assert "bad column" in repr(outcome)
        await asyncio.wait_for(server.ended.wait(), 2.0 * BUSY)


@pytest.mark.parametrize("http_status", [200, 400])
async def test_a_huge_answer_is_cut_off(http_status: int) -> None:
    head = b"HTTP/1.1 %d X\r\ncontent-length: 100000000\r\n\r\n" % http_status
    async with serve(READ, head, *[b"x " * 50_000] * 1000) as server, client() as clay:
        assert (await clay.send(server.url, None, LEAD)).http_status == http_status
        await asyncio.wait_for(server.ended.wait(), 2.0 * BUSY)
        assert server.written_bytes < 20_000_000, (
            "no more than the kernel's buffers hold may have been taken"
        )


async def test_of_an_answer_that_comes_in_odd_pieces_no_more_is_read_than_is_kept() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"1234567"
            while True:
                await asyncio.sleep(0)
                yield b"x" * 1_000

    excerpt = bytearray()
    async with asyncio.timeout(5.0 * BUSY):
        await clay_http._read_body(httpx.Response(200, stream=Endless()), excerpt, 4_096)
    assert len(excerpt) == 4_096


def test_a_connection_that_is_not_open_yet_has_nothing_unread() -> None:
    loop = asyncio.new_event_loop()
    try:
        assert not ClayProtocol(loop).has_unread
    finally:
        loop.close()


async def test_a_compressed_answer_is_never_unpacked() -> None:
    bomb = gzip.compress(b"a" * 10_000_000)
    head = b"HTTP/1.1 400 X\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with serve(READ, head + bomb) as server:
        outcome = await send_once(server.url)
        assert isinstance(outcome, Poison)
        assert outcome.http_status == 400
        assert outcome.excerpt == ""


async def test_bytes_of_a_request() -> None:
    async with serve(READ, OK, READ, OK) as server, client() as clay:
        await clay.send(server.url + "/a%2Fb?x=%20", TOKEN, LEAD)
        await clay.send(server.url, None, b"{}")
    (first, body), (second, _) = server.requests
    lines = first.decode().split("\r\n")
    assert lines[0] == f"POST {WEBHOOK_PATH}{SLUG}/a%2Fb?x=%20 HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    assert headers.pop("host").startswith("127.0.0.1:")
    assert headers.pop("x-clay-webhook-auth") == TOKEN
    assert headers.pop("content-type") == "application/json"
    assert headers.pop("content-length") == str(len(LEAD))
    assert headers == {"accept-encoding": "identity", "user-agent": "stream-app"}
    assert body == LEAD
    assert b"x-clay-webhook-auth" not in second.lower()
    assert server.connections == 1


async def test_no_redirect_cookie_or_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    moved = (
        b"HTTP/1.1 307 X\r\nlocation: /elsewhere\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    )
    async with serve(READ, moved, READ, moved) as server, client() as clay:
        for _ in range(2):
            outcome = await clay.send(server.url, TOKEN, LEAD)
            assert type(outcome) is Denied
            assert outcome.reason == "http_307"
    assert len(server.requests) == 2
    assert all(
        b"elsewhere" not in head and b"cookie" not in head.lower() for head, _ in server.requests
    )


@pytest.mark.parametrize(
    ("header", "retry_after"),
    [(b"7", "7"), (b"7" * 5_000, "7" * 64), (b"", None)],
)
async def test_retry_after_is_read_and_bounded(header: bytes, retry_after: str | None) -> None:
    async with serve(
        READ,
        b"HTTP/1.1 429 X\r\nretry-after: %s\r\ncontent-length: 0\r\n\r\n" % header,
    ) as server:
        outcome = await send_once(server.url)
        assert outcome == RateLimited(429, outcome.latency_ms, retry_after)


async def test_a_paused_workflow_is_named_in_the_words_of_clay_and_without_its_secret() -> None:
    """The word webhook ends its URL, and is no secret."""
    body = b'{"error":"Stream is not active","webhook":"wfrs_Secret_1"}'
    answer = b"HTTP/1.1 400 X\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    async with serve(READ, answer) as server:
        host = server.url.partition(WEBHOOK_PATH)[0]
        outcome = await send_once(f"{host}/v3/tc-workflows/streams/wfrs_Secret_1/webhook")
    assert type(outcome) is WebhookOut
    assert outcome.cause == "inactive"
    assert "Stream is not active" in outcome.text
    assert '"webhook"' in outcome.text
    assert "Secret" not in outcome.text


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda tail: b"HTTP/1.1 2" + tail),
    ),
)
def test_no_bytes_of_an_answer_raise_or_count_as_unsent(junk: bytes) -> None:
    async def run() -> None:
        # which closes then: no limit is waited for, so none need be short
        async with serve(READ, junk) as server:
            outcome = await send_once(server.url, patient())
            assert not isinstance(outcome, Refused) or outcome.http_status == 503
            assert len(server.requests) == 1

    asyncio.run(run())


def _echo(server: RawServer) -> bytes:
    head, lead = server.requests[-1]
    page = b"<b>Ada</b> " + lead + head
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (
        399 + len(server.requests),
        len(page),
        page,
    )


async def test_no_secret_and_no_lead_in_outcomes_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echoes: list[ServerStep] = [READ, _echo]
    async with serve(*echoes * 25, READ, HANG) as server, client() as clay:
        seen = [repr(await clay.send(server.url, TOKEN, LEAD)) for _ in range(26)]
        seen += [
            repr(clay),
            *map(repr, clay._targets.values()),
            *(record.getMessage() for record in caplog.records),
        ]
    for secret in (SLUG, TOKEN, "ada@", "Ada"):
        assert not [text for text in seen if secret in text]


async def test_mistakes_are_exceptions_and_repeat_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="must be longer"):
        client(request_timeout_s=5.0, connect_timeout_s=3.0, pool_timeout_s=2.0)
    monkeypatch.setattr(Transport, "handle_async_request", Mock(side_effect=KeyError("bug")))
    async with client() as clay:
        with pytest.raises(KeyError):
            await clay.send("https://h/x", None, b"{}")
        for url, token in (
            ("https://[secret", None),
            ("https://h/x", "secret\nx: y"),
            ("https://h/x", "cret\u00e9"),
        ):
            with pytest.raises(ValueError, match="copy it from Clay again") as caught:
                await clay.send(url, token, b"{}")
            assert "cret" not in str(caught.value)


HEADS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
    b"HTTP/1.1 201 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 202 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"\r\nHTTP/1.1 503 X\r\ncontent-length: 1\r\n\r\n",
]


def packets(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


def status_of(answer: list[bytes]) -> int:
    async def read() -> int:
        protocol = ClayProtocol(asyncio.get_running_loop())
        protocol.connection_made(Mock())
        protocol.expect_answer(read_until_eof=True, auto_decompress=False)
        for data in answer:
            protocol.data_received(data)
            assert len(protocol._before) <= 2, (
                "a head that drips is not searched from its beginning each time"
            )
        while (
            100 <= (message := (await asyncio.wait_for(protocol.read(), 5 * BUSY))[0]).code <= 199
        ):
            pass
        protocol.connection_lost(None)
        return message.code

    return asyncio.run(read())


async def test_the_body_is_not_searched_for_the_end_of_a_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces: list[bytes] = []
    monkeypatch.setattr(
        ResponseHandler,
        "data_received",
        _noting(pieces, ResponseHandler.data_received),
    )
    interim = b"HTTP/1.1 102 X\r\n\r\n"
    body = b"\n\n" * 9
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 27\r\n\r\n"
    protocol = ClayProtocol(asyncio.get_running_loop())
    protocol.connection_made(Mock())
    protocol.expect_answer(read_until_eof=True, auto_decompress=False)
    protocol.data_received(interim + head + body)
    protocol.data_received(body[:9])
    assert pieces == [interim, head, body, body[:9]]


def _noting(
    pieces: list[bytes],
    handle: Callable[[Any, bytes], None],
) -> Callable[[Any, bytes], None]:
    def noted(protocol: Any, data: bytes) -> None:
        pieces.append(data)
        handle(protocol, data)

    return noted


@given(
    head=st.sampled_from(HEADS),
    rest=st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
@example(head=HEADS[1], rest=b"zz\r\n", cuts=[])
@example(head=HEADS[1], rest=b"zz\r\n", cuts=[len(HEADS[1]) - 1])
@example(head=HEADS[0], rest=b"okHTTP/1.1 408 X\r\n\r\n", cuts=[])
@example(head=HEADS[3], rest=b"\0junk\r\n\r\n", cuts=[30])
def test_a_status_counts_with_any_body(head: bytes, rest: bytes, cuts: list[int]) -> None:
    whole = status_of([head])
    assert status_of(packets(head + rest, cuts)) == whole
