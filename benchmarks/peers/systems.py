"""The systems: what each one needs, and how its process is started."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from stream_app.dev.kafka_tools import class_path, find_java
from stream_app.dev.process import StartError

PROGRAMS: Final = Path(__file__).parent / "programs"
OURS: Final = "stream-app"
BARE: Final = "bare loop"
"""aiokafka and aiohttp without any promise: what CPU is compared with. It takes part in no other
case.
"""

_INSTALL_WITHIN_S: Final = 600.0
_ASYNC: Final = ("aiohttp==3.14.5", "aiolimiter==1.3.0", "tenacity==9.2.1")
_THREADS: Final = ("requests==2.34.2", "tenacity==9.2.1")
_RESILIENCE4J: Final = "io.github.resilience4j:resilience4j"


class System(msgspec.Struct, frozen=True):
    """A system beside ours.

    Attributes:
        name: As in the table.
        program: Its file in programs/; "" for stream-app and the bare loop, which this environment
            runs.
        needs: Distributions for pip, or Maven coordinates for a program in Java.
        shares: More files of the program.
        one_topic: It reads one topic, so that hot leads and a backfill stand in one queue.
        server: The npm package of the server that it needs beside its program.
    """

    name: str
    program: str
    needs: tuple[str, ...]
    shares: tuple[str, ...] = ()
    one_topic: bool = False
    server: str = ""

    @property
    def lines(self) -> int:
        """The lines of code of its program, without comments and empty lines."""
        files = [self.program, *self.shares] if self.program else []
        texts = [
            line.strip() for file in files for line in (PROGRAMS / file).read_text().splitlines()
        ]
        return sum(bool(text) and not text.startswith(("#", "//")) for text in texts)


_DELIVERY = ("async_delivery.py",)
_THREAD_DELIVERY = ("thread_delivery.py",)
_RESTATE: Final = ("restate-sdk==1.3.0", "hypercorn==0.18.0", "aiokafka==0.14.0", *_ASYNC)
_RESTATE_SHARES: Final = ("restate_serving.py", *_DELIVERY)
_RESTATE_SERVER: Final = "@restatedev/restate-server@1.7.12"
SYSTEMS: Final = (
    System(BARE, "", ()),
    System(OURS, "", ()),
    System("raw aiokafka + aiohttp", "raw.py", ("aiokafka==0.14.0", *_ASYNC), _DELIVERY),
    System("FastStream", "faststream_batches.py", ("faststream[kafka]==0.7.8", *_ASYNC), _DELIVERY),
    System("stock Faust", "stock_faust.py", ("faust-streaming==0.15.3", *_ASYNC), _DELIVERY),
    System("Quix Streams", "quix.py", ("quixstreams==3.28.1", *_THREADS), _THREAD_DELIVERY),
    System(
        "arroyo",
        "arroyo_threads.py",
        ("sentry-arroyo==2.48.0", *_THREADS),
        _THREAD_DELIVERY,
        one_topic=True,
    ),
    System(
        "DBOS",
        "dbos_workflows.py",
        ("dbos==3.4.0", "confluent-kafka==2.16.1", *_THREADS),
        _THREAD_DELIVERY,
    ),
    System("Restate", "restate_steps.py", _RESTATE, _RESTATE_SHARES, server=_RESTATE_SERVER),
    System(
        "Restate, careful",
        "restate_careful.py",
        _RESTATE,
        _RESTATE_SHARES,
        server=_RESTATE_SERVER,
    ),
    System("mq-bridge", "mq_bridge_route.py", ("mq-bridge==1.2.0",)),
    System(
        "Parallel Consumer",
        "ParallelConsumerProgram.java",
        (
            "io.confluent.parallelconsumer:parallel-consumer-core:0.5.3.3",
            f"{_RESILIENCE4J}-circuitbreaker:2.4.0",
            f"{_RESILIENCE4J}-ratelimiter:2.4.0",
            "org.slf4j:slf4j-nop:2.0.17",
        ),
    ),
)


def command(system: System, progress: Callable[[str], None]) -> list[str]:
    """Install what the system needs, and return the command that runs its program (empty if it has
    none).

    Raises:
        StartError: it cannot be installed here.
    """
    if not system.program:
        return []
    program = str(PROGRAMS / system.program)
    if not system.program.endswith(".java"):
        return [str(_environment(system, progress)), program]
    if shutil.which("javac") is None:
        raise StartError(
            f"{system.name} needs a JDK with a compiler on the PATH: install one, or leave it out",
        )
    java = shutil.which("java") or find_java()
    return [java, "-Xmx512m", "-cp", class_path("+".join(system.needs), progress), program]


def server(system: System, progress: Callable[[str], None]) -> str:
    """Install the server that the system needs beside its program, and return its path (empty if it
    needs none).

    Raises:
        StartError: it cannot be installed here.
    """
    if not system.server:
        return ""
    npm = shutil.which("npm")
    if npm is None:
        raise StartError(
            f"{system.name} needs npm on the PATH, which brings its server "
            f"({system.server}): install Node.js,"
            " or leave it out",
        )

    def fill(directory: Path) -> None:
        options = ["--prefix", str(directory), "--ignore-scripts", "--no-audit", "--no-fund"]
        _run([npm, "install", *options, system.server], system.name)

    directory = _kept(
        (system.server,),
        fill,
        lambda: progress(f"installing the server of {system.name} ..."),
    )
    package, _, _ = system.server.rpartition("@")
    name = package.rpartition("/")[2]
    for binary in directory.glob(f"node_modules/{package}-*/bin/{name}"):
        return str(binary)
    raise StartError(
        f"{system.server} has no binary for this machine in {directory}: leave {system.name} out",
    )


def _environment(system: System, progress: Callable[[str], None]) -> Path:
    """Return the Python of the system's own environment."""

    def fill(directory: Path) -> None:
        venv.create(directory, with_pip=True)
        _run(
            [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", *system.needs],
            system.name,
        )

    needs = (sys.version, *system.needs)
    directory = _kept(
        needs,
        fill,
        lambda: progress(f"installing {system.name} in an environment of its own ..."),
    )
    return directory / "bin" / "python"


def _kept(needs: Sequence[str], fill: Callable[[Path], None], announce: Callable[[], None]) -> Path:
    """Return the directory that was filled with what is needed. It is kept for the next run."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stream-app" / "peers"
    directory = home / hashlib.sha256("\n".join(needs).encode()).hexdigest()[:12]
    done = directory / "complete"
    if not done.exists():
        announce()
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        fill(directory)
        done.touch()
    return directory


def _run(argv: Sequence[str], name: str) -> None:
    try:
        ran = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=_INSTALL_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartError(
            f"{name} was not installed within {_INSTALL_WITHIN_S:.0f} s: is the machine online?",
        ) from None
    if ran.returncode:
        words = (ran.stderr.strip() or "no output").splitlines()[-1]
        raise StartError(f"{name} cannot be installed: {words}; leave it out with --only")
