"""A stand-in for a system of ours that runs on the same machine as the tests.

`python -m tests.support.neighbour COMMAND ...` holds the default ports of the configuration and of
the simulator while the command runs, and returns its exit code. If anything asked one of the
ports, or left a file in the folder of a user's board, it says which and returns 1: such a test
meets the user's own system sooner or later.
"""

import inspect
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from stream_app.cli.demo import sim
from stream_app.config.board_files import STATE_FOLDER, STATE_HOME
from stream_app.config.model import Http, Kafka
from stream_app.dev.process import LOOPBACK

_ANSWERED_WITHIN_S: Final = 2.0
_MAX_QUESTION_BYTES: Final = 80  # bytes: enough for the path of a request


def default_ports() -> dict[int, str]:
    """Return the ports that a system uses unless it is told otherwise, each with its name."""
    ports = {
        field.default: f"http.{field.name}"
        for field in msgspec.structs.fields(Http)
        if isinstance(field.default, int)
    }
    ports[int(Kafka().bootstrap.rpartition(":")[2])] = "kafka.bootstrap"
    for name, parameter in inspect.signature(sim).parameters.items():
        if name.endswith("port") and parameter.default:  # 0 is any free port
            ports[parameter.default] = f"sim --{name.replace('_', '-')}"
    return ports


def files_of_user() -> set[Path]:
    """Return what is kept for a user who does not say where."""
    return set((Path(STATE_HOME).expanduser() / STATE_FOLDER).glob("*"))


class Neighbour:
    """Listens on ports until `close`, answers nothing, and keeps what it was asked."""

    def __init__(self, ports: dict[int, str]) -> None:
        self.asked: list[str] = []
        self.taken: list[str] = []
        self._listeners: dict[str, socket.socket] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._last: dict[str, tuple[str, int]] = {}  # whose connection ends a thread
        for port, variable in ports.items():
            name = f"{port} ({variable})"
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, port))
            except OSError:
                # A real system runs here already, so it is the neighbour at this port.
                self.taken.append(name)
                listener.close()
                continue
            listener.listen()
            self._listeners[name] = listener
            thread = threading.Thread(target=self._serve, args=(listener, name), daemon=True)
            thread.start()
            self._threads[name] = thread

    def _serve(self, listener: socket.socket, name: str) -> None:
        while True:
            connection, peer = listener.accept()
            with connection:
                if peer == self._last.get(name):
                    return
                connection.settimeout(_ANSWERED_WITHIN_S)
                try:
                    words = connection.recv(_MAX_QUESTION_BYTES)
                except OSError:
                    words = b""
            self.asked.append(f"{name}: {words!r}")

    def close(self) -> None:
        """Give the ports back, with every question known that was asked before."""
        for name, listener in self._listeners.items():
            # Connections are accepted in their order, so ours comes after all that still wait; a
            # shutdown of the listener would drop these.
            with socket.socket() as last:
                last.bind((LOOPBACK, 0))
                # Before it connects: the thread looks for it as soon as it accepts it.
                self._last[name] = last.getsockname()
                last.connect(listener.getsockname())
                self._threads[name].join()
            listener.close()


def main(argv: Sequence[str]) -> int:
    """Run a command beside a neighbour, and return the exit code for the shell."""
    neighbour = Neighbour(default_ports())
    if neighbour.taken:
        sys.stderr.write(f"something listens already on {', '.join(neighbour.taken)}\n")
    before = files_of_user()
    code = subprocess.run(argv, check=False).returncode
    neighbour.close()
    for question in sorted(set(neighbour.asked)):
        sys.stderr.write(
            f"a test asked a default port, where a user's system may listen: {question}\n",
        )
    written = files_of_user() - before
    for path in sorted(written):
        sys.stderr.write(f"a test wrote into a folder of the user: {path}\n")
    return code or int(bool(neighbour.asked or written))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
