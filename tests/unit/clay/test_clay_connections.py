"""Connections that are kept for the next lead: none that ended, spoke while idle, or still sends,
is used again.
"""

import asyncio
import select
import socket
import threading
from collections import Counter
from contextlib import suppress

import pytest

from stream_app.clay import Egress
from stream_app.clay.client import _MAX_ANSWER_BYTES, ClayClient
from stream_app.clay.transport import Transport
from stream_app.domain.model.addresses import WEBHOOK_PATH
from stream_app.domain.model.outcome import Accepted, Poison, RateLimited, Uncertain
from tests.support.pace import BUSY, slowness
from tests.support.raw_server import (
    HANG,
    OK,
    READ,
    RESET,
    SKIM,
    SLUG,
    ServerStep,
    client,
    patient,
    serve,
)
from tests.unit.clay.conftest import Authority


@pytest.mark.parametrize("script", [[READ, OK, READ], [READ, OK, READ, RESET]])
async def test_a_reused_connection_that_breaks_is_not_tried_again(script: list[ServerStep]) -> None:
    async with serve(*script) as server, client() as clay:
        assert isinstance(await clay.send(server.url, None, b'{"n":1}'), Accepted)
        assert isinstance(await clay.send(server.url, None, b'{"n":2}'), Uncertain)
        assert [body for _, body in server.requests] == [b'{"n":1}', b'{"n":2}']
        assert server.connections == 1


HEAD_429 = b"HTTP/1.1 429 X\r\ncontent-length: 3\r\n\r\n"
CHUNKED_429 = b"HTTP/1.1 429 X\r\ntransfer-encoding: chunked\r\n\r\n"
FULL_CHUNK = b"%x\r\n%b\r\n" % (_MAX_ANSWER_BYTES, b"x" * _MAX_ANSWER_BYTES)


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param([HEAD_429 + b"bye"], id="in one packet"),
        pytest.param([HEAD_429, 0.05, b"bye"], id="after its head"),
        pytest.param(
            [CHUNKED_429 + FULL_CHUNK, 0.05, b"0\r\n\r\n"],
            id="as long as is read, before its end",
        ),
    ],
)
async def test_a_connection_is_kept_after_the_body_of_a_refusal(refused: list[ServerStep]) -> None:
    """Each 429 would otherwise cost a connection, in a minute with many of them."""
    async with serve(READ, *refused, READ, OK) as server, patient() as clay:
        assert isinstance(await clay.send(server.url, None, b'{"n":1}'), RateLimited)
        assert isinstance(await clay.send(server.url, None, b'{"n":2}'), Accepted)
        assert server.connections == 1


TIMED_OUT = b"HTTP/1.1 408 Request Time-out\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbye"


@pytest.mark.parametrize(
    "unasked",
    [
        pytest.param([TIMED_OUT], id="408, then closed"),
        pytest.param([TIMED_OUT, READ, HANG], id="408, left open"),
        pytest.param([0.05, TIMED_OUT, READ, HANG], id="408 after a while"),
        pytest.param([0.05, TIMED_OUT[:20], READ, HANG], id="the beginning of a 408"),
        pytest.param([0.05, TIMED_OUT[:-1], READ, HANG], id="all but the end of a 408"),
        pytest.param([0.05, b"\r\n", READ, HANG], id="an empty line"),
        pytest.param([0.05, b"HTTP/1.1 102 Processing\r\n\r\n", READ, HANG], id="a 102"),
        pytest.param([0.05, b"\0garbage", READ, HANG], id="garbage"),
        pytest.param([0.05, b"HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n", READ, HANG], id="400"),
    ],
)
async def test_a_connection_that_spoke_while_idle_is_not_used(unasked: list[ServerStep]) -> None:
    async with serve(READ, OK, *unasked) as server, patient() as clay:
        for n in range(3):
            assert isinstance(await clay.send(server.url, None, b'{"n":%d}' % n), Accepted)
            await asyncio.sleep(0.1)
        assert [body for _, body in server.requests] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
        assert server.connections == 3


