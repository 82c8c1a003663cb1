"""`stream-app publish -`: reads stdin to its end, and Ctrl-C ends it while it waits for a line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from stream_app.cli import main; sys.exit(main(sys.argv[1:]))",
    "publish",
    "-",
    "--dry-run",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = '[destinations.p]\nworkspace = "acme"\nwebhooks_env = ["X"]\ncallbacks = false\n'
    (tmp_path / "stream_app.toml").write_text(config)
    return tmp_path


def test_refused_rows_of_stdin_have_a_file_too(folder: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--json"],
        input=b'{"email":"a@acme.example"}\n{"notes":"x"}\n',
        cwd=folder,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["rejected_file"] == "stdin.rejected.jsonl"
    refused = json.loads((folder / "stdin.rejected.jsonl").read_text())
    assert (refused["line"], refused["reason"]) == (2, "no_identity")


def test_ctrl_c_while_it_waits_for_a_line(folder: Path) -> None:
    process = subprocess.Popen(COMMAND, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    rejected = folder / "stdin.rejected.jsonl"
    try:
        process.stdin.write(b"not json\n" * 5_000)  # more than its buffer: the first ones are written out
        process.stdin.flush()
        for _ in range(1_000):
            if rejected.exists():
                break
            time.sleep(0.02)
        assert rejected.exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert process.stderr.read() == b"interrupted\n"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stderr.close()
