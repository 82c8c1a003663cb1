"""What `stream-app publish` costs for a large file: rows a second, and memory at the peak.

`python -m benchmarks.publish [--rows 1000000] [--json]`. Publishes a CSV of so many rows in eight
workspaces, in a process of its own. Exits with 1 when one is missing, or when it took more memory
than a publisher may.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.results import run, settings_for, write_leads
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import kafka_for, unused
from stream_app.kafka.topics import create_topics

MAX_RSS_MB = 100


def measure(bootstrap: str, rows: int) -> dict[str, float]:
    """One publication."""
    with tempfile.TemporaryDirectory(prefix="publish-") as name:
        config, settings = settings_for(Path(name), bootstrap, unused("publish"))
        asyncio.run(
            create_topics(connection_of(settings), settings.topic_plan(), 60, lambda _: None),
        )
        file = Path(name) / "leads.csv"
        write_leads(file, rows)
        done, seconds, used = run("publish", str(file), "--config", str(config), "--yes")
    return {
        "rows": done["rows"],
        "published": done["published"],
        "seconds": round(seconds, 1),
        "rows_per_s": round(done["rows"] / seconds),
        "us_per_row": round((used.ru_utime + used.ru_stime) * 1e6 / done["rows"], 1),
        "rss_at_peak_mb": round(used.ru_maxrss / 1024),
    }


def main() -> int:
    """Measure, and print lines or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.publish",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    say = Console(stderr=True).print
    with kafka_for(say) as kafka:
        figures = measure(kafka.bootstrap, args.rows)
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, figure in figures.items():
            Console().print(f"{name:16} {figure}")
    missed = []
    if figures["published"] != args.rows:
        missed.append(f"{figures['published']} of {args.rows} rows were published")
    if figures["rss_at_peak_mb"] > MAX_RSS_MB:
        missed.append(f"{figures['rss_at_peak_mb']} MB at the peak, more than {MAX_RSS_MB}")
    for line in missed:
        say(line)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
