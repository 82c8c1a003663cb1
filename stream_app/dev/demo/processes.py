"""The demo's processes: Kafka, the simulated Clay, worker, replay, gateway and board.

All end with the demo.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from attrs import define, field

from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.demo.doors import Door
from stream_app.dev.kafka import LocalKafka, unused
from stream_app.dev.kafka_tools import KAFKA_VERSION
from stream_app.dev.process import LOOPBACK, ChildProcesses, StartError, end, free_port, last_words
from stream_app.domain.model.errors import StreamAppError
from stream_app.kafka.topics import create_topics
from stream_app.tasks import cancel

WORKSPACES: Final = ("alder", "birch")
SMALL: Final = "cedar"
"""The workspace whose budget is soon used up. Only a demo that stays up has it."""
APPS: Final = ("worker", "replay", "gateway", "board")
_READY_WITHIN_S: Final = 120.0
_STOP_WITHIN_S: Final = 60.0
_REMOVE_WITHIN_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.2
_PATIENCE_S: Final = 5.0

_CONFIG: Final = """
[kafka]
bootstrap = "{bootstrap}"
namespace = "{namespace}"
partitions = 2
replication = 1
session_timeout_s = 10

[delivery]
max_attempts = 1               # so that the demo has dead letters to show
request_timeout_s = 7
max_request_start_age_s = 2
uncertain_grace_s = 10

[replay]
backoff_base_s = 1
backoff_cap_s = 3
tiers_s = [1, 3, 10]

[http]
worker_port = {worker_port}
replay_port = {replay_port}
gateway_port = {gateway_port}
gateway_ops_port = {gateway_ops_port}
board_port = {board_port}
board_ops_port = {board_ops_port}

[gateway]
public_url = "http://{host}:{gateway_port}"
token_keys_env = ["DEMO_CALLBACK_KEY"]

[board]
read_model_path = "{directory}/model.sqlite"
operator_token_env = "DEMO_OPERATOR_TOKEN"
banner = "demo"

[workspace_defaults.budget]
credits_per_day = 5_000
"""
_LANE: Final = """
[workspaces.{name}]
partition = {partition}
{workspace}
[destinations.{name}-people]
workspace = "{name}"
{destination}
callback_deadline_s = 30
callback_grace_s = 15
allowed_hosts = ["{host}"]
"""
_SMALL_BUDGET: Final = """
[workspaces.{name}.budget]
credits_per_day = 60
"""
_SCRIPT: Final = """
seed = 7
[table.latency]                # Clay takes minutes, the demo has none
min_s = 0.5
median_s = 1.5
p95_s = 4
slow_s = 8

[table.callback]
run_if = "always"

[table.callback.body]
lead_id = "{{lead_id}}"
credits = "{{clay_credits}}"
work_email = "{{work_email}}"
job_title = "{{job_title}}"

[[table.columns]]
name = "work_email"
credits = 4
miss_share = 0.25
error_share = 0.03
values = ["{{first_name}}.{{last_name}}@{{domain}}"]

