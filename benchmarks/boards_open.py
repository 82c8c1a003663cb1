"""What open boards cost the callbacks: their p99 with 50 boards that poll, and without any, in one run.

`python -m benchmarks.boards_open [--boards 50] [--per-s 50] [--rounds 6] [--seconds 10] [--leads 1000000]
[--lanes 1000] [--json]`. A gateway in a process of its own keeps callbacks on real Kafka and serves the board over a
model of that many leads. Another process sends callbacks at a fixed pace, whether or not earlier ones are answered.
A third one opens the boards: each asks for its page every 5 s, as the page does in a browser. Rounds with and without
boards take turns, and the median of the rounds' p99 counts, so that other work on the machine hits both alike. Exits
with 1 when the p99 with boards is more than 20 % above the one without.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final

from prometheus_client import CollectorRegistry
from rich.console import Console

from benchmarks.board import Elsewhere, board_over, fill, settings_of
from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.topics import Retention, TopicNames, plan
from stream_app.gateway.asgi import build_asgi
from stream_app.gateway.receiver import Limits, Receiver, Table
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.producers import callback_inbox
from stream_app.kafka.topics import create_topics
from stream_app.ops import logs as log
from stream_app.ops.clock import SystemClock
from stream_app.ops.garbage import collect_rarely
from stream_app.ops.gateway_metrics import GatewayMetrics
from stream_app.ops.http import serve_http
from stream_app.services.gateway import SWITCH_S

MAX_MORE: Final = 0.2
POLL_S: Final = 5.0
_SECRET: Final = "a secret of the table in this benchmark"
_PARTITIONS: Final = 8


class NothingErased:
    async def is_forgotten(self, workspace: str, lead_id: str, at_ms: int) -> bool:
        return False


def serve(ready: Connection, bootstrap: str, topic: str, folder: Path, now_ms: int) -> None:
    """Run the gateway until the other end of the pipe closes."""
    asyncio.run(_serve(ready, bootstrap, topic, folder, now_ms))


async def _serve(ready: Connection, bootstrap: str, topic: str, folder: Path, now_ms: int) -> None:
    sys.setswitchinterval(SWITCH_S)
    table = Table("acme", "people", 2, (_SECRET.encode(),))
    metrics = GatewayMetrics(CollectorRegistry(), log.get("benchmark"))
    async with callback_inbox(KafkaConnection(bootstrap)) as inbox:
        limits = Limits(65_536, 30)
        receiver = Receiver([table], None, topic, inbox, SystemClock().now_ms, limits, metrics, NothingErased())
        with board_over(folder, Elsewhere(), now_ms) as board:
            app = build_asgi(receiver, inbox.not_ready, metrics.responded, board.routes())
            async with serve_http(app, "127.0.0.1", 0, grace_s=1) as port:
                collect_rarely()
                ready.send(port)
                await asyncio.to_thread(ready.poll, None)


class Client:
    """One connection, kept: what a browser or Clay has, at the least cost for this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, headers: str = "", body: bytes = b"") -> int:
        """Return the status of the answer, after its last byte."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode()
        )
        writer.write(body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line[15:]) for line in head.splitlines() if line.startswith("content-length:"))
        await reader.readexactly(length)
        return int(head.split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def callbacks(port: int, per_s: float, seconds: float) -> list[float]:
    """Send callbacks at a fixed pace. Returns the milliseconds of each, from when it was due to its answer."""
    free, took_ms, tasks = [Client(port)], list[float](), set[asyncio.Task[None]]()
    headers = f"content-type: application/json\r\nx-callback-secret: {_SECRET}\r\n"

    async def send(number: int, due: float) -> None:
        client = free.pop() if free else Client(port)
        body = json.dumps({"lead_id": f"crm-{number}", "Work Email": "ada@example.com", "Title": "CTO"}).encode()
        status = await client.ask("POST", "/callbacks/acme/people", headers, body)
        took_ms.append((time.perf_counter() - due) * 1000)
        assert status == 200, status
        free.append(client)

    began = time.perf_counter()
    for number in range(int(per_s * seconds)):
        due = began + number / per_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(send(number, max(due, time.perf_counter())))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for client in free:
        client.close()
    return took_ms


async def board(port: int, path: str, wait_s: float, seen: list[float]) -> None:
    """One open board: it asks for its page every 5 s, until cancelled."""
    client = Client(port)
    try:
        await asyncio.sleep(wait_s)
        while True:
            began = time.perf_counter()
            status = await client.ask("GET", path, "hx-request: true\r\n")
            assert status in (200, 204, 304), status
            seen.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(POLL_S)
    finally:
        client.close()


def pages(boards: int, lanes: int) -> list[str]:
    """The pages that people keep open: most have Now, each tenth a lane of its own."""
    lists = ("/board/lanes", "/board/leads", "/board/dead", "/board/books", "/board/audit", "/board/lanes?state=held")
    lane = [f"/board/lanes/w{number * 37 % lanes:04}" for number in range(boards // 5)]
    return (["/board"] * (boards // 2) + lane + list(lists) * boards)[:boards]


def browse(orders: Connection, port: int, boards: int, lanes: int) -> None:
    """Open the boards when True comes; close them when False comes, and answer with what their pages took."""
    asyncio.run(_browse(orders, port, pages(boards, lanes)))


async def _browse(orders: Connection, port: int, paths: list[str]) -> None:
    chance = random.Random(1)
    while await asyncio.to_thread(orders.recv):
        seen: list[float] = []
        tasks = [asyncio.create_task(board(port, path, chance.uniform(0, POLL_S), seen)) for path in paths]
        await asyncio.to_thread(orders.recv)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        orders.send(seen)


async def run(
    port: int, browsers: Connection, per_s: float, rounds: int, seconds: float
) -> tuple[dict[str, list[list[float]]], list[float]]:
    """Milliseconds of the callbacks in each round without and with boards, and of the boards' pages."""
    took: dict[str, list[list[float]]] = {"without": [], "with": []}
    seen: list[float] = []
    await callbacks(port, per_s, 3.0)  # warm
    for number in range(2 * rounds):
        with_boards = number % 4 in (1, 2)  # A B B A: a slow change of the machine hits both alike
        if with_boards:
            browsers.send(True)
        await asyncio.sleep(POLL_S)
        took["with" if with_boards else "without"].append(sorted(await callbacks(port, per_s, seconds)))
        if with_boards:
            browsers.send(False)
            seen += await asyncio.to_thread(browsers.recv)
    browsers.send(False)
    return took, sorted(seen)


