"""Makes pages in a process of its own, so that boards that refresh themselves delay callbacks little.

A page needs up to 40 ms of Python, and the gateway's process runs Python in one thread at a time. This process has a
lower priority, too. It starts with the first page, and ends with the gateway. While it starts, the gateway makes pages.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from stream_app.board.assets import Assets
from stream_app.board.page import Job, NotMade, Pages
from stream_app.board.render import Renderer
from stream_app.board.site import Shared, Site
from stream_app.ops.garbage import collect_rarely

_WITHIN_S: Final = 30.0
_NICENESS: Final = 15
_SITE: Final = "site"


class PageProcess:
    """The process. Use it from one thread."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._is_ready = False

    def html_of(self, job: Job) -> bytes | None:
        """Return the page, as `Pages.html_of` does.

        Raises:
            NotMade: The process has only begun, or it ended. The next pages find it.
        """
        _, connection = self._running = self._running or self._start()
        try:
            if not self._is_ready:
                if not connection.poll():
                    raise NotMade
                self._is_ready = bool(connection.recv())
            connection.send_bytes(pickled(job))
            if not connection.poll(_WITHIN_S):
                raise TimeoutError
            answer: bytes | Exception | None = connection.recv()
        except (EOFError, OSError):  # it was killed, such as for its memory
            self.close()
            raise NotMade from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        if self._running is not None:
            process, connection = self._running
            self._running, self._is_ready = None, False
            connection.close()
            process.kill()
            process.wait()

    def _start(self) -> tuple[subprocess.Popen[bytes], Connection]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        connection = Connection(ours.detach())
        connection.send(self._site)
        return process, connection


class _Pickler(pickle.Pickler):
    """Names what each process has of its own."""

    def persistent_id(self, thing: Any) -> object:
        if isinstance(thing, Site):
            return _SITE
        return thing.number if isinstance(thing, Shared) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, raw: bytes, site: Site, shared: dict[int, Shared]) -> None:
        super().__init__(io.BytesIO(raw))
        self._site = site
        self._shared = shared

    def persistent_load(self, name: Any) -> Site | Shared:
        if name == _SITE:
            return self._site
        if name not in self._shared:
            self._shared.clear()  # of an earlier moment
            self._shared[name] = Shared()
        return self._shared[name]


def pickled(job: Job) -> bytes:
    """Return a job as bytes that `JobReader` reads."""
    raw = io.BytesIO()
    _Pickler(raw).dump(job)
    return raw.getvalue()


class JobReader:
    """Reads jobs that another process has sent."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shared: dict[int, Shared] = {}

    def read(self, raw: bytes) -> Job:
        """Return the job, with the site and the shared content of this process."""
        job: Job = _Unpickler(raw, self._site, self._shared).load()
        return job


def serve(connection: Connection) -> None:
    """Make pages until the gateway closes the connection, or ends."""
    site: Site = connection.recv()
    pages, jobs = Pages(site, Renderer(Assets())), JobReader(site)
    collect_rarely()
    connection.send(True)  # ready
    answer: bytes | Exception | None
    while True:
        raw = connection.recv_bytes()
        try:
            answer = pages.html_of(jobs.read(raw))
        except Exception as error:  # noqa: BLE001 - the gateway raises it
            error.add_note(traceback.format_exc())
            answer = error
        connection.send(answer)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # what ends the gateway may reach all its processes; it goes on a while
    os.nice(_NICENESS)
    with suppress(EOFError, OSError):  # the gateway has ended
        serve(Connection(int(sys.argv[1])))
