"""Wrong tokens at the login, through the real server: few of them wait, and nothing is kept of a peer that has gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from stream_app.board.access import MOST_WAITING
from stream_app.ops.http import LIMIT_CONCURRENCY, serve_http
from stream_app.services.board import board_app
from tests.board.scene import TOKEN, board_of, settings_of

_LONG_S = 60
_FLOOD = LIMIT_CONCURRENCY - 20
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Serve a board whose wrong tokens wait longer than a test takes; yields its port."""
    monkeypatch.setattr("stream_app.board.access._FAILURE_S", _LONG_S)
    board = board_of(settings_of(folder, token=True), folder / "model.sqlite")
    async with serve_http(board_app(board.routes()), "127.0.0.1", 0, grace_s=0) as port:
        yield port
    board.close()


async def _post(port: int, token: str) -> Peer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    form = urlencode({"token": token, "who": "jane"})
    head = f"POST /board/login HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\n"
    head += f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n\r\n"
    writer.write((head + form).encode())
    await writer.drain()
    return reader, writer


async def _get(port: int, path: str) -> Peer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return reader, writer


async def _head(peer: Peer, within_s: float = 10) -> str:
    """Return the head of an answer in lower case; '' if none comes in time."""
    try:
        async with asyncio.timeout(within_s):
            return (await peer[0].readuntil(b"\r\n\r\n")).decode().lower()
    except TimeoutError:
        return ""


async def _close(*peers: Peer) -> None:
    for _, writer in peers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in peers), return_exceptions=True)


async def test_a_flood_of_wrong_tokens_shuts_nobody_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _board(folder, monkeypatch) as port:
        peers = [await _post(port, f"wrong {number}") for number in range(_FLOOD)]
        heads = await asyncio.gather(*(_head(peer, 5) for peer in peers))
        refused = [head for head in heads if head]
        assert len(heads) - len(refused) == MOST_WAITING == 16
        for head in refused:
            assert head.startswith("http/1.1 429 "), head
            assert "retry-after: 4\r\n" in head
            assert "connection: close\r\n" in head, "an idle connection would take the place of another's"
        right, health = await _post(port, TOKEN), await _get(port, "/healthz")
        assert (await _head(right)).startswith("http/1.1 303 "), "the right token does not wait for wrong ones"
        assert (await _head(health)).startswith("http/1.1 200 ")
        await _close(right, health, *peers)


async def test_a_peer_that_has_gone_is_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _board(folder, monkeypatch) as port:
        for _ in range(3):
            peers = [await _post(port, "wrong") for _ in range(MOST_WAITING)]
            assert not any(await asyncio.gather(*(_head(peer, 1) for peer in peers))), "each has a place of those gone"
            one_more = await _post(port, "wrong")
            assert (await _head(one_more)).startswith("http/1.1 429 ")
            await _close(one_more, *peers)
            await asyncio.sleep(0.2)
