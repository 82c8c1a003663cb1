"""How far a file has come, as a person sees it: rate since the start, and the end by bytes read."""

import io
import os
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from stream_app.cli import progress
from stream_app.cli.progress import reading_rows
from stream_app.client.publish import Summary


class Clock:
    """`time`, by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ours = Clock()
    monkeypatch.setattr(progress, "time", ours)
    return ours


def file_of(path: Path, size_bytes: int) -> IO[bytes]:
    path.write_bytes(b"x" * size_bytes)
    return path.open("rb")


def test_elsewhere_than_on_a_terminal_it_is_a_line_now_and_then(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with file_of(tmp_path / "leads.csv", 40_000) as source, reading_rows(source) as show:
        for at_s, rows, read_bytes in (
            (104.9, 900, 9_000),
            (105.0, 1_000, 10_000),
            (109.9, 1_999, 19_000),
            (110, 2_500, 20_000),
        ):
            clock.now_s = at_s
            source.seek(read_bytes)
            show(Summary(rows=rows, refused=rows // 500))
    assert capsys.readouterr().err.splitlines() == [
        "1,000 rows, 200 rows/s, 2 refused, 15 s to go",
        "2,500 rows, 250 rows/s, 5 refused, 10 s to go",
    ]


def test_a_pipe_has_no_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb"), reading_rows(source) as show:
        clock.now_s = 110.0
        show(Summary(rows=50))
    assert capsys.readouterr().err == "50 rows, 5 rows/s, 0 refused\n"


def test_on_a_terminal_it_is_a_bar_at_every_step(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    screen = Console(file=written, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: screen)
    with file_of(tmp_path / "leads.csv", 40_000) as source, reading_rows(source) as show:
        clock.now_s, _ = 100.5, source.seek(30_000)
        show(Summary(rows=100, refused=1))
    assert "100 rows, 200 rows/s, 1 refused" in written.getvalue()
