"""A million leads fit in a gigabyte: measured on a tenth of them, in a process of its own."""

import json
import subprocess
import sys

import pytest

from benchmarks import books

LEADS = 100_000


@pytest.mark.slow  # of fewer leads, the memory of the interpreter is most
@pytest.mark.timeout(300)
def test_memory_a_lead_is_bounded() -> None:
    argv = [sys.executable, "-m", "benchmarks.books", "--leads", str(LEADS), "--json"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["balanced"]
    assert figures["leads"] == LEADS
    assert figures["bytes_per_lead"] < 200, "objects a lead would take more"


def test_the_benchmark_fails_when_a_million_leads_would_take_more_than_a_gigabyte(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _, _ = books.measure(books.PARTITIONS)
    monkeypatch.setattr(sys, "argv", ["books", "--leads", "8"])
    for most_bytes, code in ((2**60, 1), (0, 0)):
        monkeypatch.setattr(books, "measure", lambda _, most_bytes=most_bytes: (report, 1.0, most_bytes))
        assert books.main() == code
    assert "bytes a lead, more than 1074" in capsys.readouterr().err
