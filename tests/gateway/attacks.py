"""Attacks on the gateway by a peer without a token, as bytes on connections.

Each is bounded in time and in rate.

    python -m tests.gateway.attacks NAME PORT ADDRESS SECONDS MB_PER_S

attacks from that address, and prints what it has done as one line of JSON. `tests.gateway.hostile`
runs it; it speaks to loopback addresses only.
"""

import asyncio
import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

KNOWN: Final = "/callbacks/acme/people"
UNKNOWN: Final = "/callbacks/unknown/nothing"


@dataclass(frozen=True)
class Attack:
    """What each of the connections does, again and again: send `opening`, then `pieces` times
    `piece`, then wait.

    pieces  None: until the connection ends
    reads   whether it reads the answers; if not, its receive buffer is small
    waits   whether it then waits until the gateway ends the connection
    pause_s between pieces
    """

    about: str
    connections: int
    opening: bytes = b""
    piece: bytes = b""
    pieces: int | None = None
    reads: bool = True
    waits: bool = True
    pause_s: float = 0.0


def post(path: str, *more: str, length: int | None = None) -> bytes:
    """The head of a POST; without a length its body is chunked."""
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [
        f"POST {path} HTTP/1.1",
        "host: gateway",
        "content-type: application/json",
        size,
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _whole(about: str, body: bytes) -> Attack:
    assert len(body) <= 262_144, "larger ones are refused by their size"
    return Attack(about, 16, post(KNOWN, length=len(body)) + body, waits=False)


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode()


_CLAIM: Final = b'{"lead_id":"crm-17","callback_token":"x","a":'
_BROKEN: Final = _CLAIM + b'"' + b'{"a":"' * 37_000 + b"}" * 30_000
_QUOTES: Final = _CLAIM + b'"' + b'"}' * 131_000
_NESTED: Final = _CLAIM + b"[" + b",".join([b"[]"] * 80_000) + b"]}"
_FIELDS: Final = json.dumps(
    {f"field number {n}": n for n in range(9_000)} | {"lead_id": "crm-17"},
).encode()

ATTACKS: Final[dict[str, Attack]] = {
    "trailers": Attack(
        "chunked trailers without end",
        8,
        post(KNOWN) + b"0\r\n",
        b"a:\r\n" * 4_096,
    ),
    "chunks": Attack("chunks of one byte", 16, post(KNOWN), b"1\r\n \r\n" * 4_096),
    "pipeline": Attack("pipelined requests", 50, b"", _get("/nothing") * 400),
    "unread": Attack(
        "pipelined requests, answers not read",
        200,
        b"",
        _get("/healthz") * 400,
        reads=False,
    ),
    "heads": Attack(
        "heads of tiny lines that never end",
        300,
        b"GET / HTTP/1.1\r\n",
        b"a:\r\n" * 4_000,
        4,
    ),
    "fill": Attack(
        "4,000 heads of 16 kB that never end",
        4_000,
        b"GET / HTTP/1.1\r\na: " + b"y" * 16_000,
    ),
    "drip": Attack("heads that drip", 1_000, b"GET / HTTP/1.1\r\n", b"a", 10_000, pause_s=0.2),
    "idle": Attack("connections that say nothing", 6_000),
    "unknown": Attack(
        "257 stalled bodies to an unknown table",
        257,
        post(UNKNOWN, length=262_144),
        b" " * 65_536,
        3,
        reads=False,
    ),
    "stalled": Attack(
        "257 stalled bodies to a known table",
        257,
        post(KNOWN, length=262_144),
        b" " * 65_536,
        3,
    ),
    "bad-key": Attack(
        "stalled bodies with a bad key id",
        257,
        post(KNOWN, "x-callback-token: 00000000.x", length=262_144),
        b" " * 65_536,
        3,
        reads=False,
    ),
    "slow": Attack(
        "6,500 bodies that drip, for less than 2 KB/s",
        6_500,
        post(KNOWN, length=262_144),
        b" ",
        None,
        pause_s=4.0,
    ),
    "oversize": Attack(
        "bodies over the limit",
        64,
        post(KNOWN),
        b"10000\r\n" + b" " * 65_536 + b"\r\n",
    ),
    "broken": _whole("broken JSON of texts that begin and do not end", _BROKEN),
    "quotes": _whole("broken JSON of quotes and braces", _QUOTES),
    "fields": _whole("9,000 fields", _FIELDS),
    "nested": _whole("80,000 lists in a list", _NESTED),
}


class Pace:
    """So many bytes a second for all connections of an attack."""

    def __init__(self, bytes_per_s: float) -> None:
        self._per_s = bytes_per_s
        self._free_at = time.monotonic()

    async def take(self, count: int) -> None:
        """Return when it is time for so many bytes more."""
        self._free_at = max(self._free_at, time.monotonic() - 0.1) + count / self._per_s
        await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))


@dataclass
class Done:
    """What an attack has done."""

    connections: int = 0
    sent_bytes: int = 0


async def run(attack: Attack, port: int, address: str, seconds: float, bytes_per_s: float) -> Done:
    """Attack for so long. Raises ValueError unless the address is loopback."""
    if not ip_address(address).is_loopback:
        raise ValueError(f"{address} is no loopback address: attacks stay on this machine")
    done = Done()
    pace = Pace(bytes_per_s)
    tasks = [
        asyncio.create_task(_again(attack, port, address, pace, done))
        for _ in range(attack.connections)
    ]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return done


async def _again(attack: Attack, port: int, address: str, pace: Pace, done: Done) -> None:
    while True:
        await pace.take(200)  # about what a handshake costs
        try:
            connected = await _connect(attack, port, address)
        except OSError:
            await asyncio.sleep(0.2)
            continue
        done.connections += 1
        try:
            await _one(attack, connected, pace, done)
        except OSError:
            pass  # it was cut
        finally:
            connected.close()


async def _connect(attack: Attack, port: int, address: str) -> socket.socket:
    connected = socket.socket()
    try:
        connected.setblocking(False)
        if not attack.reads:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connected.bind((address, 0))
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", port))
    except BaseException:
        connected.close()
        raise
    return connected


async def _one(attack: Attack, connected: socket.socket, pace: Pace, done: Done) -> None:
    loop = asyncio.get_running_loop()

    async def send(data: bytes) -> None:
        await pace.take(len(data))
        await loop.sock_sendall(connected, data)
        done.sent_bytes += len(data)

    async def flood() -> None:
        if attack.opening:
            await send(attack.opening)
        number = 0
        while attack.piece and (attack.pieces is None or number < attack.pieces):
            await send(attack.piece)
            await asyncio.sleep(attack.pause_s)
            number += 1

    flooding = asyncio.create_task(flood())
    try:
        if not attack.reads or not attack.waits:
            await flooding
        while attack.reads and await loop.sock_recv(connected, 65_536):
            if not attack.waits:
                return
        while not attack.reads:
            await asyncio.sleep(0.1)
            connected.send(b"x")  # raises when it was cut
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


def main() -> None:
    name, port, address, seconds, mb_per_s = sys.argv[1:]
    os.nice(10)  # a real attacker has its own machine: here it must not take the gateway's CPU
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    done = asyncio.run(
        run(ATTACKS[name], int(port), address, min(float(seconds), 120), float(mb_per_s) * 1e6),
    )
    sys.stdout.write(json.dumps(vars(done)) + "\n")


if __name__ == "__main__":
    main()