[[table.columns]]
name = "job_title"
credits = 2
miss_share = 0.25
values = ["Head of Sales", "CTO", "Buyer", "Founder"]
"""


@define(eq=False, repr=False)
class DemoProcesses:
    """The running processes.

    Attributes:
        settings: Their configuration, and `config` its file.
        control: The address of the simulated Clay's control API.
        door: How the leads reach Clay.
    """

    _children: ChildProcesses
    settings: Settings
    config: Path
    _session: aiohttp.ClientSession
    control: str
    door: Door
    _apps: dict[str, tuple[subprocess.Popen[bytes], Path]] = field(init=False, factory=dict)

    def start_apps(self) -> None:
        """Start worker, replay, gateway and board as `stream-app` commands."""
        for name in APPS:
            log = self._children.directory / f"{name}.log"
            argv = [
                sys.executable,
                "-m",
                "stream_app",
                name,
                "--config",
                str(self.config),
                "--log",
                "json",
            ]
            self._apps[name] = self._children.spawn(argv, log=log), log

    @property
    def operator_token(self) -> str:
        """The token with which a person may act on the board."""
        return os.environ["DEMO_OPERATOR_TOKEN"]

    async def ready(self) -> None:
        """Return when all of them are ready. Raises StartError."""
        http = self.settings.http
        deadline = time.monotonic() + _READY_WITHIN_S
        ports = (http.worker_port, http.replay_port, http.gateway_ops_port, http.board_ops_port)
        for name, port in zip(APPS, ports, strict=True):
            while not await self._is_ready(port):
                self.check()
                if time.monotonic() > deadline:
                    raise StartError(
                        (
                            f"{name} is not ready after {_READY_WITHIN_S:.0f} s: "
                            f"{last_words(self._apps[name][1])}"
                        ),
                    )
                await asyncio.sleep(0.1)

    def check(self) -> None:
        """Raise StartError if one of them has exited."""
        for name, (process, log) in self._apps.items():
            if process.poll() is not None:
                raise StartError(f"{name} exited with code {process.returncode}: {last_words(log)}")

    async def stop_apps(self) -> dict[str, int]:
        """Stop them with SIGTERM, as a supervisor would. Returns their exit codes."""
        processes = {name: process for name, (process, _) in self._apps.items()}
        await asyncio.gather(
            *(
                asyncio.to_thread(end, process, grace_s=_STOP_WITHIN_S)
                for process in processes.values()
            ),
        )
        return {name: process.returncode for name, process in processes.items()}

    async def fault(self, **fault: Any) -> None:
        """Add a fault to the simulated Clay; `stream-app sim --help` lists them."""
        async with self._session.post(f"{self.control}/control/faults", json=fault) as answer:
            answer.raise_for_status()

    async def announce_runs(self) -> None:
        """Let the simulated Clay tell the gateway of each run that has finished."""
        gateway = f"http://{LOOPBACK}:{self.settings.http.gateway_port}"
        for number, destination in enumerate(self.settings.destinations.values()):
            webhook = {
                "id": destination.run_webhook,
                "url": f"{gateway}/callbacks/{destination.workspace}/{destination.alias}/run",
                "secret": os.environ[f"DEMO_RUN_HOOK_{number}"],
            }
            async with self._session.post(
                f"{self.control}/control/completion-webhooks",
                json=webhook,
            ) as answer:
                answer.raise_for_status()

    async def mend(self, kind: str) -> None:
        """End the faults of a kind."""
        async with self._session.delete(
            f"{self.control}/control/faults",
            params={"kind": kind},
        ) as answer:
            answer.raise_for_status()

    async def ledger(self) -> list[dict[str, Any]]:
        """Return the lines of the simulated Clay's ledger."""
        async with self._session.get(f"{self.control}/ledger") as answer:
            answer.raise_for_status()
            return [json.loads(line) for line in (await answer.text()).splitlines()]

    async def _is_ready(self, port: int) -> bool:
        try:
            async with self._session.get(f"http://{LOOPBACK}:{port}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def patience(say: Callable[[str], None], what: str) -> AsyncIterator[None]:
    """Say every few seconds that something takes long.

    Nobody then takes a busy machine for a stopped program.
    """
    began_s = time.monotonic()

    async def repeat() -> None:
        while True:
            await asyncio.sleep(_PATIENCE_S)
            say(
                (
                    f"{what}, after {time.monotonic() - began_s:.0f} s: "
                    "a busy machine takes up to a minute."
                ),
            )

    saying = asyncio.create_task(repeat())
    try:
        yield
    finally:
        await cancel([saying])


@asynccontextmanager
async def running(
    bootstrap: str | None,
    say: Callable[[str], None],
    *,
    keep: bool,
    door: Door,
) -> AsyncIterator[DemoProcesses]:
    """Start everything, without waiting until the processes are ready.

    Raises StartError and StreamAppError.

    Args:
        bootstrap: The user's broker. The demo's topics are removed from it at the end. None: start
            one.
        say: Called with a line for each step.
        keep: Add the workspace with the small budget.
        door: How the leads reach Clay.
    """
    names = (*WORKSPACES, SMALL) if keep else WORKSPACES
    async with AsyncExitStack() as stack:
        children = ChildProcesses("stream-app-demo")
        stack.callback(children.close)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)),
        )
        say(
            "Starting a simulated Clay: it limits, charges, "
            f"fails and {door.answers} like the real one, only sooner, and writes down every "
            "request.",
        )
        _make_secrets(names)
        url, control = await _simulator(children, names, door)
        given = bootstrap
        if bootstrap is None:
            say(f"Starting a real Apache Kafka {KAFKA_VERSION} on this machine.")
            async with patience(say, "Kafka still starts"):
                bootstrap = (await stack.enter_async_context(LocalKafka(progress=say))).bootstrap
            namespace = "demo."
        else:
            say(
                f"Using your Kafka at {bootstrap}; "
                "the demo's topics are removed from it at the end.",
            )
            namespace = unused("demo")
        settings, config = _settings(children.directory, bootstrap, url, namespace, names, door)
        if given is not None:
            stack.push_async_callback(_remove_topics, settings, say)
        async with patience(say, "Kafka still makes the topics"):
            wait_s = settings.kafka.broker_wait_s
            report = await create_topics(
                connection_of(settings),
                settings.topic_plan(),
                wait_s,
                say,
            )
        if report.problems:
            raise StreamAppError("\n".join(report.problems))
        processes = DemoProcesses(children, settings, config, session, control, door)
        if door.is_notified:
            await processes.announce_runs()
        processes.start_apps()
        yield processes


