"""What the operating system gives a process: its memory, a lock on its files."""

from __future__ import annotations

import atexit
import fcntl
import gc
from pathlib import Path
from typing import IO

from stream_app.domain.model.errors import StreamAppError


def collect_rarely() -> None:
    """Collect with high thresholds, and not when the process ends.

    Python's own thresholds cost a fifth of a lead's CPU and a tenth of a start's, and find little. Its last collection
    takes a worker 0.25 s of CPU, in which no lead is sent. `benchmarks/line.py` and `benchmarks/start.py` measure it.
    """
    gc.set_threshold(200_000, 20, 50)
    atexit.register(gc.freeze)


def lock_for_writing(path: Path, what: str, setting: str, if_locked: str) -> IO[bytes]:
    """Lock a file until the returned file, which is beside it, is closed.

    The errors say `what` is in the file and which key (`setting`) has its path, or `if_locked`.

    Raises:
        StreamAppError: Another process has the lock, or the folder is not writable.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("wb")
    except OSError as error:
        raise StreamAppError(
            f"{path}: cannot write {what} ({error.strerror}): set {setting} to a writable file"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StreamAppError(f"{path}: {if_locked}") from None
    return lock
