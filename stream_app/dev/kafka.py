"""A real Apache Kafka on this machine from pip alone: one KRaft node on loopback.

Its data is temporary. It serves the demo, the tests and the benchmarks. `python -m
stream_app.dev.kafka` runs one until Ctrl-C.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

from attrs import define, field
from rich.console import Console

from stream_app.dev.kafka_tools import BROKER_JARS, TOOLS_JARS, Report, class_path, find_java
from stream_app.dev.process import (
    LOOPBACK,
    ChildProcesses,
    StartError,
    end,
    free_port,
    freeze,
    last_words,
    port_is_free,
    wait_for_answer,
)

JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
_MIN_FREE_BYTES = 512 * 2**20


def bootstrap_from_environment() -> str | None:
    """Return the address of the user's own broker, if there is one.

    It comes from `KAFKA_BOOTSTRAP`: "host:port[,host:port]".
    """
    return os.environ.get("KAFKA_BOOTSTRAP", "").strip() or None


def broker_properties(*, listen: str, port: int, controller_port: int) -> dict[str, str]:
    """Return server.properties of a one-node broker that clients on this machine reach on loopback.

    The settings make it start, rebalance and recover quickly. A process and a container use the
    same ones.
    """
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{listen}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "message.max.bytes": str(4 * 2**20),
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        # Otherwise a record says twice a second that nothing has happened.
        "metadata.max.idle.interval.ms": "0",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "2",
        # A killed broker can register again only after its old session has ended. It is no
        # shorter than Kafka's default: a busy machine keeps a broker from its heartbeats for
        # seconds, and one without a session leads no partition and takes no topic.
        "broker.session.timeout.ms": "9000",
        "broker.heartbeat.interval.ms": "500",
    }


def _silent(_: str) -> None:
    pass


def _or_free(port: int | None) -> int:
    return port or free_port()


@define(eq=False, repr=False)
class Broker:
    """A running Kafka: its address `bootstrap` ("host:port[,host:port]") and Kafka's tools."""

    bootstrap: str

    def run_tool(self, class_name: str, *args: str, timeout_s: float = 300) -> str:
        """Run a tool, such as "org.apache.kafka.tools.TopicCommand".

        Args:
            class_name: The tool's class.
            args: Its arguments. `--bootstrap-server` is added if they have none.
            timeout_s: The time limit.

        Returns:
            Its standard output.

        Raises:
            StartError: The tool fails or times out.
        """
        where = [] if "--bootstrap-server" in args else ["--bootstrap-server", self.bootstrap]
        argv = [
            find_java(),
            *JVM,
            "-cp",
            class_path(TOOLS_JARS, _silent),
            class_name,
            *where,
            *args,
        ]
        name = class_name.rpartition(".")[2]
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            late = f"{name} took more than {timeout_s:.0f} s: does {self.bootstrap} answer?"
            raise StartError(late) from None
        # ConsumerGroupCommand prints "Error: ..." and exits with code 0.
        if done.returncode != 0 or done.stdout.lstrip().startswith("Error:"):
            lines = [
                line
                for line in (done.stdout + done.stderr).splitlines()
                if line.strip() and not line[0].isspace()
            ]
            raise StartError(f"{name} failed: {' | '.join(lines[:3])}")
        return done.stdout


