"""Child processes and a temporary directory that end with this process, even after SIGKILL.

A watchdog (this file, run as a script) reads a pipe whose other end only this process holds. When
that end closes, because of `close()`, a crash or a SIGKILL, the watchdog kills its process group,
in which all children were started, and removes the directory. There is no gap: a child holds the
pipe's end open from its fork to its exec, and joins the group between the two. (A child of a bare
fork, as multiprocessing makes it, delays this until it ends itself.)
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
_REMOVED_WITHIN_S = 30.0
_given: set[int] = set()


class StartError(RuntimeError):
    """A local service cannot start or run. One line: what is wrong, where, and what to do next."""


class ChildProcesses:
    """Child processes and a temporary directory that end with `close()` or with this process.

    Attributes:
        directory: The temporary directory.
    """

    def __init__(self, name: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        argv = [sys.executable, "-I", "-S", __file__, str(self.directory)]
        self._lock = threading.Lock()  # no child may start during a close() in another thread
        # With its own group, a terminal's Ctrl-C reaches only this process, which stops the
        # children in order.
        self._watchdog = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )

    def spawn(self, argv: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
        """Start a child whose output is appended to `log`. Its working directory is `directory`."""
        with self._lock, log.open("ab") as output:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                process_group=self._watchdog.pid,
            )

    def close(self) -> None:
        """Kill the remaining children and remove the directory.

        May be called twice, from any thread.

        After a while it leaves the rest of a large directory to the watchdog, which goes on
        removing it.
        """
        with self._lock, contextlib.suppress(subprocess.TimeoutExpired):
            if self._watchdog.returncode is None:
                self._watchdog.communicate(timeout=_REMOVED_WITHIN_S)


def end(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """Stop a process with SIGTERM, even a frozen one, and kill it after `grace_s` seconds."""
    process.terminate()
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(grace_s)


def freeze(process: subprocess.Popen[bytes]) -> None:
    """Send SIGSTOP to a child and wait until all its threads have stopped, or until it has exited.

    A signal stops a busy process of many threads some time after it was sent. Until then it still
    answers.
    """
    process.send_signal(signal.SIGSTOP)
    if process.poll() is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def wait_for_answer(
    name: str,
    process: subprocess.Popen[bytes],
    answers: Callable[[], bool],
    *,
    log: Path,
    timeout_s: float,
) -> None:
    """Return when `answers()` is true.

    Raises StartError if the process exits first, or at the timeout.
    """
    deadline = time.monotonic() + timeout_s
    while not answers():
        if process.poll() is not None:
            raise StartError(
                f"{name} exited during its start (code {process.returncode}): {last_words(log)}",
            )
        if time.monotonic() > deadline:
            raise StartError(f"{name} did not respond within {timeout_s:.0f} s: {last_words(log)}")
        time.sleep(0.05)


def last_words(log: Path) -> str:
    """Return the end of a log in one line: its last errors, else its last lines.

    Stack frames are left out.
    """
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = dict.fromkeys(
        line for line in text.splitlines() if line.strip() and not line[0].isspace()
    )
    errors = [line for line in lines if "ERROR" in line or "Exception" in line]
    return " | ".join((errors or list(lines))[-3:]) or "the log is empty"


def port_is_free(port: int) -> bool:
    """True if this TCP port of the loopback interface is free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a free TCP port below the range of outgoing connections.

    A restarted server can therefore use it again. Each call in this process returns a different
    port, which may be used later.
    """
    for port in random.sample(range(15_000, 32_000), 100):
        if port not in _given and port_is_free(port):
            _given.add(port)
            return port
    raise StartError(
        f"no free port on {LOOPBACK} between 15000 and 32000: stop the programs that use them",
    )


def _watch(directory: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    group = os.getpid()
    if os.fork():
        os.wait()  # until the kill below, which also kills this process
        return
    os.setpgid(0, 0)
    os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)  # a killed process may write until it is gone


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
