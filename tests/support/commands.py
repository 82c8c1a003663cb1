"""Commands and processes of `stream-app` that are forked from one process that has imported all of
it.

So each begins at once: for most commands, the imports take ten times as long as the work.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import stream_app
from stream_app.cli.main import main
from stream_app.dev.process import ChildProcesses
from tests.support.patience import be_patient

_POLL_S = 0.02


@cache
def _forks() -> ForkServerContext:
    root = Path(stream_app.__file__).parent
    files = (
        path.relative_to(root.parent).with_suffix("")
        for path in root.rglob("*.py")
        if path.name[0] != "_"
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([".".join(file.parts) for file in files])
    return context


def run_command(
    argv: list[str],
    folder: Path,
    timeout_s: float,
    change: Callable[[], object] | None = None,
) -> tuple[int, str]:
    """Run a command in a folder, without a terminal. `change` is called in it first.

    It waits for answers for as long as a busy machine needs.

    Return its exit code, and its output before its errors.
    """
    with TemporaryDirectory() as kept:
        texts = [Path(kept) / name for name in ("stdout", "stderr")]
        process = _forks().Process(
            target=_run,
            args=(argv, folder, dict(os.environ), texts, 0, partial(be_patient, change)),
        )
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"stream-app {' '.join(argv)}: not done in {timeout_s} s")
        return process.exitcode, "".join(text.read_text(encoding="utf-8") for text in texts)


class Forked(subprocess.Popen[bytes]):
    """A process that is no child of this one, so that it is asked by other means than those of
    `Popen`.
    """

    def __init__(self, process: ForkServerProcess, argv: Sequence[str]) -> None:
        assert process.pid is not None
        self.args = argv
        self.pid = process.pid
        self.returncode = None
        self.stdin = None
        self.stdout = None
        self.stderr = None
        self._process = process
        self._lock = threading.Lock()  # only one thread may read how it ended

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until_s = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until_s:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(_POLL_S)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)


def fork_process(
    children: ChildProcesses,
    argv: Sequence[str],
    log: Path,
    change: Callable[[], object] | None = None,
) -> Forked:
    """Start `stream-app` with these arguments, as `children.spawn` starts a program.

    `change` is called in it first.
    """
    context = (children.directory, dict(os.environ), [log, log], children._watchdog.pid)
    process = _forks().Process(target=_run, args=(argv, *context, change))
    process.start()
    return Forked(process, argv)


def _run(
    argv: list[str],
    folder: Path,
    environ: Mapping[str, str],
    texts: list[Path],
    group: int = 0,
    change: Callable[[], object] | None = None,
) -> None:
    if group:
        try:
            os.setpgid(0, group)
        except PermissionError:  # the test has ended meanwhile, and its group with it
            sys.exit(1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    for stream, text in enumerate(texts, 1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    if change:
        change()
    sys.exit(main(argv))
