"""How long a hot lead takes while a backfill waits, on real Kafka with worker and simulator, beside
one queue for all.

`python -m benchmarks.hot_lane [--bulk 100000] [--hot 120] [--json]`. A lane at 8 a second, burst
10; the backfill waits on leads.bulk and is under way. Then hot leads come at random, 5 a second on
average: the time from the publication of each to `accepted`, and the part of Clay's calls that the
backfill had meanwhile.

The rows: `hot lane` has the hot leads on `leads`; `one queue` has them on leads.bulk, behind the
backfill, as with one topic for all. That one is watched for a minute; what has not come by then is
computed: the leads that were before it when it was published, at the pace that was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
from collections.abc import Callable, Mapping

import msgspec
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Shares
from tests.e2e.fleet import Fleet, now_ms

PER_S = 8
HOT_PER_S = 5.0
MAX_P99_S = 1.5
UNDER_WAY = 20
_HOT_NUMBERS = 10_000_000  # far from the backfill's
_WATCH_S = 60.0
_START_S = 120.0


class Row(msgspec.Struct):
    """One case: seconds from publication to `accepted`; `computed`: how many of the hot leads had
    not come yet.
    """

    hot: int
    computed: int
    p50_s: float
    p99_s: float
    max_s: float
    bulk_share: float
    accepted_per_s: float


def to_bulk(line: Fleet, record: Record) -> Record:
    """The same lead, for the backfill's topic."""
    return msgspec.structs.replace(record, topic=line.settings.names.bulk)


async def publish_hot(line: Fleet, hot: int, on_bulk: bool) -> dict[str, int]:
    """Hot leads at random moments, the same in each case; lead -> when it was published (ms)."""
    rng = random.Random(1)
    published: dict[str, int] = {}
    sent: list[asyncio.Future[object]] = []
    producer = AIOKafkaProducer(bootstrap_servers=line.bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        for number in range(_HOT_NUMBERS, _HOT_NUMBERS + hot):
            record = line.lead(number, line.names[0])
            record = to_bulk(line, record) if on_bulk else record
            published[f"lead-{number}"] = now_ms()
            sent.append(
                await producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                ),
            )
            await asyncio.sleep(rng.expovariate(HOT_PER_S))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return published


async def case(line: Fleet, bulk: int, hot: int, on_bulk: bool) -> Row:
    """The backfill under way, the hot leads, and what became of them."""
    await line.publish(to_bulk(line, line.lead(number, line.names[0])) for number in range(bulk))
    line.join()
    await line.until(
        lambda: line.last()["accepted"] >= UNDER_WAY,
        _START_S,
        "the backfill is under way",
    )
    began_ms = now_ms()
    published = await publish_hot(line, hot, on_bulk)
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + _WATCH_S
    await line.until(
        lambda: loop.time() > ends_s or len(took_ms(line, published)) == hot,
        2 * _WATCH_S,
        "the watch is over",
    )
    took = took_ms(line, published)
    ended_ms = (
        max([published[lead] + ms for lead, ms in took.items()]) if len(took) == hot else now_ms()
    )
    if len(took) < hot and not on_bulk:
        raise SystemExit(f"{hot - len(took)} hot leads were not accepted within {_WATCH_S:g} s")
    if line.posted_again():
        raise SystemExit("a lead was POSTed twice: the figures are worth nothing")
    sent = [request for request in line.requests() if request.accepted]
    watched = [request for request in sent if began_ms <= request.at_ms <= ended_ms]
    per_s = len(watched) * 1000 / (ended_ms - began_ms)
    waits_s = [ms / 1000 for ms in took.values()]
    for number, (lead, at_ms) in enumerate(published.items()):
        if lead not in took:
            before = bulk + number - sum(request.at_ms <= at_ms for request in sent)
            waits_s.append(before / per_s)
    at = statistics.quantiles(waits_s, n=100, method="inclusive")
    backfill = sum(request.lead_id not in published for request in watched)
    return Row(hot, hot - len(took), at[49], at[98], max(waits_s), backfill / len(watched), per_s)


def took_ms(line: Fleet, published: Mapping[str, int]) -> dict[str, int]:
    """Lead -> ms from its publication to `accepted`, of those that are."""
    return {
        history[-1].lead_id: history[-1].at_ms - published[history[-1].lead_id]
        for history in list(line.histories.values())
        if history[-1].status == "accepted" and history[-1].lead_id in published
    }


async def measure(
    bootstrap: str,
    bulk: int,
    hot: int,
    progress: Callable[[str], None],
) -> dict[str, Row]:
    """Both cases, one after the other."""
    rows: dict[str, Row] = {}
    for name, on_bulk in (("hot lane", False), ("one queue", True)):
        progress(f"{name} ...")
        namespace = unused(name.replace(" ", "-"))
        async with Fleet(bootstrap, namespace, 1, partitions=1, rate_per_s=PER_S, burst=10) as line:
            rows[name] = await case(line, bulk, hot, on_bulk)
    return rows


def missed(row: Row) -> list[str]:
    """The goals that were missed, in words."""
    failed = []
    if row.p99_s >= MAX_P99_S:
        failed.append(f"p99 of hot leads {row.p99_s:.2f} s, not below {MAX_P99_S:g} s")
    if row.bulk_share < Shares().bulk:
        failed.append(
            (
                f"the backfill had {row.bulk_share:.0%} of the calls, less than its "
                f"{Shares().bulk:.0%}"
            ),
        )
    return failed


def main() -> None:
    """Measure, print a table or JSON, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hot_lane",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m benchmarks.hot_lane --bulk 100000 --json",
    )
    parser.add_argument("--bulk", type=int, default=5_000, help="leads of the backfill")
    parser.add_argument("--hot", type=int, default=120, help="hot leads")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.hot < 10:
        parser.error("--hot must be at least 10: there is no p99 of fewer")
    needed = int(PER_S * (arguments.hot / HOT_PER_S) * 2) + UNDER_WAY
    if arguments.bulk < needed:
        parser.error(
            f"--bulk must be at least {needed} for {arguments.hot} hot leads, or it ends "
            "before they do",
        )
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        rows = asyncio.run(measure(kafka.bootstrap, arguments.bulk, arguments.hot, progress))
    failed = missed(rows["hot lane"])
    if arguments.json:
        report = {"bulk": arguments.bulk, "rows": rows, "missed": failed}
        sys.stdout.write(json.dumps(msgspec.to_builtins(report)) + "\n")
    else:
        _show(rows, arguments.bulk)
    if failed:
        raise SystemExit("; ".join(failed))


def _show(rows: Mapping[str, Row], bulk: int) -> None:
    table = Table(
        title=(
            f"Seconds from publication to accepted, {HOT_PER_S:g} hot leads/s at {PER_S}/s, "
            f"{bulk} in bulk"
        ),
    )
    for column in (
        "case",
        "hot leads",
        "of them computed",
        "p50",
        "p99",
        "max",
        "bulk's share",
        "accepted/s",
    ):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, row in rows.items():
        seconds = (f"{value:.2f}" for value in (row.p50_s, row.p99_s, row.max_s))
        table.add_row(
            name,
            str(row.hot),
            str(row.computed),
            *seconds,
            f"{row.bulk_share:.0%}",
            f"{row.accepted_per_s:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
