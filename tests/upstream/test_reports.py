"""The programs of docs/reference/upstream show their faults on the stock libraries, and print what
the pages say.

When one of these tests fails, upstream has mended a fault: read its page, and take out our code for
it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker
from tests.support.pace import BUSY

REPORTS = Path(__file__).parents[2] / "docs" / "reference" / "upstream"
RACES = {"resumes-before-it-seeks", "commits-starve", "the-last-commit-is-skipped"}
"""Faults that a program meets in most of its runs. As in test_stock_faust.py, one of four is
enough.
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def shown_by(program: str, bootstrap: str, directory: Path) -> str:
    """What the program prints, in a folder of its own, as Faust makes one for its data."""
    argv = [sys.executable, "-W", "ignore", "-c", program]
    environment = os.environ | {"KAFKA_BOOTSTRAP": bootstrap}
    ran = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=120 * BUSY,
        check=False,
        cwd=directory,
        env=environment,
    )
    return ran.stdout or ran.stderr


@pytest.mark.parametrize(
    "report",
    sorted(path.stem for path in REPORTS.glob("*.md") if path.stem != "README"),
)
def test_a_report_shows_its_fault_on_the_stock_release(
    kafka: Broker,
    tmp_path: Path,
    report: str,
) -> None:
    page = REPORTS / f"{report}.md"
    (program,) = blocks_of(page, "python")
    (expected,) = blocks_of(page, "text")
    for _ in range(4 if report in RACES else 1):
        printed = shown_by(program, kafka.bootstrap, tmp_path)
        if printed == expected:
            break
    assert printed == expected
