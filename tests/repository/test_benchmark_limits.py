"""Benchmarks with goals: each goal can be missed, and the benchmark then says so."""

import re

import msgspec
import pytest

from benchmarks import copies, dead_letters, failover, goodput, line, rolling_restart, safety, waiting
from benchmarks.dead_letters import Counted
from benchmarks.goodput import Outage, Steady
from benchmarks.peers import __main__ as peers
from benchmarks.peers import cases, systems
from benchmarks.peers.cases import Kills
from benchmarks.waiting import Figures
from tests.e2e.fleet import Request

MB = 2**20
COUNTED = Counted(1_000_000, 29.0, 28.0, 100 * MB, 110 * MB)
OUTAGE = Outage(20, 2.0, 0.97, 0)
STEADY = Steady(1_000, 2, 0.002, 0.99)
WAITED = Figures(60.0, [3, 120, 1_900], 147 * MB, 150 * MB, 150 * MB, 1.0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"took_s": 30.1}, ["took 30.1 s"]),
        ({"dead_letters": 100_000, "took_s": 5.9}, []),
        ({"dead_letters": 100_000, "took_s": 6.1}, ["took 6.1 s"]),
        ({"peak_bytes": 151 * MB}, ["grew by 51 MB"]),
        ({"early_bytes": 251 * MB, "peak_bytes": 251 * MB}, ["came to 251 MB"]),
    ],
)
def test_counting_dead_letters(changes: dict[str, int], words: list[str]) -> None:
    found = dead_letters.missed(msgspec.structs.replace(COUNTED, **changes))
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"late_ms": [-5, 100]}, ["5 ms before it was due"]),
        ({"late_ms": [5, 2_001]}, ["2001 ms late"]),
        ({"rss_after_bytes": 168 * MB}, ["grew by 21 MB"]),
        ({"rss_peak_bytes": 301 * MB}, ["came to 301 MB"]),
        ({"exit_code": -9}, ["SIGTERM took 1.0 s"]),
        ({"term_s": 16.0}, ["SIGTERM took 16.0 s"]),
    ],
)
def test_waiting_dead_letters(changes: dict[str, object], words: list[str]) -> None:
    found = waiting.missed(msgspec.structs.replace(WAITED, **changes))
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("cpu_us", "bare_us", "fresh_mb", "words"),
    [
        (349.0, 88.0, 110.0, ""),
        (351.0, 88.0, 110.0, "costs the worker 351 us, the goal is 350 here"),
        (351.0, 60.0, 110.0, "the goal is 350 here"),
        (469.0, 118.0, 110.0, ""),
        (349.0, 88.0, 94.0, "16 MB more than a fresh one"),
    ],
)
def test_limits_of_the_cpu_and_memory_of_a_lead(cpu_us: float, bare_us: float, fresh_mb: float, words: str) -> None:
    worker = {"cpu_us_per_lead": cpu_us, "rss_mb_at_100_percent": 110.0, "rss_mb_of_a_fresh_one": fresh_mb}
    found = line.missed({"bare": {"cpu_us_per_lead": bare_us}, "worker": worker})
    assert words in found
    assert bool(found) is bool(words)


@pytest.mark.parametrize(
    ("outage", "steady", "words"),
    [
        ({}, {}, []),
        ({"failed_calls": 21}, {}, ["21 calls failed"]),
        ({"recovery_s": 2.1}, {}, ["back after 2.10 s"]),
        ({"goodput": 0.969}, {}, ["goodput 96.9%"]),
        ({"dead_letters": 1}, {}, ["1 dead letters"]),
        ({}, {"limited_share": 0.003}, ["0.30% of the calls at quota (alone)", "0.30% of the calls at quota (shared)"]),
        ({}, {"of_limit": 0.98}, ["98.0% of the quota (alone)", "98.0% of the quota (shared)"]),
    ],
)
def test_limits_of_an_outage(outage: dict[str, object], steady: dict[str, object], words: list[str]) -> None:
    seen = msgspec.structs.replace(OUTAGE, **outage), msgspec.structs.replace(STEADY, **steady)
    found = goodput.missed({goodput.CHECKED_OUTAGE: seen[0]}, dict.fromkeys(goodput.RATES, seen[1]))
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_limit_of_the_cost_of_safety() -> None:
    assert not safety.missed({"safe": 159.0, "unsafe": 100.0})
    assert "61% more" in safety.missed({"safe": 161.0, "unsafe": 100.0})


