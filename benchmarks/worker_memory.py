"""The memory of a whole worker: what it needs once, and for each lead that it has a row of.

`python -m benchmarks.worker_memory [--leads 1000000] [--json]`. Real Kafka. A `stream-app worker`
starts on a state topic that is filled with the rows of leads, and is measured when it has nothing
more to do: with a fifth of the leads and with all of them, each with an e-mail address only, and
with a LinkedIn URL beside it. The slope between the two sizes is what a lead needs, and what is
left of the smaller one is what a worker needs once. A process of its own then fills the cache of
results, which is in memory where there is no Redis, beyond its bounds.

Memory is the most resident memory that a process ever had: a container is killed at the peak, and
the take-over may be one. Exits with 1 when a lead needs more than 0.9 KB, with a LinkedIn URL more
than 1.3 KB, a worker once more
than 150 MB, or its cache more than 100 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.lead_rows import fill, lead_of
from benchmarks.whole_worker import TakeOver, configuration, environment, measure, settled
from stream_app.cache.filler import MAX_ENTRIES, MemoryCache
from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.cached_results import entry_of, slots_of
from stream_app.domain.lead.identity import company, identify
from stream_app.domain.model.messages import Result
from stream_app.kafka.topics import create_topics

LIMITS = {"once_mb": 150.0, "email_kb": 0.9, "linkedin_kb": 1.3, "cache_mb": 100.0}
_WORKSPACE = "w00000"
_DESTINATION = "d00000"
_SMALL = 5
_NOTE = (
    "The quick brown fox jumps over the lazy dog, and does so for as long as a cell of a "
    "Clay table lasts. "
) * 4


class Figures(msgspec.Struct, frozen=True):
    """What a worker needs once, for each lead, and for its cache."""

    once_mb: float
    email_kb: float
    linkedin_kb: float
    cache_mb: float


def figures(peaks_mb: dict[tuple[str, int], float], leads: int, cache_mb: float) -> Figures:
    """Return the lines through the peaks of two sizes: their slopes, and the higher of what they
    begin with.
    """
    small = leads // _SMALL
    slopes = {
        kind: (peaks_mb[kind, leads] - peaks_mb[kind, small]) / (leads - small)
        for kind in ("email", "linkedin")
    }
    once_mb = max(peaks_mb[kind, small] - small * slope for kind, slope in slopes.items())
    per_lead_kb = {kind: slope * 1024 for kind, slope in slopes.items()}
    return Figures(once_mb, per_lead_kb["email"], per_lead_kb["linkedin"], cache_mb)


def missed(seen: Figures) -> list[str]:
    """Return the goals that were missed, in words."""
    values = msgspec.structs.asdict(seen)
    return [
        f"{name}: {values[name]:.2f}, not below {most:g}"
        for name, most in LIMITS.items()
        if values[name] >= most
    ]


def _worker_with(bootstrap: str, leads: int, *, linkedin: bool = False) -> TakeOver:
    """Let a worker take over the rows of so many leads."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "stream_app.toml"
        path.write_text(configuration(1, 1, bootstrap, unused("memory")))
        settings = load_settings(path, environment(1))
        asyncio.run(_prepare(settings, leads, linkedin=linkedin))
        return measure(path, environment(1))


async def _prepare(settings: Settings, leads: int, *, linkedin: bool) -> None:
    report = await create_topics(
        connection_of(settings),
        settings.topic_plan(),
        60.0,
        lambda _: None,
    )
    if report.problems:
        raise SystemExit("; ".join(report.problems))
    await settled(settings)
    if leads:
        await fill(
            settings.kafka.bootstrap,
            settings.names.state,
            leads,
            _WORKSPACE,
            _DESTINATION,
            linkedin=linkedin,
        )


async def _cache_mb() -> float:
    """Return by how much this process grows with results beyond the bounds of the cache."""
    memory = psutil.Process().memory_info
    before = memory().rss
    cache = MemoryCache()
    for number in range(2 * MAX_ENTRIES):
        result = _result(number)
        entry = entry_of(result)
        people, firm = slots_of(result)
        await cache.add([(slot, entry) for slot in [*people, *filter(None, [firm])]])
    return (memory().rss - before) / 2**20


def _result(number: int) -> Result:
    """Return a result of a dozen cells."""
    lead = lead_of(number, linkedin=True)
    who = identify(lead)
    assert who is not None, "it has an e-mail address"
    cells = {f"cell_{place}": f"{number} {_NOTE[place * 7 : place * 7 + 40]}" for place in range(8)}
    return Result(
        lead_id=who.lead_id,
        workspace=_WORKSPACE,
        destination=_DESTINATION,
        source="clay",
        version=1,
        at_ms=1_796_083_140_000 + number,
        age_s=0,
        fields={**lead.fields, **cells},
        person=who.person or "",
        company=company(lead.fields),
        people=who.people,
    )


def main() -> None:
    """Measure each size in a fresh worker, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.worker_memory",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cache_only:
        sys.stdout.write(f"{asyncio.run(_cache_mb())}\n")
        return
    leads = arguments.leads
    console = Console(stderr=True)
    peaks_mb: dict[tuple[str, int], float] = {}
    table = Table(title="A whole worker")
    for column in ("leads", "identifiers", "at rest MB", "peak MB"):
        table.add_column(column, justify="right", no_wrap=True)

    def show(kind: str, count: int, worker: TakeOver) -> float:
        table.add_row(f"{count:,}", kind, f"{worker.rss_mb:.0f}", f"{worker.peak_mb:.0f}")
        return worker.peak_mb

    with kafka_for(console.print) as kafka:
        show("", 0, _worker_with(kafka.bootstrap, 0))
        for kind in ("email", "linkedin"):
            for count in (leads // _SMALL, leads):
                console.print(f"{count:,} leads, {kind} ...")
                worker = _worker_with(kafka.bootstrap, count, linkedin=kind == "linkedin")
                peaks_mb[kind, count] = show(kind, count, worker)
    command = [sys.executable, "-m", "benchmarks.worker_memory", "--cache-only"]
    cache_mb = float(
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout,
    )
    seen = figures(peaks_mb, leads, cache_mb)
    failed = missed(seen)
    if arguments.json:
        Console().print_json(data=msgspec.structs.asdict(seen) | {"missed": failed})
    else:
        Console().print(table)
        Console().print(
            f"once {seen.once_mb:.0f} MB; a lead {seen.email_kb:.2f} KB, "
            f"with a LinkedIn URL {seen.linkedin_kb:.2f} KB; the cache {seen.cache_mb:.0f} MB",
        )
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