def at(share: float, times: list[float]) -> float:
    """A quantile of sorted times."""
    return times[min(len(times) - 1, int(len(times) * share))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=50)
    parser.add_argument("--per-s", type=float, default=50, help="callbacks a second (%(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds with, and as many without boards (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="length of a round (%(default)s)")
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument("--lanes", type=int, default=1_000)
    parser.add_argument("--model", type=Path, help="a folder for the read model, to use it again")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    log.configure("console")
    now_ms = time.time_ns() // 1_000_000
    names = TopicNames(unused("boards-open"))
    with tempfile.TemporaryDirectory(prefix="boards-") as made, kafka_for(Console(stderr=True).print) as kafka:
        folder = args.model or Path(made)
        if not (folder / "model.sqlite").exists():
            folder.mkdir(exist_ok=True)
            fill(folder / "model.sqlite", settings_of(folder, args.lanes), args.lanes, args.leads, now_ms)
        topics = plan(names, _PARTITIONS, 1, Retention(), ())
        asyncio.run(create_topics(KafkaConnection(kafka.bootstrap), topics, 60, lambda _: None))
        spawn = multiprocessing.get_context("spawn")
        (ours, theirs), (browsers, orders) = multiprocessing.Pipe(), multiprocessing.Pipe()
        gateway = spawn.Process(target=serve, args=(theirs, kafka.bootstrap, names.callbacks, folder, now_ms))
        gateway.start()
        theirs.close()
        assert ours.poll(60), "the gateway does not start"
        port = ours.recv()
        people = spawn.Process(target=browse, args=(orders, port, args.boards, args.lanes))
        people.start()
        orders.close()
        try:
            took, seen = asyncio.run(run(port, browsers, args.per_s, args.rounds, args.seconds))
        finally:
            browsers.close()
            ours.close()
            people.join(10)
            gateway.join(10)
    figures = {
        f"{name}_{label}_ms": round(median(at(share, each) for each in rounds), 1)
        for name, rounds in took.items()
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }
    more = figures["with_p99_ms"] / figures["without_p99_ms"] - 1
    figures |= {f"pages_{label}_ms": round(at(share, seen), 1) for label, share in (("p50", 0.5), ("p99", 0.99))}
    figures |= {"rounds": args.rounds, "pages": len(seen), "more": round(more, 3)}
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, figure in figures.items():
            Console().print(f"{name:18} {figure}")
    if more > MAX_MORE:
        raise SystemExit(f"with boards the callbacks' p99 is {more:.0%} higher, not at most {MAX_MORE:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