def socket_of_kept_connection(clay: ClayClient) -> socket.socket:
    assert isinstance(clay._transport, Transport)
    [[(protocol, _)]] = clay._transport._connector._conns.values()
    assert protocol.transport is not None
    kept: socket.socket = protocol.transport.get_extra_info("socket")
    return kept


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("unasked", [TIMED_OUT, b""], ids=["408", "closed"])
async def test_unread_bytes_of_a_kept_connection_are_seen(
    authority: Authority,
    is_tls: bool,
    unasked: bytes,
) -> None:
    """The lead is sent in the turn of the loop in which the connection's 408 or end arrives."""
    speak = threading.Event()
    arrived = []

    def answer(conn: socket.socket, *, is_first: bool) -> None:
        with authority.tls.wrap_socket(conn, server_side=True) if is_tls else conn as peer:
            arrived.append(peer.recv(65_536))
            peer.sendall(OK)
            if is_first:
                speak.wait(10 * BUSY)
                if unasked:
                    peer.sendall(unasked)
                else:
                    peer.shutdown(socket.SHUT_RDWR)
            with suppress(ConnectionError):
                peer.recv(65_536)

    def play(listening: socket.socket) -> None:
        first, _ = listening.accept()
        other = threading.Thread(target=answer, args=(first,), kwargs={"is_first": True})
        other.start()
        second, _ = listening.accept()
        answer(second, is_first=False)
        other.join(10 * BUSY)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10 * BUSY)
        server = threading.Thread(target=play, args=(listening,))
        server.start()
        scheme = "https" if is_tls else "http"
        url = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}{WEBHOOK_PATH}{SLUG}"
        async with patient(egress=Egress.of(authority.file)) as clay:
            assert isinstance(await clay.send(url, None, b'{"n":1}'), Accepted)
            kept = socket_of_kept_connection(clay)
            speak.set()
            # This blocks the event loop, as many events in one turn do, until the kernel has what
            # the server says. That the server has written it does not prove that it has arrived.
            assert select.select([kept], [], [], 10 * BUSY)[0], "the server says nothing"
            assert isinstance(await clay.send(url, None, b'{"n":2}'), Accepted)
        server.join(10 * BUSY)
    assert [request.rpartition(b"\r\n")[2] for request in arrived] == [b'{"n":1}', b'{"n":2}']


async def test_a_connection_is_not_used_again_while_its_last_request_still_leaves() -> None:
    """An answer can overtake its request; what follows on that connection would be read as the rest
    of it.
    """
    too_large = b"HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n"
    async with serve(SKIM, too_large, HANG) as server, patient() as clay:
        outcomes = [
            await clay.send(server.url, None, b'{"x":"%b"}' % (b"x" * 20_000_000)) for _ in range(2)
        ]
        assert [type(outcome) for outcome in outcomes] == [Poison, Poison]
        assert server.connections == 2


@pytest.mark.parametrize("script", [[READ, OK], [READ, OK, RESET]])
async def test_no_lead_arrives_twice_through_connections_that_die_while_idle(
    script: list[ServerStep],
) -> None:
    outcomes = {}
    async with serve(*script) as server, client() as clay:
        for n in range(40):
            body = b'{"n":%d}' % n
            outcomes[body] = await clay.send(server.url, None, body)
            await asyncio.sleep(0.001 * (n % 3))
        arrived = Counter(body for _, body in server.requests)
    assert max(arrived.values()) == 1
    for body, outcome in outcomes.items():
        assert isinstance(outcome, Accepted | Uncertain)
        assert body in arrived or isinstance(outcome, Uncertain)


async def test_a_connection_that_was_idle_for_longer_than_keepalive_s_is_not_used() -> None:
    kept_s = 0.3 * slowness()
    async with serve(READ, OK, READ, OK, HANG) as server, client(keepalive_s=kept_s) as clay:
        for pause_s in (0.0, 2 * kept_s, 0.0):
            await asyncio.sleep(pause_s)
            assert isinstance(await clay.send(server.url, None, b"{}"), Accepted)
        assert server.connections == 2
