"""docker-compose.yml on a real Docker Engine, by testcontainers, from a copy of this checkout that
one user may read.

It disturbs no other system: project, image and ports are its own. COMPOSE_FILE may name further
files after docker-compose.yml, as for `docker compose`, for example with other images where no
registry is reached.
"""

import csv
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self
from urllib.request import urlopen

import docker
import yaml
from testcontainers.compose import ComposeContainer, DockerCompose

from stream_app.dev.process import free_port
from tests.support.pace import BUSY

ROOT: Final = Path(__file__).parents[2]
FILE: Final = "docker-compose.yml"
PORTS: Final = (
    "KAFKA_PORT",
    "CALLBACKS_PORT",
    "BOARD_PORT",
    "SIM_PORT",
    "SIM_CONTROL_PORT",
    "PROMETHEUS_PORT",
    "GRAFANA_PORT",
)
ONCE: Final = frozenset({"configuration", "topics"})
"""Services that end when their work is done."""

_BUILT_WITHIN_S: Final = 900  # the images are downloaded, too
_HEALTHY_WITHIN_S: Final = 600
_DOWN_WITHIN_S: Final = 300
_ASKED_EVERY_S: Final = 1.0

# Clay takes up to minutes for a row, and tests would wait for it. A table that says what a row has
# cost makes the books exact. Its HTTP column has Clay's defaults, so only `report_again` repeats a
# call that met no gateway.
_SIMULATED: Final = """
[table.latency]
min_s = 2
median_s = 3
p95_s = 5
slow_share = 0

[table.callback]
run_if = "always"

[table.callback.body]
lead_id = "{{lead_id}}"
delivery_id = "{{delivery_id}}"
credits = "{{clay_credits}}"
work_email = "{{work_email}}"
job_title = "{{job_title}}"
employees = "{{employees}}"
phone = "{{phone}}"
"""


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds.

    It ends a program that the block waits for.

    The library has no limit of its own, and that of pytest-timeout is for tests and not for
    fixtures.
    """

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"{what} took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tell(line: str) -> None:
    """Write a figure of the run, which `pytest -rP` shows."""
    sys.stdout.write(f"{line}\n")


def until(true: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Wait until `true()` holds, and return how long that took in seconds.

    Fail after `timeout_s` seconds.
    """
    began_s = time.monotonic()
    while not true():
        assert time.monotonic() < began_s + timeout_s, (
            f"{what} did not happen within {timeout_s:.0f} s"
        )
        time.sleep(_ASKED_EVERY_S)
    return time.monotonic() - began_s


def first_comment() -> list[str]:
    """Return the commands at the top of docker-compose.yml, in their order."""
    lines = (ROOT / FILE).read_text(encoding="utf-8").splitlines()
    return [
        line.removeprefix("#   ")
        for line in lines[: lines.index("name: stream-app")]
        if line.startswith("#   ")
    ]


def private_copy(folder: Path) -> None:
    """Copy what git has of this checkout, as a clone under umask 077 would: only its owner may read
    it.
    """
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_file():  # one that was deleted is still in git's index
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(source, target)
            target.chmod(0o700 if os.access(source, os.X_OK) else 0o600)
    for directory, _, _ in os.walk(folder):
        Path(directory).chmod(0o700)


