"""`stream-app publish -`: reads stdin to its end, and Ctrl-C ends it while it waits for a line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from stream_app.cli.main import main
from tests.support.pace import BUSY

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from stream_app.cli.main import main; sys.exit(main(sys.argv[1:]))",
    "publish",
    "-",
    "--dry-run",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = '[workspaces.acme]\n[destinations.p]\nworkspace = "acme"\nwebhooks_env = ["X"]\ncallbacks = false\n'
    (tmp_path / "stream_app.toml").write_text(config)
    return tmp_path


class Done(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


Publish = Callable[..., Done]


@pytest.fixture
def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Publish:
    """Run the command in this process, with these bytes as its stdin."""
    monkeypatch.chdir(folder)

    def run(lines: bytes, *more: str) -> Done:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(lines)
        with os.fdopen(reading) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            return Done(main(["publish", "-", "--dry-run", *more]), *capfdbinary.readouterr())

    return run


@pytest.mark.parametrize("lines", [b'{"email":"a@acme.example"}\n', b'{"email":"a@acme.example"}\n{"notes":"x"}\n'])
def test_a_dry_run_changes_nothing_and_says_what_it_refuses(folder: Path, publish: Publish, lines: bytes) -> None:
    """Seen: it removed the file with the rows that had been refused before."""
    rejected = folder / "stdin.rejected.jsonl"
    rejected.write_text("of yesterday")
    done = publish(lines, "--json")
    refused = lines.count(b"notes")
    assert done.returncode == refused
    assert json.loads(done.stdout)["rejected_file"] is None
    assert rejected.read_text() == "of yesterday"
    assert done.stderr.startswith(b"line 2: no_identity: ") is bool(refused)


def test_of_many_refused_rows_it_says_the_first_ones(publish: Publish) -> None:
    said = publish(b'{"notes":"x"}\n' * 23).stderr.splitlines()
    assert [line[:8] for line in said] == [*(f"line {n}: "[:8].encode() for n in range(1, 21)), b"and 3 mo"]


@pytest.mark.parametrize(("lines", "hinted"), [(b"email\na@acme.example\n", True), (b"no\n{}\n", False), (b"", False)])
def test_a_csv_that_is_taken_for_json_lines(publish: Publish, lines: bytes, hinted: bool) -> None:
    done = publish(lines)
    assert (b"if it is CSV, say --format csv" in done.stderr) is hinted
    assert b"--format csv" not in publish(lines, "--format", "jsonl").stderr


def test_ctrl_c_while_it_waits_for_a_line(folder: Path) -> None:
    process = subprocess.Popen(COMMAND, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        process.stdin.write(b"not json\n" * 20_000)  # more than the pipe holds: it reads when this is written
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60 * BUSY) == 130
        assert process.stderr.read() == b"interrupted\n"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stderr.close()
