"""What a connection may hold, and all of them: bytes taken from a peer and kept for it, whatever it sends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from stream_app.gateway.http.connection import Connection
from stream_app.gateway.http.request import Bounds
from tests.support.kafka import until
from tests.support.pace import BUSY

BOUNDS = Bounds(
    within_s=60,
    head_bytes=2_000,
    head_lines=50,
    framing_bytes=1_000,
    read_bytes=512,
    unread_bytes=4_096,
    dropped_bytes=5_000,
)
HEAD = b"POST /x HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """A peer that reads nothing until `resume`."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.7", 4000), "sockname": ("192.0.2.1", 80)})
        self.reading, self.written, self.ended, self.shut = True, bytearray(), False, False
        self.high = 0
        self.protocol: asyncio.BufferedProtocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        before = len(self.written)
        self.written += data
        if before <= self.high < len(self.written):
            self.protocol.pause_writing()

    def read_all(self) -> bytes:
        answer = bytes(self.written)
        self.written.clear()
        if len(answer) > self.high:
            self.protocol.resume_writing()
        return answer

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.shut = True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True


class Host:
    """`http_connection.Host`, that starts each request at once."""

    stopping = False

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self.app, self.bounds = app, bounds
        self.buffer = memoryview(bytearray(bounds.read_bytes))
        self.cuts: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def ready(self, connection: Connection) -> None:
        self.tasks.add(asyncio.ensure_future(connection.serve()))

    def waits(self, connection: Connection) -> None: ...

    def works(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...

    def cut(self, because: str) -> None:
        self.cuts.append(because)


class Peer:
    """Sends bytes to one connection for as long as it reads."""

    def __init__(self, app: ASGIApp, bounds: Bounds = BOUNDS) -> None:
        self.host = Host(app, bounds)
        self.transport = Transport()
        self.connection = Connection(self.host, asyncio.get_running_loop(), "192.0.2.7")
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)

    async def send(self, data: bytes) -> int:
        """How many of these bytes it took before it stopped reading or ended."""
        at = 0
        while at < len(data) and self.transport.reading and not self.transport.ended:
            buffer = self.connection.get_buffer(-1)
            piece = data[at : at + len(buffer)]
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
            at += len(piece)
            for _ in range(6):
                await asyncio.sleep(0)
        return at


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads nothing."""
    await answer(send, scope["path"].encode())


async def reader(_: Scope, receive: Receive, send: Send) -> None:
    """Reads the body to its end."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    await answer(send, body)


async def stuck(_: Scope, receive: Receive, send: Send) -> None:
    """Is busy for ever."""
    await asyncio.Event().wait()


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# -------------------------------------------------------------------------------------------- what one connection holds


@pytest.mark.parametrize(
    ("words", "most"),
    [
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 100_000, BOUNDS.head_lines * 4 + BOUNDS.read_bytes),
        (b"GET / HTTP/1.1\r\n" + b"a:" + b"y" * 100_000, BOUNDS.head_bytes + BOUNDS.read_bytes),
        (b"GET /" + b"y" * 100_000, BOUNDS.head_bytes + BOUNDS.read_bytes),
        (b"\n" * 100_000, BOUNDS.head_lines + BOUNDS.read_bytes),
    ],
    ids=["lines", "line", "address", "nothing"],
)
async def test_a_head_is_bounded_in_bytes_and_lines(words: bytes, most: int) -> None:
    peer = Peer(echo)
    assert await peer.send(words) <= most
    assert peer.host.cuts == ["head_too_large"]
    assert peer.transport.ended


@pytest.mark.parametrize(
    "flood",
    [b"0\r\n" + b"a:\r\n" * 100_000, b"0\r\na:" + b"y" * 100_000, b"1;" + b"y" * 100_000, b"1\r\n \r\n" * 100_000],
    ids=["trailers", "trailer", "extension", "chunks"],
)
@pytest.mark.parametrize("app", [reader, stuck, echo], ids=["read", "stuck", "answered"])
async def test_everything_but_the_body_is_bounded(flood: bytes, app: ASGIApp) -> None:
    peer = Peer(app)
    consumed = await peer.send(CHUNKED + flood)
    size = len(CHUNKED) + 6 * BOUNDS.framing_bytes // 5 + BOUNDS.read_bytes
    if app is reader:
        assert consumed <= size
        assert peer.host.cuts == ["too_much_framing"]
    elif app is stuck:
        assert consumed <= size, "nothing is read that the app does not ask for"
        assert not peer.transport.reading
    else:
        assert consumed <= size + BOUNDS.dropped_bytes
        assert peer.host.cuts == ["too_much_after_answer"]
    assert not peer.connection.held_bytes > 2 * BOUNDS.read_bytes