@define(eq=False, repr=False, kw_only=True)
class LocalKafka(Broker):
    """One Kafka broker as a child process, and a plain or async context manager.

    It ends with this process.

    Failures are StartError. The methods block: use `asyncio.to_thread` in a coroutine.

    Args:
        port: The port on loopback; None for a free one.
        overrides: server.properties that override `broker_properties`.
        format_options: Options of `kafka-storage format`, such as "--add-scram=...".
        data_dir: A permanent data directory; None for a temporary one.
        progress: Called with a line for each slow step.
        start_timeout_s: Limit of each wait for the broker.
        cluster_id: The id of the cluster that it joins; None for a new one.
        heap_mb: The heap of the JVM.

    Attributes:
        properties: Its server.properties, once started.
        class_archive: Where the JVM's archive of Kafka's classes is, if anyone made one: it halves
            the CPU of a start.
    """

    class_archive: ClassVar[Path | None] = None
    bootstrap: str = field(init=False)
    properties: dict[str, str] = field(init=False, factory=dict)
    _port: int = field(default=None, converter=_or_free)
    _overrides: Mapping[str, str] = field(factory=dict)
    _format_options: Sequence[str] = ()
    _data_dir: Path | None = None
    _progress: Report = _silent
    _start_timeout_s: float = 300
    _cluster_id: str | None = None
    _heap_mb: int = 512
    _children: ChildProcesses | None = field(init=False, default=None)
    _broker: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.bootstrap = f"{LOOPBACK}:{self._port}"

    def prepare(self) -> None:
        """Download Java and Kafka if they are missing; `start` does so, too. Raises StartError."""
        find_java()
        class_path(BROKER_JARS, self._progress)

    def start(self) -> None:
        """Start the broker and return when it responds.

        Raises:
            StartError: No Java, offline, disk full, port taken, or the broker exited.
        """
        self._children = ChildProcesses("stream-app-kafka")
        try:
            self._write_properties(self._children.directory)
            self._format()
            self._start_broker()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the broker cleanly and remove its files.

        May be called at any time, twice, from any thread.
        """
        broker = self._broker
        children = self._children
        self._broker = None
        self._children = None
        if broker is not None:
            end(broker, grace_s=10)
        if children is not None:
            children.close()

    def kill(self) -> None:
        """Kill the broker with SIGKILL; `restart()` starts it again."""
        self._process.kill()
        self._process.wait(60)

    def terminate(self) -> None:
        """Stop the broker cleanly, as an operator would; `restart()` starts it again."""
        end(self._process, grace_s=30)

    def restart(self) -> None:
        """Start with the same data and port. A running broker is stopped cleanly first."""
        end(self._process, grace_s=60)
        self._start_broker()

    def freeze(self) -> None:
        """Stop the broker by SIGSTOP: connections stay open without responses until `thaw()`."""
        freeze(self._process)

    def thaw(self) -> None:
        """Send SIGCONT after `freeze()`."""
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> None:
        """Return when the broker has exited."""
        self._process.wait()

    @property
    def pid(self) -> int:
        """The broker's process id."""
        return self._process.pid

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._broker is None:
            raise StartError("this Kafka is not started: call start() first")
        return self._broker

    def _write_properties(self, directory: Path) -> None:
        data_dir = self._data_dir or directory / "data"
        data_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(data_dir).free
        if free < _MIN_FREE_BYTES:
            has = f"{free // 2**20} MB free at {data_dir}"
            raise StartError(f"no room for Kafka: {has}, 512 needed: free some, or set TMPDIR")
        if not port_is_free(self._port):
            raise StartError(
                f"port {self._port} on {LOOPBACK} is taken: stop the program that uses it, "
                "or choose another port",
            )
        properties = broker_properties(
            listen=LOOPBACK,
            port=self._port,
            controller_port=free_port(),
        )
        properties |= {"log.dirs": str(data_dir)} | dict(self._overrides)
        self.properties = properties
        text = "".join(f"{key}={value}\n" for key, value in properties.items())
        (directory / "server.properties").write_text(text)

    def _java(self, class_name: str, *args: str) -> tuple[subprocess.Popen[bytes], Path]:
        if self._children is None:
            raise StartError("this Kafka is not started: call start() first")
        jars = class_path(BROKER_JARS, self._progress)
        archive = self.class_archive
        options = (
            [f"-XX:SharedArchiveFile={archive}"] if archive is not None and archive.exists() else []
        )
        argv = [
            find_java(),
            f"-Xmx{self._heap_mb}m",
            *JVM,
            *options,
            "-cp",
            jars,
            class_name,
            *args,
        ]
        log = self._children.directory / "kafka.log"
        return self._children.spawn(argv, log=log), log

    def _format(self) -> None:
        cluster_id = self._formatted_id() or self._cluster_id or new_cluster_id()
        options = ["--ignore-formatted", f"--cluster-id={cluster_id}", "--config=server.properties"]
        tool, log = self._java("kafka.tools.StorageTool", "format", *options, *self._format_options)
        if tool.wait(self._start_timeout_s) != 0:
            raise StartError(f"Kafka cannot format its storage: {last_words(log)}")

    def _formatted_id(self) -> str | None:
        """The cluster id of existing data, which the broker must keep."""
        properties = Path(self.properties["log.dirs"]) / "meta.properties"
        lines = properties.read_text().splitlines() if properties.exists() else []
        return next(
            (line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id=")),
            None,
        )

    def _start_broker(self) -> None:
        self._broker, log = self._java("kafka.Kafka", "server.properties")
        timeout_s = self._start_timeout_s
        wait_for_answer(
            "Kafka",
            self._broker,
            lambda: broker_answers(self._port),
            log=log,
            timeout_s=timeout_s,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.start)
        except asyncio.CancelledError:
            await asyncio.to_thread(self.stop)  # makes the next step of the starting thread fail
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)


@contextmanager
def kafka_for(progress: Report) -> Iterator[Broker]:
    """Yield the user's own broker if KAFKA_BOOTSTRAP names one, else a `LocalKafka`.

    Raises StartError.

    Topics on the user's broker remain, so use a namespace from `unused`.
    """
    named = bootstrap_from_environment()
    if named is None:
        with LocalKafka(progress=progress) as kafka:
            yield kafka
    else:
        _require_listener(named)
        yield Broker(named)


def new_cluster_id() -> str:
    """Return a cluster id as Kafka makes it: 22 characters."""
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def unused(name: str) -> str:
    """Return a namespace that no run has used, such as "demo-3f9a1c."."""
    return f"{name}-{uuid.uuid4().hex[:6]}."


def broker_answers(port: int) -> bool:
    """True if the broker answers a Metadata request (version 4, no topics) and lists itself."""
    request = struct.pack(">hhih", 3, 4, 1, -1) + struct.pack(">i?", 0, False)
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = connection.makefile("rb").read(16)
    except OSError:
        return False
    # The four numbers are size, correlation, throttle and brokers.
    return len(head) == 16 and struct.unpack(">iiii", head)[3] > 0


def _require_listener(bootstrap: str) -> None:
    """Raise StartError unless one of the addresses accepts a connection within 5 s.

    `bootstrap` has the form "host:port[,host:port]".
    """
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, ValueError):
            continue
        return
    raise StartError(
        f"KAFKA_BOOTSTRAP={bootstrap} does not answer: start that broker, or unset it to use pip's",
    )


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stream_app.dev.kafka", description=__doc__)
    parser.add_argument("--port", type=int, help="port on loopback (default: a free one)")
    port = parser.parse_args().port
    if port is not None and not 1 <= port <= 65_535:
        parser.error(f"--port {port}: must be from 1 to 65535")
    notes = Console(stderr=True)
    try:
        with LocalKafka(port=port, progress=notes.print) as kafka:
            Console().print(kafka.bootstrap)
            kafka.wait()
    except StartError as error:
        notes.print(f"[red]{error}[/red]")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    _main()
