"""What documents, chart and docker-compose.yml say of a worker's memory and of Kafka's disk follows
from one table.
"""

import re
import sys
from typing import Final

import pytest
import yaml

from benchmarks.lead_rows import rows_of_lead
from benchmarks.worker_memory import LIMITS
from stream_app.domain.model.topics import TopicNames
from stream_app.services.replay import _BUFFERED, _BUFFERED_BYTES
from tests.e2e.disk import MAX_MIB_PER_THOUSAND
from tests.repository.deployed import OURS, ROOT, in_bytes
from tests.support.narrow import present

SIZING: Final = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
FIGURES: Final = (ROOT / "docs" / "figures.md").read_text(
    encoding="utf-8",
)
CHART: Final = (ROOT / "deploy" / "chart" / "values.yaml").read_text(
    encoding="utf-8",
)
MIB: Final = 2**20


def of_table(what: str, unit: str) -> float:
    """Return a number of the table of docs/sizing.md."""
    row = re.search(rf"^\| {re.escape(what)} \| (?:at most )?([\d.,]+) {unit} \|", SIZING, re.M)
    return float(present(row)[1].replace(",", ""))


ONCE_MB: Final = of_table("a worker, once", "MB")
EMAIL_KB: Final = of_table("each lead that has an e-mail address", "KB")
LINKEDIN_KB: Final = of_table("each lead that has a LinkedIn URL, too", "KB")
CACHE_MB: Final = of_table("its cache of results, where there is no Redis", "MB")
BATCH_MB: Final = of_table("the worst batch of a producer, while it is read", "MB")


def leads_in(limit_bytes: int) -> int:
    """Return how many leads fit into a limit of memory, in whole 100,000."""
    left_kb = limit_bytes / 1024 - (ONCE_MB + CACHE_MB + BATCH_MB) * 1024
    return int(left_kb / LINKEDIN_KB // 100_000 * 100_000)


def test_the_limit_of_a_worker_in_the_chart_is_enough_for_the_leads_that_it_names() -> None:
    """Each lead with a LinkedIn URL, without Redis, and with the worst batch on top."""
    worker = yaml.safe_load(CHART)["worker"]
    limit_bytes = in_bytes(worker["resources"]["limits"]["memory"])
    leads = f"{leads_in(limit_bytes):,}"
    assert leads_in(limit_bytes) >= 500_000
    assert f"is enough for {leads} leads" in CHART
    says = (
        f"The chart's limit of {worker['resources']['limits']['memory']} is enough for {leads} "
        "leads"
    )
    assert says in " ".join(SIZING.split())
    assert in_bytes(OURS["worker"]["mem_limit"]) == limit_bytes
    assert in_bytes(worker["resources"]["requests"]["memory"]) / MIB > ONCE_MB + CACHE_MB, (
        "what it needs without a lead"
    )


def test_figures_and_sizing_say_the_same_slope() -> None:
    says = (
        f"{ONCE_MB:g} MB once, {EMAIL_KB:g} KB a lead, {LINKEDIN_KB:g} KB a lead that has a "
        "LinkedIn URL, too"
    )
    assert FIGURES.count(says) == 2, "what a user asks first, and the row of the benchmark"
    assert f"cache {CACHE_MB:g} MB" in FIGURES
    documented = {
        "once_mb": ONCE_MB,
        "email_kb": EMAIL_KB,
        "linkedin_kb": LINKEDIN_KB,
        "cache_mb": CACHE_MB,
    }
    for name, most in LIMITS.items():
        assert documented[name] <= most <= 1.5 * documented[name], (
            f"the goal {name} is near what was seen"
        )


@pytest.mark.parametrize(("linkedin", "documented_kb"), [(False, EMAIL_KB), (True, LINKEDIN_KB)])
def test_the_slope_is_that_of_the_rows(linkedin: bool, documented_kb: float) -> None:
    """Computed from one lead, without what the allocator adds: its bytes, and its places in the
    dict and the queue.
    """
    rows = rows_of_lead(17, "acme", "people", 1_796_083_140_000, linkedin=linkedin)
    assert len(rows) == (3 if linkedin else 2)
    # an entry, in a table that is between one third and two thirds full, and its index
    in_dict = 24 / 0.55 + 6
    size = sum(sys.getsizeof(key) + sys.getsizeof(value) + in_dict + 8 for key, value in rows)
    assert 0.8 <= documented_kb * 1024 / size <= 1.35


def test_the_memory_of_replay_is_bounded_by_what_it_buffers() -> None:
    kib = f"{_BUFFERED} records and {_BUFFERED_BYTES // 1024} KiB"
    assert f"at most {kib} of each topic and partition" in " ".join(SIZING.split())
    limit = yaml.safe_load(CHART)["replay"]["resources"]["limits"]["memory"]
    # dlq, deferred and five tiers of 32 partitions: what waits in memory, and a fetch of each
    most_mb = 100 + 7 * 32 * 2 * _BUFFERED_BYTES / MIB
    assert in_bytes(limit) / MIB > most_mb
    assert in_bytes(
        OURS["replay"]["mem_limit"],
    ) >= in_bytes(limit)


def test_the_disk_is_said_by_topic_and_adds_up() -> None:
    rows = re.findall(r"^\| `?(\w[^ `]*)`? \| ([\d.]+) MiB \| ([\d.]+) MiB \|", SIZING, re.M)
    *topics, (_, shared_mib, alone_mib) = rows
    names = TopicNames()
    ours = {names.leads, names.status, names.state, names.enriched, names.callbacks, names.lanes}
    assert {topic for topic, *_ in topics} == ours | {"__transaction_state", "__consumer_offsets"}
    for column, total in ((1, shared_mib), (2, alone_mib)):
        assert float(total) == pytest.approx(sum(float(row[column]) for row in topics), abs=0.01)
    assert f"{shared_mib} MiB for 1,000 leads at 10 a second, {alone_mib} MiB one by one" in FIGURES
    assert float(alone_mib) < MAX_MIB_PER_THOUSAND
