"""How long the leads of a well lane take while another lane of its partition is in trouble, on real
Kafka.

`python -m benchmarks.neighbours [--lanes 2 20 200] [--seconds 40] [--json]`. All lanes are in one
partition, at 8 leads a second each. The well lanes get 4 leads a second together. The lane in
trouble gets 8 a second, and

    none        has no trouble and gets no leads: the case to compare with
    ill         gets 503 from Clay
    bursting    publishes 1,000 leads at once
    paused      is paused by an operator
    budget      has a budget of no lead

The time is from the publication of a well lane's lead to `accepted`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import kafka_for, unused
from stream_app.kafka.connection import kafka_producer
from tests.e2e.fleet import Fleet, now_ms

PER_S = 8
WELL_PER_S = 4
BURST = 1_000
MAX_MORE_S = 1.0
TROUBLES = ("none", "ill", "bursting", "paused", "budget")
_START_S = 120.0
_LATE_S = 60.0
_ILL = "w0"


class Row(msgspec.Struct):
    """One case: seconds until `accepted`; `deferred`: leads of the lane in trouble."""

    trouble: str
    lanes: int
    leads: int
    p50_s: float
    p99_s: float
    deferred: int


async def begin(line: Fleet, trouble: str) -> None:
    """Bring the trouble about."""
    order = {
        "paused": ("lanes", "pause", _ILL, "--why", "a benchmark"),
        "budget": ("lanes", "budget", _ILL, "--credits-per-day", "1", "--why", "a benchmark"),
    }.get(trouble)
    if order is not None:
        code, text = await line.run(*order)
        if code:
            raise SystemExit(text)
    if trouble == "ill":
        fault = {"kind": "status_before", "status": 503, "workspace": _ILL, "for_s": 3_600}
        await asyncio.to_thread(line.control, "POST", "/control/faults", fault)
    if trouble == "bursting":
        await line.publish(line.lead(10_000_000 + number, _ILL) for number in range(BURST))


async def publish(line: Fleet, trouble: str, seconds: float) -> dict[str, int]:
    """Publish both kinds of leads at their rates.

    Returns when each well lead was published, epoch ms.
    """
    published: dict[str, int] = {}
    producer = kafka_producer(bootstrap_servers=line.bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        began = time.monotonic()
        number = 0
        while time.monotonic() < began + seconds:
            if number % (PER_S // WELL_PER_S) == 0:
                well = line.lead(number, line.names[1 + len(published) % (len(line.names) - 1)])
                published[f"lead-{number}"] = now_ms()
                await producer.send_and_wait(well.topic, well.value, well.key, partition=0)
            if trouble not in ("none", "bursting"):
                ill = line.lead(1_000_000 + number, _ILL)
                await producer.send_and_wait(ill.topic, ill.value, ill.key, partition=0)
            number += 1
            await asyncio.sleep(max(0.0, began + number / PER_S - time.monotonic()))
    finally:
        await producer.stop()
    return published


async def case(line: Fleet, trouble: str, seconds: float) -> Row:
    """Start a worker and the replay process, and measure."""
    worker = line.join()
    line.start("replay")
    await worker.joined(_START_S)
    await line.publish(
        line.lead(20_000_000 + number, name) for number, name in enumerate(line.names)
    )
    await line.until(
        lambda: line.last()["accepted"] == len(line.names),
        _START_S,
        "each lane has sent a lead",
    )
    await begin(line, trouble)
    published = await publish(line, trouble, seconds)
    took_s: dict[str, float] = {}

    def all_accepted() -> bool:
        for history in list(line.histories.values()):
            last = history[-1]
            if last.status == "accepted" and last.lead_id in published:
                took_s[last.lead_id] = (last.at_ms - published[last.lead_id]) / 1000
        return len(took_s) == len(published)

    await line.until(all_accepted, _LATE_S, "the well lanes' leads are accepted")
    if line.posted_again():
        raise SystemExit("a lead was POSTed twice: the figures are worth nothing")
    at = statistics.quantiles(took_s.values(), n=100, method="inclusive")
    deferred = {
        event.lead_id
        for history in list(line.histories.values())
        for event in history
        if event.status == "deferred"
    }
    return Row(trouble, len(line.names), len(published), at[49], at[98], len(deferred))


async def measure(
    bootstrap: str,
    lanes: list[int],
    seconds: float,
    progress: Callable[[str], None],
) -> list[Row]:
    """All cases, one after the other."""
    rows: list[Row] = []
    for many in lanes:
        for trouble in TROUBLES:
            namespace = unused(f"neighbours-{many}-{trouble}")
            async with Fleet(
                bootstrap,
                namespace,
                many,
                partitions=1,
                rate_per_s=PER_S,
                burst=PER_S,
            ) as line:
                rows.append(await case(line, trouble, seconds))
            progress(f"{many} lanes, {trouble}: p99 {rows[-1].p99_s:.2f} s")
    return rows


def missed(rows: list[Row]) -> list[str]:
    """The goals that were missed, in words."""
    alone_s = {row.lanes: row.p99_s for row in rows if row.trouble == "none"}
    return [
        (
            f"{row.lanes} lanes, one {row.trouble}: p99 of the others "
            f"{row.p99_s - alone_s[row.lanes]:.2f} s more"
        )
        for row in rows
        if row.p99_s - alone_s[row.lanes] >= MAX_MORE_S
    ]


def main() -> None:
    """Measure, print a table or JSON, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbours",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument(
        "--lanes",
        type=int,
        nargs="+",
        default=[2, 20, 200],
        help="lanes in the partition",
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="how long each case is watched")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.lanes) < 2:
        parser.error("--lanes must be at least 2: one in trouble and one that is well")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        rows = asyncio.run(measure(kafka.bootstrap, arguments.lanes, arguments.seconds, progress))
    failed = missed(rows)
    if arguments.json:
        sys.stdout.write(json.dumps({"rows": msgspec.to_builtins(rows), "missed": failed}) + "\n")
    else:
        table = Table(
            title=f"Seconds from publication to accepted, lanes at {PER_S}/s in one partition",
        )
        for column in ("lanes", "trouble of one", "well leads", "p50", "p99", "deferred"):
            table.add_column(column, justify="left" if column == "trouble of one" else "right")
        for row in rows:
            figures = (f"{value:.2f}" for value in (row.p50_s, row.p99_s))
            table.add_row(str(row.lanes), row.trouble, str(row.leads), *figures, str(row.deferred))
        Console().print(table)
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
