"""Benchmarks with goals: each goal can be missed, and the benchmark then says so."""

from typing import Any

import msgspec
import pytest

from benchmarks import copies, dead_letters, failover, goodput, line, pairs, safety, waiting
from benchmarks.dead_letters import Counted
from benchmarks.goodput import Outage, Steady
from benchmarks.peers import __main__ as peers
from benchmarks.peers import cases, systems
from benchmarks.peers.cases import Kills
from benchmarks.waiting import Figures

MB = 2**20


def counted(**changes: Any) -> list[str]:
    reached = Counted(1_000_000, 29.0, 28.0, 100 * MB, 110 * MB)
    return dead_letters.missed(msgspec.structs.replace(reached, **changes))


def waited(**changes: Any) -> list[str]:
    reached = Figures(60.0, [3, 120, 1_900], 147 * MB, 150 * MB, 150 * MB, 1.0, 0)
    return waiting.missed(msgspec.structs.replace(reached, **changes))


def lead(cpu_us: float = 269.0, bare_us: float = 100.0, fresh_mb: float = 110.0) -> str:
    worker = {
        "cpu_us_per_lead": cpu_us,
        "rss_mb_at_100_percent": 110.0,
        "rss_mb_of_a_fresh_one": fresh_mb,
    }
    return line.missed({"bare": {"cpu_us_per_lead": bare_us}, "worker": worker})


def outage(limited_share: float = 0.002, of_limit: float = 0.99, **changes: Any) -> list[str]:
    reached = msgspec.structs.replace(Outage(20, 2.0, 0.97, 0), **changes)
    steady = Steady(1_000, 2, limited_share, of_limit)
    return goodput.missed({goodput.CHECKED_OUTAGE: reached}, dict.fromkeys(goodput.RATES, steady))


def paces(copies_per_s: float, persons_per_s: float) -> str:
    paces_of = {"copies": copies_per_s, "persons": persons_per_s}
    return copies.missed(
        {name: copies.Row(3_000, 1, 3_000 / pace, pace) for name, pace in paces_of.items()},
    )


def ours(lost: int = 0, twice: int = 0, letters: int = 0) -> list[str]:
    kills = {systems.OURS: Kills(2_000, lost, twice, 0), "raw": Kills(2_000, 9, 9, 0)}
    return peers.missed(
        {"kills": {**kills}, "outage": {systems.OURS: cases.Outage(0.9, 12, letters, 0.1)}},
    )


@pytest.mark.parametrize(
    ("missed", "words"),
    [
        (counted(), []),
        (counted(took_s=30.1), ["took 30.1 s"]),
        (counted(dead_letters=100_000, took_s=5.9), []),
        (counted(dead_letters=100_000, took_s=6.1), ["took 6.1 s"]),
        (counted(peak_bytes=151 * MB), ["grew by 51 MB"]),
        (counted(early_bytes=251 * MB, peak_bytes=251 * MB), ["came to 251 MB"]),
        (waited(), []),
        (waited(late_ms=[-5, 100]), ["5 ms before it was due"]),
        (waited(late_ms=[5, 2_001]), ["2001 ms late"]),
        (waited(rss_after_bytes=168 * MB), ["grew by 21 MB"]),
        (waited(rss_peak_bytes=301 * MB), ["came to 301 MB"]),
        (waited(exit_code=-9), ["SIGTERM took 1.0 s"]),
        (waited(term_s=16.0), ["SIGTERM took 16.0 s"]),
        (lead(), []),
        (lead(cpu_us=271.0), ["costs the worker 2.71 times the bare loop"]),
        (lead(cpu_us=271.0, bare_us=101.0), []),
        (lead(fresh_mb=94.0), ["16 MB more than a fresh one"]),
        (pairs.missed([(130.0, 100.0), (109.0, 100.0), (218.0, 200.0)], 1.1), []),
        (pairs.missed([(111.0, 100.0), (100.0, 100.0), (222.0, 200.0)], 1.1), ["costs 1.11 times"]),
        (outage(), []),
        (outage(failed_calls=21), ["21 calls failed"]),
        (outage(recovery_s=2.1), ["back after 2.10 s"]),
        (outage(goodput=0.969), ["goodput 96.9%"]),
        (outage(dead_letters=1), ["1 dead letters"]),
        (
            outage(limited_share=0.003),
            [f"0.30% of the calls at quota ({name})" for name in ("alone", "shared")],
        ),
        (outage(of_limit=0.98), [f"98.0% of the quota ({name})" for name in ("alone", "shared")]),
        (safety.missed({"safe": 159.0, "unsafe": 100.0}), []),
        (safety.missed({"safe": 161.0, "unsafe": 100.0}), ["61% more"]),
        (failover.missed([[6.0] * 39, [9.9]]), []),
        (failover.missed([[6.0] * 39, [10.1]]), ["for 10.1 s"]),
        (failover.missed([[6.0] * 18, [7.1] * 2]), ["p95 is 7.10 s"]),
        (paces(501.0, 900.0), []),
        (paces(499.0, 900.0), ["499/s, not 500"]),
        (paces(301.0, 300.0), []),
        (paces(299.0, 300.0), ["299/s, not 300"]),
        (ours(), []),
        (ours(lost=1), ["1 leads lost and 0 sent twice"]),
        (ours(twice=2, letters=3), ["0 leads lost and 2 sent twice", "3 dead letters"]),
    ],
)
def test_a_goal_that_is_missed_is_named(missed: list[str] | str, words: list[str]) -> None:
    texts = missed if isinstance(missed, list) else [missed] if missed else []
    assert len(texts) == len(words), texts
    assert all(word in text for word, text in zip(words, texts, strict=True))