async def test_trailers_within_the_bound_are_read_and_dropped() -> None:
    peer = Peer(reader)
    await peer.send(CHUNKED + b"3\r\nabc\r\n0\r\nx-a: b\r\n\r\n" + GET)
    assert peer.transport.read_all().endswith(b"abc")
    assert not peer.host.cuts


async def test_requests_behind_the_one_under_way_are_not_even_read() -> None:
    peer = Peer(stuck)
    assert await peer.send(GET * 100_000) <= BOUNDS.read_bytes
    assert len(peer.host.tasks) == 1
    assert peer.connection.held_bytes <= BOUNDS.read_bytes
    for task in peer.host.tasks:
        task.cancel()


async def test_pipelined_requests_are_answered_in_order() -> None:
    peer = Peer(echo)
    requests = b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(30))
    sent = 0
    while sent < len(requests):
        sent += await peer.send(requests[sent:])
        await asyncio.sleep(0)
    await until(lambda: peer.transport.written.count(b"HTTP/1.1 200") == 30)
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in peer.transport.read_all().split(b"HTTP/1.1 200")[1:]]
    assert bodies == [b"/%d" % number for number in range(30)]


async def test_a_peer_that_does_not_read_gets_no_more_answers_and_is_cut() -> None:
    peer = Peer(echo, Bounds(within_s=0.05, unread_bytes=4_096, read_bytes=512))
    consumed = 0
    async with asyncio.timeout(20 * BUSY):
        while not peer.transport.ended:
            consumed += await peer.send(GET * 10)
            await asyncio.sleep(0)
    assert len(peer.transport.written) < 4_096 + 200, "one answer more than the bound"
    assert consumed < 4_096
    assert peer.host.cuts == ["answer_not_read"]


async def test_a_peer_that_reads_late_gets_everything() -> None:
    peer = Peer(echo)
    long = b"/" + b"y" * 1_500
    answers = b""
    for _ in range(20):
        await peer.send(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % long)
        await asyncio.sleep(0)
        answers += peer.transport.read_all()
        for _ in range(6):
            await asyncio.sleep(0)
    answers += peer.transport.read_all()
    assert answers.count(long) == 20
    assert not peer.host.cuts


async def test_an_answer_before_the_body_is_seen_and_the_rest_is_dropped() -> None:
    peer = Peer(echo)
    length = b"content-length: 100000\r\n\r\n"
    consumed = await peer.send(HEAD + length + b"y" * 100_000)
    answered = peer.transport.read_all()
    assert answered.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answered
    assert peer.transport.shut
    assert BOUNDS.dropped_bytes < consumed < BOUNDS.dropped_bytes + 3 * BOUNDS.read_bytes
    assert peer.host.cuts == ["too_much_after_answer"]


@pytest.mark.parametrize(
    "words",
    [
        b"GET http://x:99999999/ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\nabc",
        b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\na: b\nGET / HTTP/1.1\r\n\r\n",
        CHUNKED + b"zz\r\n",
        HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_http_are_refused_once(words: bytes) -> None:
    peer = Peer(reader)
    with capture_logs() as logs:
        await peer.send(words)
    assert peer.transport.written.count(b"HTTP/1.1 400") == 1
    assert peer.transport.written.count(b"HTTP/1.1 ") == 1
    assert peer.transport.shut
    assert not logs


async def test_an_upgrade_is_not_needed_and_not_made() -> None:
    peer = Peer(echo)
    await peer.send(b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nPRI * HTTP/2.0")
    answered = peer.transport.read_all()
    assert answered.endswith(b"/a")
    assert b"connection: close" in answered


async def test_an_answer_with_a_line_break_in_a_header_is_not_sent() -> None:
    async def splits(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b")]})

    peer = Peer(splits)
    with capture_logs() as logs:
        await peer.send(GET)
    assert peer.transport.ended
    assert not peer.transport.written
    assert [line["event"] for line in logs] == ["request_crashed"]


# ------------------------------------------------------------------------------------------------------- all of them
