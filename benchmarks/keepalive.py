"""What a keep-alive near the server's own costs: leads that meet a connection which the server is
closing.

`python -m benchmarks.keepalive [--leads 240] [--link-ms 20]`. A server closes each connection that
was idle for 1 s, and is `--link-ms` away. Each lead follows a pause near 1 s on a kept connection.
Exit code 1 if a `keepalive_s` of half the server's limit leaves a lead uncertain.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from rich.console import Console
from rich.table import Table

from stream_app.clay.client import ClayClient
from stream_app.domain.model.outcome import Uncertain

_CLOSES_S = 1.0
_SPREAD_S = 0.1
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class _Server(asyncio.Protocol):
    """Answers each request, and closes what is idle; all that it hears and says takes `link_s`."""

    def __init__(self, link_s: float, received: list[bytes]) -> None:
        self._link_s = link_s
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.TimerHandle | None = None
        self._is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._loop.call_later(self._link_s, self._arrived, data)

    def _arrived(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._received.append(data.rpartition(b"\r\n")[2])
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(_CLOSES_S, self._close)
        self._loop.call_later(self._link_s, self._transport.write, _ANSWER)

    def _close(self) -> None:
        self._is_closed = True
        self._loop.call_later(self._link_s, self._transport.close)


async def _uncertain(leads: int, link_s: float, keepalive_s: float, seed: int) -> tuple[int, int]:
    """(uncertain leads, those of them that the server never had)."""
    received: list[bytes] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: _Server(link_s, received),
        "127.0.0.1",
        0,
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v3/sources/webhook/x"
    chance = random.Random(seed)

    async def one(number: int, pause_s: float) -> bytes | None:
        async with ClayClient(
            request_timeout_s=30.0,
            connect_timeout_s=5.0,
            pool_timeout_s=5.0,
            max_connections=1,
            keepalive_s=keepalive_s,
        ) as clay:
            await clay.send(url, None, b'{"first":%d}' % number)
            await asyncio.sleep(pause_s)
            body = b'{"second":%d}' % number
            return body if isinstance(await clay.send(url, None, body), Uncertain) else None

    pauses = [_CLOSES_S + chance.uniform(-_SPREAD_S, _SPREAD_S) for _ in range(leads)]
    sent = [
        body for body in await asyncio.gather(*map(one, range(leads), pauses)) if body is not None
    ]
    server.close()
    return len(sent), sum(body not in received for body in sent)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--leads", type=int, default=240)
    parser.add_argument("--link-ms", type=float, default=20)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    table = Table(
        title=f"{args.leads} leads after a pause near {_CLOSES_S:g} s, at which the server closes",
    )
    for heading in ("keepalive_s", "uncertain", "of them never received"):
        table.add_column(heading, justify="right")
    for keepalive_s in (_CLOSES_S / 2, 2 * _CLOSES_S):
        uncertain, unsent = asyncio.run(
            _uncertain(args.leads, args.link_ms / 1000, keepalive_s, args.seed),
        )
        table.add_row(f"{keepalive_s:g}", str(uncertain), str(unsent))
        if keepalive_s < _CLOSES_S:
            is_good = uncertain == 0
    Console().print(table)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
