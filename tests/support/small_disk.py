"""A disk that a test can fill: a tmpfs that a process mounts for itself, without root.

Others reach it through that process, by a path below /proc. It needs Linux with user namespaces.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream_app.dev.process import ChildProcesses, StartError, wait_for_answer
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
            path = Path(f"/proc/{mounter.pid}/root{children.directory}/disk")
            wait_for_answer(
                "unshare",
                mounter,
                lambda: path.is_mount(),
                log=log,
                timeout_s=10 * BUSY,
            )
        except (FileNotFoundError, StartError) as error:
            raise NoSmallDiskError(str(error)) from None
        yield SmallDisk(path)
    finally:
        children.close()
