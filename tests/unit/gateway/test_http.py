"""The gateway on uvicorn, byte by byte. A proxy in front bounds the rest."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from stream_app.config.model import Gateway as Limits
from stream_app.ops.http import serve_http
from tests.gateway.support import URL, Gateway, good
from tests.support.kafka import until
from tests.support.pace import BUSY, slowness
from tests.support.raw_server import on_uvloop, say

READ_WITHIN_S = 0.5
LIMITS = Limits(max_body_bytes=65_536, read_timeout_s=READ_WITHIN_S)
PATIENT = Limits(max_body_bytes=65_536, read_timeout_s=5 * BUSY)


class Server:
    """A gateway that listens."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.port = port

    async def say(self, *pieces: bytes, pause_s: float = 0.0) -> tuple[int, bytes, float]:
        """Send these, a pause between them, and give (status, answer, seconds) when the server has
        hung up.
        """
        began = time.monotonic()
        answer = await say(self.port, *pieces, pause_s=pause_s)
        status = int(answer.split()[1]) if answer else 0
        return status, answer, time.monotonic() - began


@asynccontextmanager
async def serving(limits: Limits = LIMITS) -> AsyncIterator[Server]:
    gateway = Gateway(limits=limits)
    async with serve_http(gateway.app, "127.0.0.1", 0, grace_s=5) as port:
        yield Server(gateway, port)


def request(body: bytes = b"", *, length: int | None = None, **headers: str) -> bytes:
    lines = {"host": "x", "content-type": "application/json", "connection": "close"}
    if "transfer_encoding" not in headers:
        lines["content-length"] = str(len(body) if length is None else length)
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {URL} HTTP/1.1\r\n{head}\r\n".encode() + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


GOOD = json.dumps(good()).encode()


@on_uvloop
async def test_a_callback_whole_in_pieces_and_in_chunks() -> None:
    async with serving(PATIENT) as server:
        assert (await server.say(request(GOOD)))[0] == 200
        whole = request(GOOD)
        assert (
            await server.say(
                *(whole[at : at + 40] for at in range(0, len(whole), 40)),
                pause_s=0.001,
            )
        )[0] == 200
        chunks = [chunk(GOOD[at : at + 7]) for at in range(0, len(GOOD), 7)]
        assert (await server.say(request(transfer_encoding="chunked"), *chunks, b"0\r\n\r\n"))[
            0
        ] == 200
        assert server.gateway.counted() == {"enriched": 3}


@on_uvloop
async def test_a_body_in_chunks_may_have_the_most_bytes_and_not_one_more() -> None:
    limits = Limits(max_body_bytes=len(GOOD), read_timeout_s=5 * BUSY)
    async with serving(limits) as server:
        for body, status in ((GOOD, 200), (GOOD + b" ", 413)):
            chunks = [chunk(body[at : at + 7]) for at in range(0, len(body), 7)]
            assert (await server.say(request(transfer_encoding="chunked"), *chunks, b"0\r\n\r\n"))[
                0
            ] == status
        assert server.gateway.counted() == {"enriched": 1, "too_large": 1}


@on_uvloop
async def test_slow_loris_in_the_body() -> None:
    async with serving() as server:
        drip = [bytes([byte]) for byte in GOOD]
        status, answer, seconds = await server.say(request(length=len(GOOD)), *drip, pause_s=0.02)
        assert status == 408
        assert b"did not arrive in time" in answer
        assert seconds < (READ_WITHIN_S + 3) * slowness()
        assert server.gateway.counted() == {"too_slow": 1}


@on_uvloop
async def test_chunked_without_end() -> None:
    async with serving() as server:
        slowly = [chunk(b" " * 10)] * 2_000
        assert (await server.say(request(transfer_encoding="chunked"), *slowly, pause_s=0.01))[
            0
        ] == 408
        before = psutil.Process().memory_info().rss
        quickly = [chunk(b" " * 100_000)] * 1_000
        status, _, seconds = await server.say(request(transfer_encoding="chunked"), *quickly)
        assert status in (413, 0), "answered, unless its own flood is in the way"
        assert seconds < 15 * slowness()
        assert psutil.Process().memory_info().rss - before < 50 * 2**20
        assert server.gateway.counted() == {"too_slow": 1, "too_large": 1}


@on_uvloop
async def test_a_peer_that_hangs_up_in_the_middle_is_counted() -> None:
    async with serving() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(length=100) + b"{")
        await writer.drain()
        writer.close()
        await until(lambda: server.gateway.counted() == {"gone": 1})