def _make_secrets(names: Sequence[str]) -> None:
    """Put the secrets into the environment, which the child processes inherit."""
    os.environ["DEMO_CALLBACK_KEY"] = secrets.token_urlsafe(32)
    os.environ["DEMO_OPERATOR_TOKEN"] = secrets.token_urlsafe(24)
    for number in range(len(names)):
        os.environ[f"DEMO_API_KEY_{number}"] = secrets.token_urlsafe(24)
        os.environ[f"DEMO_RUN_HOOK_{number}"] = f"whsec_{secrets.token_urlsafe(24)}"


async def _simulator(
    children: ChildProcesses,
    names: Sequence[str],
    door: Door,
) -> tuple[str, str]:
    """Start the simulator. Returns its URL, and the URL of its control API."""
    script = children.directory / "sim.toml"
    log = children.directory / "sim.log"
    keys = (
        f'api_keys.{name} = "{os.environ[f"DEMO_API_KEY_{number}"]}"\n'
        for number, name in enumerate(names)
    )
    behind = (door.script.format(name=name) for name in names)
    script.write_text("".join([*keys, door.limits, _SCRIPT, *behind]))
    argv = [sys.executable, "-m", "stream_app", "sim", "--port", "0", "--script", str(script)]
    process = children.spawn([*argv, "--ledger", str(children.directory / "ledger.jsonl")], log=log)
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        for line in log.read_text().splitlines():
            if line.startswith('{"url"'):
                ready = json.loads(line)
                return ready["url"], ready["control_url"]
        if process.poll() is not None or time.monotonic() > deadline:
            raise StartError(f"the simulator does not start: {last_words(log)}")
        await asyncio.sleep(0.05)


def _settings(
    directory: Path,
    bootstrap: str,
    url: str,
    namespace: str,
    names: Sequence[str],
    door: Door,
) -> tuple[Settings, Path]:
    """Write the demo's configuration. Returns the settings and the file."""
    text = _CONFIG.format(
        bootstrap=bootstrap,
        namespace=namespace,
        host=LOOPBACK,
        directory=directory,
        worker_port=free_port(),
        replay_port=free_port(),
        gateway_port=free_port(),
        gateway_ops_port=free_port(),
        board_port=free_port(),
        board_ops_port=free_port(),
    )
    for number, name in enumerate(names):
        text += _LANE.format(
            name=name,
            partition=number % len(WORKSPACES),
            workspace=door.workspace.format(number=number, url=url),
            destination=door.destination.format(number=number, name=name),
            host=LOOPBACK,
        )
        text += _SMALL_BUDGET.format(name=name) if name == SMALL else ""
        os.environ[f"DEMO_WEBHOOK_{number}"] = f"{url}/v3/sources/webhook/{name}--people"
    config = directory / "stream_app.toml"
    config.write_text(text)
    return load_settings(config, os.environ), config


async def _remove_topics(settings: Settings, say: Callable[[str], None]) -> None:
    """Delete the demo's topics, and wait until Kafka lists none of them."""
    names = {topic.name for topic in settings.topic_plan()}
    admin = AIOKafkaAdminClient(**connection_of(settings).settings())
    try:
        async with asyncio.timeout(_REMOVE_WITHIN_S):
            await admin.start()
            while left := names & set(await admin.list_topics()):
                await admin.delete_topics(sorted(left))
                await asyncio.sleep(_LOOK_AGAIN_S)
    except (KafkaError, TimeoutError):
        say(
            "The demo's topics could not be removed: delete those that begin with "
            f"{settings.kafka.namespace}",
        )
    finally:
        await admin.close()
