"""The samples of our processes as docs/metrics.md lists them.

A test compares that page with the program.
"""

import re
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector

_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@cache
def known_samples() -> dict[str, set[str]]:
    """Return the labels of every sample of a worker, a replay process and a gateway, by name."""
    samples: dict[str, set[str]] = {}
    for name, labels, text in re.findall(
        r"^\| `(\w+)` \|(.*?)\|(.*)\|$",
        _PAGE.read_text(encoding="utf-8"),
        re.M,
    ):
        parts = ("_bucket", "_sum", "_count") if text.strip().startswith("histogram") else ("",)
        samples |= {f"{name}{part}": set(re.findall(r"`(\w+)`", labels)) for part in parts}
    of_process = CollectorRegistry()
    ProcessCollector(registry=of_process)
    return samples | {
        sample.name: set() for family in of_process.collect() for sample in family.samples
    }
