"""What taking a partition over costs: time until the first lead may be taken, by the number of
leads.

`python -m benchmarks.take_over [--leads 1000000] [--linkedin] [--awaiting] [--json]`. Real Kafka;
each lead has a row of its own, and one for each identifier of its person: its e-mail address, and
(`--linkedin`) its LinkedIn URL. It is the partition's own take-over, from the fence to the first
record that may be taken; each size is a process of its own. With `--awaiting` all leads wait for
their callback: the CPU that it takes to set their clock, beside the first leads, and each look at
it. Exits with 1 when up to 1,000,000 rows (more in proportion) take 5 s; with `--awaiting` when the
clock of up to 1,000,000 leads takes 40 MB, or a look at it 100 us. `benchmarks.worker_memory`
measures the memory of the rows in a whole worker. The baseline to think of is Faust's own recovery
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
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from benchmarks.lead_rows import fill
from benchmarks.whole_worker import LIMITS as WHOLE_LIMITS
from benchmarks.whole_worker import TakeOver, take_over_all
from stream_app.clock import Clock
from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.model.outcome import Outcome
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Destination, Plan, Workspace
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.transactional_state import TransactionalState
from stream_app.ops import logs as log
from stream_app.ops.metrics import WorkerMetrics
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.state import WorkerParts

LIMITS = {"seconds": 5.0}
CLOCK_LIMITS = {"clock_mb": 40.0, "look_us": 100.0}
_PER = 1_000_000
_LOOKS = 1_000


async def _fill(bootstrap: str, topic: str, leads: int, *, linkedin: bool, awaiting: bool) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
    await admin.close()
    return await fill(
        bootstrap,
        topic,
        leads,
        "acme",
        "people",
        linkedin=linkedin,
        awaiting=awaiting,
    )


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
    store = TransactionalState(KafkaConnection(bootstrap), f"{topic}-0", topic, 0)
    plan = Plan(
        TopicNames(),
        1,
        {"acme": Workspace("acme", "people")},
        {"people": Destination("people", "acme", ())},
    )
    observer = WorkerMetrics(CollectorRegistry(), log.get("none"))
    parts = WorkerParts(
        plan=plan,
        clay=_NoClay(),
        clock=Clock(),
        observer=observer,
        alarm=_bug,
        still_member=_member,
    )
    partition = PartitionOwner(0, store, parts)
    started = time.perf_counter()
    await partition.take_over()
    seconds = time.perf_counter() - started
    await partition.close()  # before it catches up with topics that are not there; its rows stay
    rows_mb = memory().rss / 2**20
    figures = {"seconds": seconds, "rows_mb": rows_mb - before_mb}
    awaiting = DeadlineQueue(plan, partition.state.rows, partition.state.lanes)
    started = time.process_time()
    await awaiting.load()
    loaded = time.process_time()
    for _ in range(_LOOKS):
        awaiting.pop_due(0, 200)
        awaiting.next_ms()
    looks = time.process_time() - loaded
    waiting = {
        "waiting": float(len(awaiting)),
        "clock_s": loaded - started,
        "clock_mb": memory().rss / 2**20 - rows_mb,
    }
    return figures | waiting | {"look_us": looks / _LOOKS * 1e6}


def missed(figures: Mapping[str, float], *, awaiting: bool) -> list[str]:
    """The goals that were missed, in words."""
    scale = max(1.0, figures["waiting" if awaiting else "rows"] / _PER)
    limits = CLOCK_LIMITS if awaiting else LIMITS
    allowed = {name: most if name == "look_us" else most * scale for name, most in limits.items()}
    return [
        f"{name}: {figures[name]:.1f}, not below {most:g}"
        for name, most in allowed.items()
        if figures[name] >= most
    ]


def main() -> None:
    """Fill topics of three sizes, take each over in a fresh process, and exit with 1 when a goal
    was missed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.take_over",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument(
        "--linkedin",
        action="store_true",
        help="each lead has a LinkedIn URL beside its e-mail address",
    )
    parser.add_argument("--awaiting", action="store_true", help="all leads wait for their callback")
    parser.add_argument(
        "--partitions",
        type=int,
        help="a whole worker takes over so many partitions without rows",
    )
    parser.add_argument(
        "--workspaces",
        type=int,
        default=1_000,
        help="with --partitions: so many are configured",
    )
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
            _whole(
                take_over_all(
                    kafka.bootstrap,
                    arguments.partitions,
                    arguments.workspaces,
                    console.print,
                ),
            )
            return
        for leads in (arguments.leads // 100, arguments.leads // 10, arguments.leads):
            topic = f"{unused('leads')}{leads}"
            console.print(f"{leads:,} leads ...")
            how = {"linkedin": arguments.linkedin, "awaiting": arguments.awaiting}
            rows = asyncio.run(_fill(kafka.bootstrap, topic, leads, **how))
            command = [
                sys.executable,
                "-m",
                "benchmarks.take_over",
                "--case",
                kafka.bootstrap,
                topic,
            ]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if ran.returncode:
                raise SystemExit(
                    f"the take-over of {leads:,} leads failed: {ran.stderr.strip()[-2_000:]}",
                )
            figures[leads] = {"rows": rows} | json.loads(ran.stdout)
    failed = [text for row in figures.values() for text in missed(row, awaiting=arguments.awaiting)]
    if arguments.json:
        Console().print_json(
            data={str(leads): row for leads, row in figures.items()} | {"missed": failed},
        )
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
    for column in (
        "leads",
        "rows",
        "s",
        "of these rows MB",
        "waiting",
        "clock s",
        "clock MB",
        "a look us",
    ):
        table.add_column(column, justify="right", no_wrap=column in ("leads", "rows", "waiting"))
    for leads, row in figures.items():
        clock = (
            f"{row['waiting']:,.0f}",
            f"{row['clock_s']:.2f}",
            f"{row['clock_mb']:.0f}",
            f"{row['look_us']:.0f}",
        )
        size = (f"{leads:,}", f"{row['rows']:,.0f}")
        table.add_row(*size, f"{row['seconds']:.2f}", f"{row['rows_mb']:.0f}", *clock)
    Console().print(table)


if __name__ == "__main__":
    main()
