"""What the books of many leads cost: time a lead, and memory at the peak.

`python -m benchmarks.books [--leads 1000000] [--json]`. The stream is made up in memory, as it
stands on Kafka before any compaction: for each lead its record, two rows, an alias and three
events, and its lane's row now and then. Time is of the books alone (reading Kafka comes on top),
memory is the resident size of the whole process. Exits with 1 when a million leads would take more
than 1 GB, or the books do not balance.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

import msgspec
import psutil
from rich.console import Console

from stream_app.client.books.compare import Books
from stream_app.domain.books.money import BooksReport
from stream_app.domain.delivery.state_machine import Delivery, delivery_key, lane_key
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.identity import person_key
from stream_app.domain.limits.budget import Budget, Period, Reservation
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Destination, Plan, Workspace

PARTITIONS = 8
NOW_MS = 1_796_000_000_000
DAY = "2026-11-30"
MONTH = "2026-11"
CREDITS = 6
ACTIONS = 1
_MAX_LEADS = 5_000_000
MAX_BYTES_PER_LEAD = 2**30 / 1_000_000
_STEPS: tuple[Status, ...] = ("received", "sending", "accepted")

_encode = msgspec.json.Encoder().encode


def stream(partition: int, leads: int) -> Iterator[tuple[bytes, bytes]]:
    """The rows of a partition: keys and values, as they were written."""
    name = f"w{partition}"
    held = Reservation(DAY, MONTH, 20, 5)
    for number in range(leads):
        origin = f"leads/{partition}/{number}"
        lead_id = f"lead-{partition}-{number:08}-0123456789abcdef"
        key = delivery_key(name, "people", lead_id)
        row = Delivery(
            1,
            "sending",
            origin,
            2,
            NOW_MS,
            NOW_MS,
            "0" * 32,
            reservation=held,
            webhook_id="0123456789ab",
        )
        yield key, _encode(row)
        yield person_key(name, "people", lead_id), key
        yield (
            key,
            _encode(
                msgspec.structs.replace(row, state="accepted", seq=3, reservation=None, final=True),
            ),
        )
        if number % 10 == 9 or number == leads - 1:
            spent = Period(DAY, (number + 1) * CREDITS, 0, (number + 1) * ACTIONS, 0)
            budget = Budget((spent,), (msgspec.structs.replace(spent, id=MONTH),))
            yield lane_key(name), _encode(Lane(name, partition, budget=budget))


def events(partition: int, leads: int) -> Iterator[bytes]:
    """The events of a partition."""
    for number in range(leads):
        origin = f"leads/{partition}/{number}"
        lead_id = f"lead-{partition}-{number:08}-0123456789abcdef"
        for seq, status in enumerate(_STEPS, 1):
            event = StatusEvent(
                f"{origin}#{seq}",
                lead_id,
                status,
                seq,
                NOW_MS,
                origin,
                f"w{partition}",
                f"people-{partition}",
            )
            if status == "accepted":
                event = msgspec.structs.replace(
                    event,
                    credits=CREDITS,
                    actions=ACTIONS,
                    day=DAY,
                    month=MONTH,
                )
            yield _encode(event)


def measure(leads: int) -> tuple[BooksReport, float, int]:
    """The closed books, the seconds that they took without the making of the stream, and the
    resident bytes at most.
    """
    rss = psutil.Process().memory_info
    most_bytes = 0
    plan = Plan(TopicNames(), PARTITIONS, {}, {})
    for number in range(PARTITIONS):
        plan.workspaces[f"w{number}"] = Workspace(f"w{number}")
        plan.destinations[f"people-{number}"] = Destination(
            f"people-{number}",
            f"w{number}",
            callbacks=False,
        )
    books = Books(plan)
    per_partition = leads // PARTITIONS
    clock = time.perf_counter
    seconds = 0.0
    for partition in range(PARTITIONS):
        books.partition(partition, exact=True, kept=True)
        for key, value in stream(partition, per_partition):
            began = clock()
            books.row(partition, key, value)
            seconds += clock() - began
        for raw in events(partition, per_partition):
            began = clock()
            books.event(partition, raw, "")
            seconds += clock() - began
        for number in range(per_partition):
            consumed = ConsumedRecord("leads", partition, number, None, b"{}")
            began = clock()
            books.record(consumed, passed=True)
            seconds += clock() - began
        books.begins("leads", partition, 0)
        most_bytes = max(most_bytes, rss().rss)
    began = clock()
    report = books.close(NOW_MS)
    return report, seconds + clock() - began, max(most_bytes, rss().rss)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not PARTITIONS <= args.leads <= _MAX_LEADS:
        parser.error(f"--leads: from {PARTITIONS} to {_MAX_LEADS}")
    before = psutil.Process().memory_info().rss
    report, seconds, most_bytes = measure(args.leads)
    figures = {
        "leads": report.records,
        "balanced": report.balanced,
        "us_per_lead": round(seconds * 1e6 / report.records, 2),
        "rss_at_start_mb": round(before / 2**20, 1),
        "rss_at_peak_mb": round(most_bytes / 2**20, 1),
        "bytes_per_lead": round((most_bytes - before) / report.records),
    }
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, figure in figures.items():
            Console().print(f"{name:16} {figure}")
        for problem in report.problems:
            Console(stderr=True).print(f"{problem.where}: {problem.what}")
    if figures["bytes_per_lead"] > MAX_BYTES_PER_LEAD:
        Console(stderr=True).print(
            f"{figures['bytes_per_lead']} bytes a lead, more than {MAX_BYTES_PER_LEAD:.0f}",
        )
        return 1
    return 0 if report.balanced else 1


if __name__ == "__main__":
    sys.exit(main())
