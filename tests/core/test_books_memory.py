"""A million leads fit in a gigabyte: measured on a tenth of them, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LEADS = 100_000


@pytest.mark.timeout(90)
def test_memory_a_lead_is_bounded() -> None:
    argv = [sys.executable, "-m", "benchmarks.books", "--leads", str(LEADS), "--json"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=80, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["balanced"]
    assert figures["leads"] == LEADS
    assert figures["bytes_per_lead"] < 200, "objects a lead would take more"
