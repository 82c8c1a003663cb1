"""The disk of Kafka that leads take, by topic, before Kafka compacts or deletes anything.

    python -m tests.e2e.disk                         1,000 leads, each with its callback, at 10 a
    second

Leads that come at a lane's pace: each transaction writes the row of its lane, so leads that share a
transaction, as in a backfill, take less. One copy is measured, so a topic takes as many times more
as it has replicas. Exit code 1 when the leads take more than 10 MiB for each 1,000, or a topic has
bytes that the table of docs/sizing.md does not name.
"""

import argparse
import asyncio
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import LocalKafka, unused
from stream_app.kafka.connection import kafka_producer
from tests.e2e.pipeline import ANSWERED, CALLBACK, Pipeline
from tests.support.pace import BUSY

PER_S: Final = 10.0
MAX_MIB_PER_THOUSAND: Final = 10.0
SIZING: Final = Path(__file__).parents[2] / "docs" / "sizing.md"
_PARTITION: Final = re.compile(r"(.+)-\d+")
_SCRIPT: Final = f"""
[plan]
credits = 10000000
actions = 10000000
[[table.columns]]
name = "title"
credits = 1
values = ["Head of Engineering"]
{CALLBACK}"""


def bytes_by_topic(data: Path, namespace: str) -> Counter[str]:
    """Return the bytes of the log segments of each topic of a namespace, and of Kafka's own, over
    all partitions.
    """
    sizes: Counter[str] = Counter()
    for segment in data.glob("*/*.log"):
        place = _PARTITION.fullmatch(segment.parent.name)
        if place is not None and place[1].startswith((namespace, "__")):
            sizes[place[1].removeprefix(namespace)] += segment.stat().st_size
    return sizes


def named_topics() -> set[str]:
    """Return the topics that docs/sizing.md says the disk of."""
    return set(re.findall(r"^\| `(\S+)` \|", SIZING.read_text(encoding="utf-8"), re.M))


def per_thousand(sizes: Counter[str], leads: int) -> dict[str, float]:
    """Return MiB for 1,000 leads by topic, largest first; those of which two digits show nothing
    are left out.
    """
    mib = {topic: size / leads * 1000 / 2**20 for topic, size in sizes.most_common()}
    return {topic: size for topic, size in mib.items() if size >= 0.005}


def missed(mib: dict[str, float]) -> list[str]:
    """Return what is not as it should be, in words."""
    total = sum(mib.values())
    unnamed = sorted(mib.keys() - named_topics())
    wrong = [f"{topic} has bytes, and docs/sizing.md does not name it" for topic in unnamed]
    if total > MAX_MIB_PER_THOUSAND:
        wrong.append(f"{total:.1f} MiB for 1,000 leads, more than {MAX_MIB_PER_THOUSAND:g}")
    return wrong


async def measure(kafka: LocalKafka, leads: int, per_s: float) -> dict[str, float]:
    """Let so many leads go the whole way, at this pace."""
    namespace = unused("disk")
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        partitions=1,
        callbacks=True,
        script=_SCRIPT,
        rate_per_s=int(per_s),
        destination="estimate_credits = 1",
    ) as line:
        processes = [line.start(command) for command in ("gateway", "worker", "replay")]
        await line.ready(*processes)
        before = bytes_by_topic(Path(kafka.properties["log.dirs"]), namespace)
        producer = kafka_producer(bootstrap_servers=kafka.bootstrap, enable_idempotence=True)
        await producer.start()
        try:
            began_s = time.monotonic()
            for number, record in enumerate(line.leads(leads)):
                await asyncio.sleep(max(0.0, began_s + number / per_s - time.monotonic()))
                await producer.send_and_wait(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                )
        finally:
            await producer.stop()
        await line.until(
            lambda: line.last().total() == leads and not line.last().keys() - ANSWERED,
            60 * BUSY,
            "all",
        )
        await asyncio.sleep(2.0)  # the last views of the lane, and the commits of offsets
        after = bytes_by_topic(Path(kafka.properties["log.dirs"]), namespace)
        return per_thousand(after - before, leads)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.disk",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--leads", type=int, default=1_000)
    parser.add_argument("--per-s", type=float, default=PER_S)
    arguments = parser.parse_args()
    with LocalKafka(progress=Console(stderr=True).print) as kafka:
        mib = asyncio.run(measure(kafka, arguments.leads, arguments.per_s))
    table = Table(title=f"MiB for 1,000 leads at {arguments.per_s:g} a second, one copy")
    table.add_column("topic")
    table.add_column("MiB", justify="right")
    for topic, size in mib.items():
        table.add_row(topic, f"{size:.2f}")
    table.add_row("all", f"{sum(mib.values()):.2f}")
    Console().print(table)
    wrong = missed(mib)
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
