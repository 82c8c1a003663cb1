"""How long each page of the board takes with many lanes and leads.

`python -m benchmarks.board [--leads 1000000] [--lanes 1000] [--json]`. The records are made up in
memory and go into a read model as the gateway writes it. Each page is then asked for many times,
one after the other, from the request to the last byte of HTML; lists also at their pages deep
inside. Garbage is collected as in the process. Exits with 1 when a page's p95 is 100 ms or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from starlette.applications import Starlette

from benchmarks.read_model import Made
from stream_app.board.access import COOKIE, LOCAL, BoardAccess
from stream_app.board.app import SHARED_S, BoardRoutes
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.on_kafka import Search
from stream_app.board.read_model.query import FoundResultAt
from stream_app.board.read_model.store import LogPosition, ReadModel, Sources
from stream_app.board.site import Site
from stream_app.cli.main import collect_rarely
from stream_app.client.results.answers import FoundResult
from stream_app.config import Settings, load_settings
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.limits.meters import Meter
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.model.topics import ExistingTopic
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.backlog import Waiting
from stream_app.kafka.connection import Background
from stream_app.kafka.groups import Consumption

PARTITIONS: Final = 64
MAX_P95_MS: Final = 100.0
_AT_ONCE: Final = 5_000
_ENDS: Final[tuple[Status, ...]] = (
    "enriched",
    "enriched",
    "enriched",
    "no_data",
    "accepted",
    "held_budget",
    "parked",
)
_encode: Final = msgspec.json.Encoder().encode


async def _nobody() -> Any:
    raise AssertionError("nobody asks Kafka")


class Elsewhere(Background[Consumption]):
    """Everything that the board asks Kafka for."""

    def __init__(self) -> None:
        super().__init__(_nobody, fresh_s=0)
        self.is_first = False

    async def look(self, within_s: float) -> Consumption | None:
        waiting = {("leads", number): Waiting(10 * number) for number in range(PARTITIONS)}
        return Consumption(ConsumerGroup("Stable", 4), ConsumerGroup("Stable", 1), waiting)

    async def fill(self, stored: FoundResultAt) -> FoundResult:
        return stored.result

    async def find(self, lead_id: str, person: str, workspace: str) -> Search:
        return Search()


class Topics(Background[dict[str, ExistingTopic]]):
    """All topics as planned."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(_nobody, fresh_s=0)
        self._now = {
            topic.name: ExistingTopic(topic.partitions, topic.replication, dict(topic.config))
            for topic in settings.topic_plan()
        }

    async def look(self, within_s: float) -> dict[str, ExistingTopic]:
        return self._now


def settings_of(folder: Path, lanes: int) -> Settings:
    text = f"[kafka]\npartitions = {PARTITIONS}\n"
    for number in range(lanes):
        text += (
            f"[workspaces.w{number:04}]\n[destinations.people{number:04}]\nworkspace = "
            f'"w{number:04}"\n'
        )
        text += f'webhooks_env = ["HOOK{number}"]\ncallbacks = false\n'
    path = folder / "stream_app.toml"
    path.write_text(text)
    return load_settings(path, {}, ())


def records(settings: Settings, lanes: int, leads: int, now_ms: int) -> Iterator[Made]:
    """Lanes, a tenth of which are held; leads of the last day in seven states; dead letters of
    three causes a lane.
    """
    names = settings.names
    for number in range(lanes):
        name = f"w{number:04}"
        meter = Meter("p", now_ms + 3_600_000, 10_000, 4_000 + number, 100)
        view = LaneView(
            name,
            number % PARTITIONS,
            now_ms,
            "closed",
            "healthy",
            99.0,
            9.5,
            holds="" if number % 10 else "paused",
            text="" if number % 10 else "paused by jane: a test",
            meters={"credits_day": meter, "credits_month": meter},
            calls=99,
        )
        yield Made(
            names.lanes,
            number % PARTITIONS,
            number,
            name.encode(),
            _encode(view),
            (),
            now_ms,
        )
        for reason in ("http_503", "http_422", "not_json"):
            headers = {
                "disposition": "failed",
                "reason": reason,
                "destination": f"people{number:04}",
            }
            pairs = tuple((HEADERS[field], text.encode()) for field, text in headers.items())
            yield Made(
                names.dlq,
                number % PARTITIONS,
                number,
                name.encode(),
                b"{}",
                pairs,
                now_ms - number * 60_000,
            )
    for number in range(leads):
        lane = number * 7_919 % lanes
        origin = f"{names.leads}/{lane % PARTITIONS}/{number}"
        at_ms = now_ms - (leads - number) * 86_000_000 // leads
        steps: tuple[Status, ...] = ("sending", _ENDS[number % len(_ENDS)])
        for seq, status in enumerate(steps, 1):
            event = StatusEvent(
                f"{origin}#{seq}",
                f"crm-{number}",
                status,
                seq,
                at_ms + seq,
                origin,
                f"w{lane:04}",
                f"people{lane:04}",
                credits=6,
            )
            yield Made(names.status, lane % PARTITIONS, number, b"", _encode(event), (), at_ms)


