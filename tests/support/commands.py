"""Commands of `stream-app` in processes that are forked from one that has imported all of it.

So a command begins at once: for most of them, the imports take ten times as long as the work.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory

import stream_app
from stream_app.cli.main import main


@cache
def _forks() -> ForkServerContext:
    root = Path(stream_app.__file__).parent
    files = (path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py") if path.name[0] != "_")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([".".join(file.parts) for file in files if "dev" not in file.parts])
    return context


def run_command(argv: list[str], folder: Path, timeout_s: float) -> tuple[int, str]:
    """Run a command in a folder, without a terminal. Return its exit code, and its output before its errors."""
    with TemporaryDirectory() as kept:
        texts = [Path(kept) / name for name in ("stdout", "stderr")]
        process = _forks().Process(target=_run, args=(argv, folder, dict(os.environ), texts))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"stream-app {' '.join(argv)}: not done in {timeout_s} s")
        return process.exitcode, "".join(text.read_text(encoding="utf-8") for text in texts)


def _run(argv: list[str], folder: Path, environ: Mapping[str, str], texts: list[Path]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    for stream, text in enumerate(texts, 1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), stream)
    sys.exit(main(argv))
