"""A disk that a test can fill: a tmpfs that a process mounts for itself, without root.

Others reach it through that process, by a path below /proc. It needs Linux with user namespaces.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream_app.dev.process import ChildProcesses, last_words
from tests.support.pace import BUSY

_MOUNT = "mount -t tmpfs -o size=20m tmpfs disk && exec sleep infinity"
_BLOCK = bytes(4096)


class NoSmallDiskError(RuntimeError):
    """This machine allows no such disk. The text says why."""


class SmallDisk:
    """20 MB at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Use up all room."""
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(_BLOCK)
            except OSError:  # ENOSPC
                return

    def make_room(self) -> None:
        """Free the room again."""
        self._ballast.unlink()


@contextmanager
def small_disk() -> Iterator[SmallDisk]:
    """Mount one for the block. Raises NoSmallDiskError."""
    children = ChildProcesses("stream-app-disk")
    try:
        (children.directory / "disk").mkdir()
        log = children.directory / "log"
        try:
            mounter = children.spawn(["unshare", "-rm", "sh", "-c", _MOUNT], log=log)
        except FileNotFoundError as error:
            raise NoSmallDiskError(str(error)) from None
        path = Path(f"/proc/{mounter.pid}/root{children.directory}/disk")
        _wait_for(mounter, path, log)
        yield SmallDisk(path)
    finally:
        children.close()


def _wait_for(mounter: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    deadline = time.monotonic() + 10 * BUSY
    while not os.path.ismount(path):
        if mounter.poll() is not None or time.monotonic() > deadline:
            raise NoSmallDiskError(last_words(log))
        time.sleep(0.01)