class System:
    """The containers of docker-compose.yml; a context manager that builds, starts and removes them.

    Attributes:
        folder: The copy of the checkout from which they run.
        secrets: What `.env` has, by name; the ports, too.
        built_s: How long the image took, in seconds.
        healthy_s: How long it took from then until every container was healthy, in seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = f"stream-app-{uuid.uuid4().hex[:8]}"
        self.built_s = 0.0
        self.healthy_s = 0.0
        self.secrets: dict[str, str] = {}
        private_copy(folder)
        self._before = dict(os.environ)
        self._compose = DockerCompose(folder, build=True, wait=False)

    def __enter__(self) -> Self:
        self._configure()
        try:
            began_s = time.monotonic()
            self.docker("build", timeout_s=_BUILT_WITHIN_S * BUSY)
            self.built_s = time.monotonic() - began_s
            with within(_HEALTHY_WITHIN_S * BUSY, "`up --build --detach`"):
                self._compose.start()
            # `up --wait` gives up at a process that ends because Kafka is not there yet, and that
            # is started again.
            until(self.are_healthy, _HEALTHY_WITHIN_S * BUSY, "the health of all containers")
            self.healthy_s = time.monotonic() - began_s - self.built_s
        except BaseException:
            tell(self.docker("ps", "--all", ok=None).stdout)
            tell(self.docker("logs", "--tail", "10", ok=None).stdout)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with within(_DOWN_WITHIN_S * BUSY, "`down --volumes`"):
                self._compose.stop()
            subprocess.run(
                ["docker", "image", "rm", "--force", self.secrets["STREAM_APP_IMAGE"]],
                capture_output=True,
                timeout=120,
                check=False,
            )
        finally:
            os.environ.clear()
            os.environ.update(self._before)

    def _configure(self) -> None:
        """Write .env as the file's first comment does, with our own places, and name the files."""
        self.shell(first_comment()[0], 60)
        places = {name: str(free_port()) for name in PORTS}
        places |= {"STREAM_APP_IMAGE": self.project, "COMPOSE_PROJECT_NAME": self.project}
        env = self.folder / ".env"
        text = env.read_text() + "".join(f"{name}={value}\n" for name, value in places.items())
        env.write_text(text)
        env.chmod(0o600)
        self.secrets = dict(line.split("=", 1) for line in text.splitlines())
        for name in self.secrets:
            os.environ.pop(name, None)  # a variable of the user would go before that of the file
        command = yaml.safe_load((ROOT / FILE).read_text())["services"]["sim"]["command"]
        script = self.folder / "sim.toml"
        script.write_text(_SIMULATED)
        script.chmod(0o644)
        services = {
            "sim": {
                "command": [*command, "--script", "/sim.toml"],
                "volumes": ["./sim.toml:/sim.toml:ro"],
            },
        }
        (self.folder / "faster.yml").write_text(json.dumps({"services": services}))
        more = [
            name
            for name in os.environ.get("COMPOSE_FILE", "").split(os.pathsep)
            if name not in ("", FILE)
        ]
        files = [
            self.folder / FILE,
            *((ROOT / name).resolve() for name in more),
            self.folder / "faster.yml",
        ]
        os.environ["COMPOSE_FILE"] = os.pathsep.join(map(str, files))

    # ------------------------------------------------------------------------------------- commands

    def docker(
        self,
        *argv: str,
        stdin: str = "",
        timeout_s: float = 120 * BUSY,
        ok: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` with these arguments. Its exit code is `ok`, unless that is None."""
        done = subprocess.run(
            [*self._compose.docker_compose_command(), *argv],
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert ok is None or done.returncode == ok, (
            argv,
            done.returncode,
            done.stdout,
            done.stderr,
        )
        return done

    def run(self, *argv: str, stdin: str = "", ok: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `stream-app` with these arguments, as the file's first comment does."""
        return self.docker("run", "--rm", "-T", "topics", *argv, stdin=stdin, ok=ok)

    def shell(self, line: str, timeout_s: float = 120 * BUSY) -> str:
        """Run a line as a user types it, and return its output."""
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout + done.stderr

    # ----------------------------------------------------------------------------------- containers

    @functools.cached_property
    def expected(self) -> set[str]:
        """The containers that go on running, by name, such as `gateway-2`.

        Those of services that an override leaves out are not among them.
        """
        configured = json.loads(self.docker("config", "--format", "json").stdout)["services"]
        return {
            f"{service}-{number}"
            for service, its in configured.items()
            if service not in ONCE
            for number in range(1, its.get("scale", 1) + 1)
        }

    def containers(self) -> dict[str, ComposeContainer]:
        """Return the containers by the names that `expected` has, and those of `ONCE`."""
        listed = self._compose.get_containers(include_all=True)
        return {
            container.Name.removeprefix(f"{self.project}-"): container
            for container in listed
            if container.Name is not None
        }

    def are_healthy(self) -> bool:
        """Return True if every container that goes on running is healthy."""
        containers = self.containers()
        return all(
            name in containers and containers[name].Health == "healthy" for name in self.expected
        )

    def volumes(self, name: str) -> set[str]:
        """Return the names of the volumes of a container."""
        mounts = self._container(name).attrs["Mounts"]
        return {mount["Name"] for mount in mounts if mount["Type"] == "volume"}

    def kill(self, name: str) -> None:
        """End a container with SIGKILL, and start it again."""
        container = self._container(name)
        container.kill()
        container.start()

    def _container(self, name: str) -> Any:
        return docker.from_env(timeout=120).containers.get(self.containers()[name].ID)

    # ----------------------------------------------------------------------------- what it has done

    def url(self, port: str) -> str:
        """Return the address of a port of this machine, by its name in `.env`."""
        return f"http://127.0.0.1:{self.secrets[port]}"

    def get(self, port: str, path: str) -> Any:
        """Return the JSON that is served there."""
        with urlopen(self.url(port) + path, timeout=30 * BUSY) as answer:
            return json.load(answer)

    def ledger(self) -> Mapping[str, Any]:
        """Return the totals of the simulated Clay, which is independent of the system."""
        totals: dict[str, Any] = self.get("SIM_CONTROL_PORT", "/ledger/summary")
        return totals

    def report_again(self) -> None:
        """Run the table's HTTP column again for rows whose cell has no 2xx, as a person would."""
        for webhook in self.get("SIM_CONTROL_PORT", "/control")["webhooks"]:
            order = json.dumps({"webhook": webhook, "which": "unreported"}).encode()
            rerun = f"{self.url('SIM_CONTROL_PORT')}/control/rerun"
            with urlopen(rerun, order, timeout=30 * BUSY) as answer:
                assert answer.status == 200

    def books(self) -> Mapping[str, Any]:
        """Return the books, which must be balanced."""
        report: dict[str, Any] = json.loads(self.run("books", "--json").stdout)
        assert report["balanced"], report["problems"]
        return report

    def results(self) -> list[dict[str, str]]:
        """Return the last result of each lead. There is one."""
        return list(csv.DictReader(io.StringIO(self.run("results").stdout)))
