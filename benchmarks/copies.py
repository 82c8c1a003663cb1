"""How fast copies of one person's lead are decided, on real Kafka with worker and simulator, beside
different persons.

`python -m benchmarks.copies [--leads 3000] [--json]`. `copies` are leads of one person, each with
an id of its own: the first is sent, the others end as its duplicates. `persons` are as many
different persons, on a lane that takes 1,000 a second. All are on Kafka before the worker starts;
the pace is from the first event to the last. It exits with 1 when copies are decided at less than
500 a second, and slower than different persons in the same run: a busy machine is no reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.model.records import Record
from tests.e2e.fleet import Fleet

MIN_PER_S = 500.0
_LANE_PER_S = 1_000
_WITHIN_S = 120.0


class Row(msgspec.Struct):
    """One case."""

    leads: int
    sent: int
    seconds: float
    per_s: float


def lead(line: Fleet, number: int, *, copy: bool) -> Record:
    """A lead of one person, or of a person of its own."""
    person = 0 if copy else number
    return line.lead(
        number,
        line.names[0],
        fields={"email": f"person{person}@example.com", "first_name": "Ada"},
    )


async def case(line: Fleet, leads: int, *, copy: bool) -> Row:
    """Publish, start a worker, and watch until the last lead has an end."""
    await line.publish(lead(line, number, copy=copy) for number in range(leads))
    line.join()
    await line.until_over(leads, _WITHIN_S)
    times_ms = [event.at_ms for history in line.histories.values() for event in history]
    seconds = (max(times_ms) - min(times_ms)) / 1000
    if line.posted_again():
        raise SystemExit("a lead was POSTed twice: the figures are worth nothing")
    return Row(leads, len(line.requests()), seconds, leads / seconds)


async def measure(bootstrap: str, leads: int, progress: Callable[[str], None]) -> dict[str, Row]:
    """Both cases, one after the other."""
    rows: dict[str, Row] = {}
    for name, copy in (("copies", True), ("persons", False)):
        progress(f"{name} ...")
        pace = {"rate_per_s": _LANE_PER_S, "burst": _LANE_PER_S}
        async with Fleet(bootstrap, unused(name), 1, partitions=1, **pace) as line:
            rows[name] = await case(line, leads, copy=copy)
    return rows


def missed(rows: dict[str, Row]) -> str:
    """The goal that was missed, in words; '' if none."""
    per_s = rows["copies"].per_s
    least_per_s = min(MIN_PER_S, rows["persons"].per_s)
    return (
        f"copies are decided at {per_s:.0f}/s, not {least_per_s:.0f}" if per_s < least_per_s else ""
    )


def main() -> None:
    """Measure, print a table or JSON, and exit with 1 when the goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.copies",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--leads", type=int, default=3_000, help="leads of each case")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        rows = asyncio.run(measure(kafka.bootstrap, arguments.leads, progress))
    failed = missed(rows)
    if arguments.json:
        sys.stdout.write(json.dumps(msgspec.to_builtins({"rows": rows, "missed": failed})) + "\n")
    else:
        table = Table(title="Leads of one person, and of different persons, in one partition")
        for column in ("case", "leads", "sent", "seconds", "leads/s"):
            table.add_column(column, justify="left" if column == "case" else "right")
        for name, row in rows.items():
            table.add_row(
                name,
                str(row.leads),
                str(row.sent),
                f"{row.seconds:.1f}",
                f"{row.per_s:.0f}",
            )
        Console().print(table)
    if failed:
        raise SystemExit(failed)


if __name__ == "__main__":
    main()
