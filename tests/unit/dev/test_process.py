"""Children end and their directory goes, however their parent ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_app.dev.process import ChildProcesses, StartError, end, free_port, wait_for_answer
from tests.support.pace import BUSY

# A shell without job control starts what is in its background deaf to Ctrl-C, and pytest may have
# been started so.
PARENT = """
import signal
import sys
import time
from stream_app.dev.process import ChildProcesses
signal.signal(signal.SIGINT, signal.default_int_handler)
children = ChildProcesses("test-parent")
sleeper = "import time; print('up', flush=True); time.sleep(60)"
child = children.spawn([sys.executable, "-c", sleeper], log=children.directory / "log")
print(child.pid, children.directory, flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def eventually(condition: Callable[[], bool], *, within_s: float = 10 * BUSY) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_and_directory_end_with_their_parent(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        assert is_alive(int(pid))
        assert Path(directory).is_dir()
        parent.send_signal(how)
    assert eventually(lambda: not is_alive(int(pid)))
    assert eventually(lambda: not Path(directory).exists())


def test_close_kills_what_still_runs_and_may_be_called_twice() -> None:
    children = ChildProcesses("test-close")
    child = children.spawn(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        log=children.directory / "log",
    )
    children.close()
    children.close()
    assert child.wait(5 * BUSY) == -signal.SIGKILL
    assert not children.directory.exists()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("on_term", "grace_s", "code"),
    [("lambda *_: exit(7)", 60, 7), ("signal.SIG_IGN", 0.2, -signal.SIGKILL)],
)
def test_end_asks_first_and_kills_after_the_grace(
    frozen: bool,
    on_term: str,
    grace_s: float,
    code: int,
) -> None:
    # A signal just before a long sleep is handled after it.
    sleep = "while True: time.sleep(0.1)"
    script = f"import signal, time\nsignal.signal(15, {on_term}); print('up', flush=True)\n{sleep}"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if frozen:
            process.send_signal(signal.SIGSTOP)
        end(process, grace_s=grace_s)
    assert process.returncode == code


def test_waiting_for_an_answer_ends_when_the_process_does(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("INFO starting\nERROR no memory\n\tat Frame.of(Trace:1)\n")
    children = ChildProcesses("test-wait")
    process = children.spawn(
        [sys.executable, "-c", "raise SystemExit(3)"],
        log=children.directory / "log",
    )
    with pytest.raises(
        StartError,
        match=r"^Thing exited during its start \(code 3\): ERROR no memory$",
    ):
        wait_for_answer("Thing", process, lambda: False, log=log, timeout_s=20)
    children.close()


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one configuration were the same, and its worker did not start."""
    monkeypatch.setattr("random.sample", lambda ports, most: list(ports)[:most])
    assert len({free_port() for _ in range(5)}) == 5
