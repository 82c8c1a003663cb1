"""Commands at a terminal, where a person reads what they print and answers their questions."""

import errno
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

COLUMNS: Final = 80
_LINES: Final = 24


def run_at_terminal(
    argv: Sequence[str],
    asks: str,
    answer: str,
    folder: Path,
    within_s: float,
) -> tuple[int, str]:
    """Run `stream-app` in a folder, at a terminal of 80 columns, and answer its question.

    asks: the end of the question. answer: what is typed then.
    Return its exit code, and what the terminal shows.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (_LINES, COLUMNS))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "stream_app", *argv],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    is_answered = False
    until_s = time.monotonic() + within_s
    try:
        while data := _read(ours, until_s, shown):
            shown += data
            if not is_answered and asks.encode() in shown:
                os.write(ours, f"{answer}\n".encode())
                is_answered = True
        code = process.wait(max(0.0, until_s - time.monotonic()))
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, shown.decode().replace("\r\n", "\n")


def _read(terminal: int, until_s: float, shown: bytes) -> bytes:
    """Read what is printed next; nothing at the end of the command."""
    ready, _, _ = select.select([terminal], [], [], max(0.0, until_s - time.monotonic()))
    assert ready, f"it prints nothing more: {shown.decode(errors='replace')}"
    try:
        return os.read(terminal, 65_536)
    except OSError as error:
        if error.errno != errno.EIO:  # by which Linux says that nobody has the terminal open
            raise
        return b""
