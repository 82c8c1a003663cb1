"""What taking a partition over costs: time and memory until the first lead may be taken, by the number of rows.

`python -m benchmarks.take_over [--rows 1000000] [--awaiting] [--json]`. Real Kafka; a third of the rows are leads whose
results have come, the rest the aliases that lead to them by e-mail address and LinkedIn URL. It is the
partition's own take-over, from the fence to the first record that may be taken; each size is a process of its own. With
`--awaiting` all rows are leads that wait for their callback: the CPU that it takes to set their clock, beside the first
leads, and each look at it. Exits with 1 when up to 1,000,000 rows (more in proportion) take 5 s or 400 MB of process;
with `--awaiting` when their clock takes 40 MB, or a look at it 100 us. The baseline to think of is Faust's own recovery
of a table: 82 us a row.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping

import msgspec
import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from benchmarks.whole_worker import LIMITS as WHOLE_LIMITS
from benchmarks.whole_worker import TakeOver, take_over_all
from stream_app.clock import Clock
from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.domain.lead.identity import linked, person_key
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.outcome import Outcome
from stream_app.domain.model.system import SYSTEM_KEY, system_row
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Destination, Plan, Workspace
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.transactional_state import TransactionalState
from stream_app.ops import logs as log
from stream_app.ops.metrics import WorkerMetrics
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.state import WorkerParts

LIMITS = {"seconds": 5.0, "rss_mb": 400.0}
CLOCK_LIMITS = {"clock_mb": 40.0, "look_us": 100.0}
_PER_ROWS = 1_000_000
_LOOKS = 1_000


async def _fill(bootstrap: str, topic: str, rows: int, awaiting: bool) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=50, max_batch_size=2**19)
    await producer.start()
    await producer.send(topic, system_row(1), SYSTEM_KEY, partition=0)
    now_ms = time.time_ns() // 1_000_000
    for number in range(rows if awaiting else rows // 3):
        key = delivery_key("acme", "people", f"crm-{number:08d}")
        person, email = f"{number:022d}", f"e{number:021d}"
        row = Delivery(
            version=1,
            state="accepted" if awaiting else "enriched",
            origin=f"leads/0/{number}",
            seq=3,
            at_ms=now_ms + number,
            first_at_ms=now_ms + number,
            trace_id=f"{number:032x}",
            webhook_id="a1b2c3d4e5f6",
            final=not awaiting,
            reservation=Reservation("2026-11-24", "2026-11", 20, 5) if awaiting else None,
            results=0 if awaiting else 1,
            person=person,
            company=f"{number % 5_000:022d}",
            people=(person, email, ""),
        )
        await producer.send(topic, msgspec.json.encode(row), key, partition=0)
        if not awaiting:
            aliases = tuple(person_key("acme", "people", identifier) for identifier in (person, email))
            for alias, value in linked(aliases, key, lambda _: None):
                await producer.send(topic, value, alias, partition=0)
    await producer.stop()


class _NoClay:
    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        raise AssertionError("nothing is sent here")

    async def host_answers(self, destination: str) -> bool:
        raise AssertionError("nothing is asked here")


async def _member() -> float:
    return 60.0


def _bug(error: BaseException) -> None:
    raise error


async def _take_over(bootstrap: str, topic: str) -> dict[str, float]:
    memory = psutil.Process().memory_info
    before_mb = memory().rss / 2**20
    ledger = TransactionalState(KafkaConnection(bootstrap), f"{topic}-0", topic, 0)
    plan = Plan(TopicNames(), 1, {"acme": Workspace("acme", "people")}, {"people": Destination("people", "acme", ())})
    observer = WorkerMetrics(CollectorRegistry(), log.get("none"))
    parts = WorkerParts(plan=plan, clay=_NoClay(), clock=Clock(), observer=observer, alarm=_bug, still_member=_member)
    partition = PartitionOwner(0, ledger, parts)
    started = time.perf_counter()
    await partition.take_over()
    seconds = time.perf_counter() - started
    await partition.close()  # before it catches up with topics that are not there; its rows stay
    rows_mb = memory().rss / 2**20
    figures = {"seconds": seconds, "rss_mb": rows_mb, "rows_mb": rows_mb - before_mb}
    awaiting = DeadlineQueue(plan, partition.state.rows, partition.state.lanes)
    started = time.process_time()
    await awaiting.load()
    loaded = time.process_time()
    for _ in range(_LOOKS):
        awaiting.pop_due(0, 200)
        awaiting.next_ms()
    looks = time.process_time() - loaded
    waiting = {"waiting": float(len(awaiting)), "clock_s": loaded - started, "clock_mb": memory().rss / 2**20 - rows_mb}
    return figures | waiting | {"look_us": looks / _LOOKS * 1e6}


def missed(rows: int, figures: Mapping[str, float], awaiting: bool) -> list[str]:
    """The goals that were missed, in words."""
    scale = max(1.0, rows / _PER_ROWS)
    limits = CLOCK_LIMITS if awaiting else LIMITS
    allowed = {name: most if name == "look_us" else most * scale for name, most in limits.items()}
    return [
        f"{name}: {figures[name]:.1f}, not below {most:g}" for name, most in allowed.items() if figures[name] >= most
    ]


def main() -> None:
    """Fill topics of three sizes, take each over in a fresh process, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.take_over", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--awaiting", action="store_true", help="all rows are leads that wait for their callback")
    parser.add_argument("--partitions", type=int, help="a whole worker takes over so many partitions without rows")
    parser.add_argument("--workspaces", type=int, default=1_000, help="with --partitions: so many are configured")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        sys.stdout.write(json.dumps(asyncio.run(_take_over(*arguments.case))))
        return
    console = Console(stderr=True)
    figures: dict[int, dict[str, float]] = {}
    with kafka_for(console.print) as kafka:
        if arguments.partitions:
            _whole(take_over_all(kafka.bootstrap, arguments.partitions, arguments.workspaces, console.print))
            return
        for rows in (arguments.rows // 100, arguments.rows // 10, arguments.rows):
            topic = f"{unused('rows')}{rows}"
            console.print(f"{rows:,} rows ...")
            asyncio.run(_fill(kafka.bootstrap, topic, rows, arguments.awaiting))
            command = [sys.executable, "-m", "benchmarks.take_over", "--case", kafka.bootstrap, topic]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if ran.returncode:
                raise SystemExit(f"the take-over of {rows:,} rows failed: {ran.stderr.strip()[-2_000:]}")
            figures[rows] = json.loads(ran.stdout)
    failed = [text for rows, row in figures.items() for text in missed(rows, row, arguments.awaiting)]
    if arguments.json:
        Console().print_json(data={str(rows): row for rows, row in figures.items()} | {"missed": failed})
    else:
        _show(figures)
    if failed:
        raise SystemExit("; ".join(failed))


def _whole(take_over: TakeOver) -> None:
    """Print what a whole worker took, and exit with 1 when a goal was missed."""
    figures = msgspec.structs.asdict(take_over)
    Console().print_json(data=figures)
    if failed := [
        f"{name}: {figures[name]:.1f}, not below {most:g}"
        for name, most in WHOLE_LIMITS.items()
        if figures[name] >= most
    ]:
        raise SystemExit("; ".join(failed))


def _show(figures: Mapping[int, Mapping[str, float]]) -> None:
    table = Table(title="Taking one partition over")
    for column in ("rows", "s", "process MB", "of these rows MB", "waiting", "clock s", "clock MB", "a look us"):
        table.add_column(column, justify="right", no_wrap=column in ("rows", "waiting"))
    for rows, row in figures.items():
        clock = (f"{row['waiting']:,.0f}", f"{row['clock_s']:.2f}", f"{row['clock_mb']:.0f}", f"{row['look_us']:.0f}")
        table.add_row(f"{rows:,}", f"{row['seconds']:.2f}", f"{row['rss_mb']:.0f}", f"{row['rows_mb']:.0f}", *clock)
    Console().print(table)


if __name__ == "__main__":
    main()