def test_the_longest_stop_of_a_lane() -> None:
    assert not failover.missed([[6.0] * 39, [9.9]])
    assert "for 10.1 s" in failover.missed([[6.0] * 39, [10.1]])
    assert "p95 is 7.10 s" in failover.missed([[6.0] * 18, [7.1] * 2])


@pytest.mark.parametrize(
    ("copies_per_s", "persons_per_s", "words"),
    [(501.0, 900.0, ""), (499.0, 900.0, "499/s, not 500"), (301.0, 300.0, ""), (299.0, 300.0, "299/s, not 300")],
)
def test_how_fast_copies_are_decided(copies_per_s: float, persons_per_s: float, words: str) -> None:
    paces = {"copies": copies_per_s, "persons": persons_per_s}
    found = copies.missed({name: copies.Row(3_000, 1, 3_000 / pace, pace) for name, pace in paces.items()})
    assert words in found
    assert bool(words) == bool(found)


def test_the_systems_beside_ours_have_their_programs() -> None:
    for system in systems.SYSTEMS:
        for file in (system.program, *system.shares) if system.program else ():
            text = (systems.PROGRAMS / file).read_text()
            if file.endswith(".py"):
                compile(text, file, "exec")
        assert bool(system.program) == bool(system.needs) == bool(system.lines)
        assert all(re.search(r"==\d|:\d", need) for need in system.needs), f"{system.name}: a version is not pinned"


@pytest.mark.parametrize(
    ("kills", "outage", "words"),
    [
        (Kills(2_000, 0, 0, 300), cases.Outage(0.9, 12, 0, 0.1), []),
        (Kills(2_000, 1, 0, 0), cases.Outage(0.9, 12, 0, 0.1), ["1 leads lost and 0 sent twice"]),
        (Kills(2_000, 0, 2, 0), cases.Outage(0.9, 12, 3, 0.1), ["0 leads lost and 2 sent twice", "3 dead letters"]),
    ],
)
def test_ours_beside_other_systems(kills: Kills, outage: cases.Outage, words: list[str]) -> None:
    others = {"raw": Kills(2_000, 9, 9, 0)}
    found = peers.missed({"kills": {systems.OURS: kills, **others}, "outage": {systems.OURS: outage}})
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_a_row_has_a_cell_for_each_heading() -> None:
    cpu = {systems.BARE: cases.Cpu(88.0, 9_000.0, 44.0), systems.OURS: cases.Cpu(352.0, 2_000.0, 110.0)}
    rows = peers.rows({"cpu": dict(cpu), "kills": {systems.OURS: Kills(2_000, 0, 0, 3)}})
    assert rows == {
        systems.BARE: ["88", "1.0", "9,000", "44", "", "", ""],
        systems.OURS: ["352", "4.0", "2,000", "110", "0", "0", "3"],
    }


def test_the_longest_stand_of_a_lane_in_a_rolling_restart() -> None:
    requests = [Request(number, at_ms, 200, 1, workspace="w0") for number, at_ms in enumerate((10, 100, 2_101, 2_150))]
    assert rolling_restart.longest(requests, ["w0"], 50) == {"w0": 2.001}
    restarts = rolling_restart.Restarts({"w0": 2.001, "w1": 0.1}, [], [])
    assert "2.0 s" in rolling_restart.missed(restarts)
    restarts.lanes["w0"] = 2.0
    assert rolling_restart.missed(restarts) == ""