def fill(path: Path, settings: Settings, lanes: int, leads: int, now_ms: int) -> None:
    sources = Sources(settings.names, PARTITIONS, settings.topics, frozenset(settings.workspaces))
    model = ReadModel(path, sources)
    batch: dict[str, list[Made]] = {}
    waiting = 0
    for record in records(settings, lanes, leads, now_ms):
        batch.setdefault(record.topic, []).append(record)
        waiting += 1
        if waiting == _AT_ONCE:
            model.apply(batch, {(settings.names.status, 0): LogPosition(record.offset)}, now_ms)
            batch = {}
            waiting = 0
    model.apply(batch, {(settings.names.status, 0): LogPosition(leads)}, now_ms)
    model.sweep(now_ms)
    model.close()


@contextmanager
def board_over(
    folder: Path,
    elsewhere: Elsewhere,
    now_ms: int,
    shared_s: float = SHARED_S,
) -> Iterator[BoardRoutes]:
    """The board of the settings and the model in the folder, as the process has it."""
    site = Site(
        load_settings(folder / "stream_app.toml", {}, ()),
        BoardQueries(folder / "model.sqlite", set()),
    )
    board = BoardRoutes(
        site,
        BoardAccess(
            "a token of the board",
            lambda: now_ms // 1000,
            made_here=True,
            operator_token=None,
            proxy=None,
            url="",
        ),
        lambda: ProjectionLag(now_ms, 0),
        elsewhere,
        Topics(site.settings),
        elsewhere.fill,
        elsewhere.find,
        lambda: now_ms,
        shared_s,
    )
    with closing(board):
        yield board


async def measure(
    board: BoardRoutes,
    lanes: int,
    leads: int,
    times: int,
    now_ms: int,
) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of each request, by page, sorted: of the clock, and of CPU."""
    deep = f"{now_ms - 43_000_000}-{1 << 50}"
    pages = {
        "now": "/board",
        "lanes": "/board/lanes",
        "lanes, the last page": f"/board/lanes?after=w{lanes * 19 // 20 - 1:04}",
        "lane": f"/board/lanes/w{lanes // 2:04}",
        "leads": "/board/leads",
        "leads, deep inside": f"/board/leads?after={deep}",
        "leads of a column": "/board/leads?column=enriched",
        "leads of a column, deep inside": f"/board/leads?column=parked&after={deep}",
        "lead": f"/board/leads/crm-{leads // 2}",
        "dead letters": "/board/dead",
        "books": "/board/books",
        "money": "/board/money",
        "audit": "/board/audit",
        "system": "/board/system",
    }
    took: dict[str, tuple[list[float], list[float]]] = {}
    app = httpx.ASGITransport(Starlette(routes=board.routes()))
    cookies = {COOKIE: board._access.session(LOCAL, "viewer")}
    async with httpx.AsyncClient(
        transport=app,
        base_url="http://127.0.0.1:9103",
        cookies=cookies,
    ) as client:
        for _ in range(50):  # it starts the process
            await client.get("/board")
            await asyncio.sleep(0.1)
        for name, url in pages.items():
            wall_ms = []
            cpu_ms = []
            for _ in range(times):
                began = time.perf_counter()
                began_cpu = time.process_time()
                answer = await client.get(url)
                wall_ms.append((time.perf_counter() - began) * 1000)
                cpu_ms.append((time.process_time() - began_cpu) * 1000)
                answer.raise_for_status()
            took[name] = sorted(wall_ms), sorted(cpu_ms)
    return took


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument("--lanes", type=int, default=1_000)
    parser.add_argument(
        "--times",
        type=int,
        default=40,
        help="requests for each page (%(default)s)",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    now_ms = time.time_ns() // 1_000_000
    with tempfile.TemporaryDirectory(prefix="board-") as folder:
        settings = settings_of(Path(folder), args.lanes)
        path = Path(folder) / "model.sqlite"
        fill(path, settings, args.lanes, args.leads, now_ms)
        with board_over(Path(folder), Elsewhere(), now_ms, shared_s=0) as board:
            collect_rarely()
            took = asyncio.run(measure(board, args.lanes, args.leads, args.times, now_ms))
        size_mb = path.stat().st_size / 1e6
    p95 = {name: round(wall_ms[len(wall_ms) * 95 // 100], 1) for name, (wall_ms, _) in took.items()}
    cpu = {name: round(cpu_ms[len(cpu_ms) // 2], 1) for name, (_, cpu_ms) in took.items()}
    slow = [
        f"{name}: p95 {ms} ms, not below {MAX_P95_MS:.0f}"
        for name, ms in p95.items()
        if ms >= MAX_P95_MS
    ]
    if args.json:
        figures = {
            "lanes": args.lanes,
            "leads": args.leads,
            "file_mb": round(size_mb),
            "p95_ms": p95,
            "cpu_ms": cpu,
            "missed": slow,
        }
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, ms in p95.items():
            Console().print(f"{name:32} p95 {ms:7.1f} ms   CPU p50 {cpu[name]:6.1f} ms")
    if slow:
        raise SystemExit("; ".join(slow))
    return 0


if __name__ == "__main__":
    sys.exit(main())
