"""The whole system as real processes in a namespace of its own, checked from outside: topics and
Clay's ledger.
"""

import asyncio
import json
import os
import sys
import time
import tomllib
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiokafka import TopicPartition

from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.process import ChildProcesses, free_port
from stream_app.dev.simulator.routines import API
from stream_app.domain.delivery.state_machine import delivery_key, item_id
from stream_app.domain.model.messages import Lead, Scalar, Status, StatusEvent
from stream_app.domain.model.records import Record
from stream_app.kafka.connection import kafka_producer
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.topics import create_topics
from tests.e2e.member import Member
from tests.support.commands import fork_process, run_command
from tests.support.kafka import read_topic
from tests.support.legal import follows
from tests.support.pace import BUSY

_events = msgspec.json.Decoder(StatusEvent)
FAST_SIM = """
seed = {seed}
[limits]
rate_per_s = 0
api_per_minute = 0
outward_per_s = 0
lifetime = 0
[table.latency]
scale = 0.001
"""
CALLBACK = """
[table.callback]
run_if = "always"
"""
"""A table that calls back for each row, with the defaults of Clay's column: a call that meets no
gateway is lost. Await `receives` before the first lead.
"""
_API: Final = "<the Public API of the simulator>"
"""Stands in the configuration until the simulator has a port."""
_GATEWAY: Final = """
[gateway]
public_url = "http://127.0.0.1:{port}"
token_keys_env = ["CALLBACK_KEY"]
"""
_ROUTINE: Final = """
[routines."function:t_{name}"]
workspace = "{name}"
{settings}
"""
_COMPLETION_WEBHOOK: Final = """
[completion_webhooks.wh_{name}]
url = "http://127.0.0.1:{port}/callbacks/{name}/{name}-crm/run"
secret = "whsec_{name}"
"""
_BEYOND_ALL_LINES: Final = 10**12
READS: Final = "a token that reads the boards of one pipeline"
_ENOUGH: Final = 1_000_000_000
"""Credits a month: more than any test spends. A worker sends for no workspace without a cap, and
earlier versions know this key.
"""
OVER: frozenset[Status] = frozenset(
    {
        "accepted",
        "rejected_invalid",
        "duplicate",
        "parked",
        "expired",
        "suppressed",
        "rerouted",
        "replaced",
        "without_value",
    },
)
"""Where a history of a destination without callbacks may rest (a rerouted one goes on elsewhere).
"""
ANSWERED: frozenset[Status] = frozenset({"enriched", "partial", "no_data", "enrich_error"})
"""Where one of a destination with callbacks rests as soon as Clay has called back."""


class Pipeline:
    """`async with Pipeline(...) as line:` starts the simulator and creates the topics.

    The test starts the workers.
    """

    def __init__(
        self,
        bootstrap: str,
        namespace: str,
        workspaces: int = 2,
        *,
        config: str = "",
        lane: str = "",
        script: str = "",
        partitions: int = 4,
        pinned: bool = True,
        callbacks: bool = False,
        uncertain: str = "park",
        workspace: str = "",
        destination: str = "",
        board: str = "",
        rate_per_s: int = 1000,
        burst: int | None = None,
        replication: int = 1,
        session_timeout_s: int = 6,
        pool: tuple[str, ...] = ("/v3/sources/webhook/{name}--crm",),
        routines: Sequence[str] = (),
        notified: Sequence[str] = (),
        poll_after_s: Sequence[float] = (1, 2, 4, 8),
        routine: str = "",
        public: bool = True,
        more: Sequence[str] = (),
    ) -> None:
        """Take what the configuration has.

        Args:
            routines: The workspaces whose destination is a routine instead of a webhook.
            notified: Those of them that have a completion webhook.
            poll_after_s: When the results of a run are asked for.
            routine: Settings of every routine in the simulator's script.
            public: Clay can call the gateway.
            more: The workspaces that have a second destination with a webhook, NAME-more, and a
                key of the Public API.
        """
        self.children = ChildProcesses("pipeline")
        self.directory = self.children.directory
        self.histories: dict[str, list[StatusEvent]] = defaultdict(list)
        self._lead_of_item: dict[str, str] = {}
        self.names = [f"w{number}" for number in range(workspaces)]
        self._config = self.directory / "stream_app.toml"
        self._ledger = self.directory / "ledger.jsonl"
        self._script = script
        self.routines = routines
        self._pool = pool
        self._follower: asyncio.Task[None] | None = None
        self.bootstrap = bootstrap
        self._logs: list[Path] = []
        self.started: list[Member] = []
        # Called in each command before it does anything.
        self.change_commands: Callable[[], object] | None = None
        self.gateway_port = free_port()
        self.board_port = free_port()
        keyed = [*routines, *more]
        if keyed:
            self._script += "\n[api_keys]\n"
        for name in keyed:
            self._script += f'{name} = "key-{name}"\n'
        for name in routines:
            self._script += _ROUTINE.format(name=name, settings=routine)
        for name in notified:
            self._script += _COMPLETION_WEBHOOK.format(name=name, port=self.gateway_port)
        pin = "partition = {number}" if pinned else ""
        lanes = "".join(
            f"""
[workspaces.{name}]
{pin.format(number=number % partitions)}
{_key_of(number) if name in keyed else ""}
{workspace}
[workspaces.{name}.rate]
rate_per_s = {rate_per_s}
burst = {burst or rate_per_s}
{lane.format(name=name)}
[destinations.{name}-crm]
workspace = "{name}"
{
                _run_by(number, name, poll_after_s, is_notified=name in notified)
                if name in routines
                else _posted_to(number, pool, callbacks=callbacks)
            }
uncertain = "{uncertain}"
{destination}
allowed_hosts = ["127.0.0.1"]
"""
            for number, name in enumerate(self.names)
        )
        lanes += "".join(
            f"""
[destinations.{name}-more]
workspace = "{name}"
webhooks_env = ["{_variable(self.names.index(name), 0, "MORE_WEBHOOK")}"]
callbacks = {str(callbacks).lower()}
uncertain = "{uncertain}"
{destination}
allowed_hosts = ["127.0.0.1"]
"""
            for name in more
        )
        self._toml = f"""
{config}
[kafka]
bootstrap = "{bootstrap}"
namespace = "{namespace}"
partitions = {partitions}
replication = {replication}
session_timeout_s = {session_timeout_s}
broker_wait_s = 120
{_GATEWAY.format(port=self.gateway_port) if public else ""}
[board]
url = "http://127.0.0.1:{self.board_port}"
read_model_path = "{self.directory}/model.sqlite"
{board}
{lanes}
"""
        limited = tomllib.loads(self._toml)["workspaces"]
        self._toml += "".join(
            f"[workspaces.{name}.budget]\ncredits_per_month = {_ENOUGH}\n"
            for name in self.names
            if "budget" not in limited[name]
        )

    # ------------------------------------------------------------------------------- start and stop

    async def __aenter__(self) -> Self:
        try:
            script = self.directory / "sim.toml"
            script.write_text(FAST_SIM.format(seed=1) + self._script)
            argv = [
                "sim",
                "--port",
                "0",
                "--script",
                str(script),
                "--ledger",
                str(self._ledger),
            ]
            log = self._log("sim")
            fork_process(self.children, argv, log)
            ready = await self._first_json(log)
            self._control = ready["control_url"]
            self.environment = {
                _variable(number, place): ready["url"] + path.format(name=name)
                for number, name in enumerate(self.names)
                for place, path in enumerate(self._pool)
            }
            self.environment["CALLBACK_KEY"] = "a key of callback tokens, only for tests"
            for number, name in enumerate(self.names):
                second = f"{ready['url']}/v3/sources/webhook/{name}--more"
                self.environment[_variable(number, 0, "MORE_WEBHOOK")] = second
                self.environment[_variable(number, 0, "API_KEY")] = f"key-{name}"
                self.environment[_variable(number, 0, "RUN_HOOK")] = f"whsec_{name}"
            self._toml = self._toml.replace(_API, ready["url"] + API)
            # for the children; each pipeline sets all that it names
            os.environ.update(self.environment)
            self.settings = self._settings()
            await create_topics(
                connection_of(self.settings),
                self.settings.topic_plan(),
                30 * BUSY,
                lambda _: None,
            )
            self._follower = asyncio.create_task(self._follow())
        except BaseException:
            self.children.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        try:
            if error is not None:
                for log in self._logs:
                    sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}\n")
            else:
                self.check_logs()
        finally:
            await asyncio.to_thread(self.children.close)

    def start(
        self,
        command: str,
        *,
        bootstrap: str = "",
        program: Sequence[str] = (),
        change: Callable[[], object] | None = None,
    ) -> Member:
        """Start `stream-app worker`, `replay`, `gateway` or `board` as a process with ports of its
        own.

        bootstrap: another address of the same broker. program: another version, which takes the
            same arguments.
        change: called in the process before it does anything.
        """
        number = len(self._logs)
        config = self.directory / f"{command}-{number}.toml"
        toml = self._toml.replace(self.bootstrap, bootstrap or self.bootstrap)
        toml = toml.replace("model.sqlite", f"model-{number}.sqlite")
        # Boards have models of their own. Commands look beside the one of the configuration.
        for model in ("model", f"model-{number}"):
            (self.directory / f"{model}.token").write_text(READS)
        port = free_port()
        own = f"{command}_ops_port" if command in ("gateway", "board") else f"{command}_port"
        ports = {own: port, "gateway_port": self.gateway_port, "board_port": self.board_port}
        config.write_text(
            f"{toml}\n[http]\n" + "".join(f"{name} = {value}\n" for name, value in ports.items()),
        )
        argv = [command, "--config", str(config)]
        log = self._log(f"{command}-{number}")
        if program:
            process = self.children.spawn([sys.executable, *program, *argv], log=log)
        else:
            process = fork_process(self.children, argv, log, change)
        self.started.append(Member(process, port, log))
        return self.started[-1]

    async def ready(self, *members: Member) -> None:
        """Wait until all of these are ready."""
        for member in members:
            await member.joined(60)

    async def receives(self) -> None:
        """Wait until a gateway takes callbacks."""

        def ask() -> None:
            address = f"http://127.0.0.1:{self.gateway_port}/healthz"
            with urllib.request.urlopen(address, timeout=10):
                pass

        async with asyncio.timeout(60 * BUSY):
            while True:
                with suppress(OSError):
                    await asyncio.to_thread(ask)
                    return
                await asyncio.sleep(0.2)

    async def report_again(self) -> None:
        """Have each table run its HTTP column again for rows whose cell has no 2xx.

        It is what a person does in Clay after callbacks met no gateway.
        """
        state = await asyncio.to_thread(self.control, "GET", "/control")
        for slug in state["webhooks"]:
            order = {"webhook": slug, "which": "unreported"}
            await asyncio.to_thread(self.control, "POST", "/control/rerun", order)

    async def run(self, *argv: str) -> tuple[int, str]:
        """Run a command of the CLI. Return its exit code and its output."""
        words = [argv[0], "--config", str(self._config), *argv[1:]]
        return await asyncio.to_thread(
            run_command,
            words,
            self.directory,
            110 * BUSY,
            self.change_commands,
        )

    async def done(self, *argv: str) -> str:
        """Run a command that succeeds. Return its output."""
        code, output = await self.run(*argv)
        assert code == 0, output
        return output

    async def ask(self, *argv: str) -> tuple[int, Any]:
        """Run a command with --json.

        Return its exit code and its document. Its progress may stand around that.
        """
        code, output = await self.run(*argv, "--json")
        assert "{" in output, output
        return code, json.JSONDecoder().raw_decode(output[output.index("{") :])[0]

    async def books_balance(self) -> dict[str, Any]:
        """Check that the books balance, and return them."""
        code, books = await self.ask("books")
        assert code == 0, books
        return dict(books)

    async def end_balanced(self, *members: Member) -> None:
        """Stop these processes in this order. They must end well, and the books balance."""
        for member in members:
            assert await member.stop() == 0
        await self.books_balance()

    # ----------------------------------------------------------------------------------- in and out

    async def publish(self, records: Iterable[Record]) -> None:
        """Write raw records, each to the partition that it names."""
        producer = kafka_producer(
            bootstrap_servers=self.bootstrap,
            enable_idempotence=True,
            max_request_size=4 * 2**20,
        )
        await producer.start()
        try:
            for record in records:
                await producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                )
        finally:
            await producer.stop()

    def lead(self, number: int, workspace: str, **changes: Any) -> Record:
        """Return a good lead as a record of `leads`, in its home partition."""
        fields: dict[str, Scalar] = {
            "email": f"person{number}@example.com",
            "first_name": "Ada",
            "last_name": f"Example {number}",
        }
        lead = Lead(fields, lead_id=f"lead-{number}", workspace=workspace)
        value = msgspec.json.encode(msgspec.structs.replace(lead, **changes))
        return Record(
            self.settings.names.leads,
            workspace.encode(),
            value,
            (),
            self.settings.home(workspace),
        )

    def leads(self, count: int) -> list[Record]:
        """Return good leads, one workspace after the other."""
        return [self.lead(number, self.names[number % len(self.names)]) for number in range(count)]

    async def until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for the condition.

        Raises AssertionError with the statuses that were seen, and with the state of each process.
        """
        deadline = time.monotonic() + timeout_s * BUSY
        while not done():
            if time.monotonic() > deadline:
                described = [await asyncio.to_thread(member.describe) for member in self.started]
                raise AssertionError(
                    "\n  ".join(
                        [
                            f"{what}: not within {timeout_s * BUSY} s; seen {dict(self.last())}",
                            *described,
                        ],
                    ),
                )
            if self._follower is not None and self._follower.done():
                self._follower.result()
            await asyncio.sleep(0.05)

    async def until_over(self, count: int, timeout_s: float) -> None:
        """Wait until this many histories are finished."""
        await self.until(
            lambda: (
                sum(history[-1].status in OVER for history in list(self.histories.values()))
                >= count
            ),
            timeout_s,
            f"{count} histories at rest",
        )

    async def until_last(self, counts: Mapping[str, int], timeout_s: float) -> None:
        """Wait until so many histories end with each of these statuses, and none with another."""
        await self.until(lambda: self.last() == counts, timeout_s, f"{dict(counts)}")

    def last(self) -> Counter[str]:
        """Count the histories by their last status."""
        return Counter(history[-1].status for history in list(self.histories.values()))

    def summary(self) -> dict[str, Any]:
        """Return the simulator's own account. `leads` has how many rows it made of each lead."""
        with urllib.request.urlopen(
            f"{self._control}/ledger/summary?leads=all",
            timeout=30 * BUSY,
        ) as answer:
            return dict(json.load(answer))

    def ledger_file(self) -> Path:
        """Return the file of the simulator's ledger, complete up to now.

        The simulator answers before it writes its lines to the file, and collects them for 50 ms.
        Where it is asked for lines over HTTP, it writes all of them first. So the file has every
        request that was answered before this call, and a request that it lacks was not made.
        """
        with urllib.request.urlopen(
            f"{self._control}/ledger?since={_BEYOND_ALL_LINES}",
            timeout=30 * BUSY,
        ) as answer:
            answer.read()
        return self._ledger

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Send a control request to the simulator; see `stream-app sim --help`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._control}{path}", data, method=method)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=30 * BUSY) as answer:
            return json.load(answer)

    async def read(self, topic: str) -> list[Any]:
        """Return all committed records of a topic."""
        return await read_topic(
            self.bootstrap,
            topic,
            self.settings.kafka.partitions,
            self.settings.names.inputs,
        )

    # --------------------------------------------------------------------------------------- checks

    def check_histories(self) -> None:
        """Check that the events of each input are a legal path, in sequence, each once."""
        for origin, history in self.histories.items():
            assert [event.seq for event in history] == list(range(1, len(history) + 1)), (
                origin,
                history,
            )
            before: Status | None = None
            for event in history:
                assert follows(before, event.status), (origin, [step.status for step in history])
                before = event.status

    def check_logs(self) -> None:
        """Check that no process wrote an address of its leads to its log."""
        for member in self.started:
            assert not [line for line in member.output() if "@example.com" in line], member.log.name

    def lead_of(self, name: str) -> str:
        """Return the lead that the ledger means: of a run it has the id of the lead's item."""
        return self._lead_of_item.get(name, name)

    # ------------------------------------------------------------------------------------ internals

    def _names_item(self, event: StatusEvent) -> None:
        """Take which item of a run a lead is. A forced one is an item of its own."""
        for forced_origin in ("", event.origin):
            key = delivery_key(event.workspace, event.destination, event.lead_id, forced_origin)
            self._lead_of_item[item_id(key)] = event.lead_id

    def _settings(self) -> Settings:
        self._config.write_text(self._toml)
        return load_settings(self._config, os.environ)

    def _log(self, name: str) -> Path:
        log = self.directory / f"{name}.log"
        self._logs.append(log)
        return log

    async def _first_json(self, log: Path) -> dict[str, str]:
        deadline = time.monotonic() + 20 * BUSY
        while time.monotonic() < deadline:
            for line in await asyncio.to_thread(_lines, log):
                if line.startswith("{"):
                    return dict(json.loads(line))
            await asyncio.sleep(0.05)
        raise AssertionError(f"the simulator did not start: {await asyncio.to_thread(_lines, log)}")

    async def _follow(self) -> None:
        consumer = Consumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            topic = self.settings.names.status
            consumer.assign(
                [TopicPartition(topic, number) for number in range(self.settings.kafka.partitions)],
            )
            await consumer.seek_to_beginning()
            while True:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        event = _events.decode(record.value)
                        assert record.key == event.lead_id.encode(), event
                        if event.status == "sending":
                            self._names_item(event)
                        history = self.histories[event.origin]
                        # The first event of a rerouted lead is in the partition in which the lead
                        # arrived, all others are in its home.
                        history.insert(0 if event.status == "rerouted" else len(history), event)
        finally:
            await consumer.stop()


def _variable(number: int, place: int, of: str = "WEBHOOK") -> str:
    """Return the variable with a secret of a workspace: of a webhook, by its place in the pool."""
    return f"{of}_{number}" + (f"_{place}" if place else "")


def _posted_to(number: int, pool: Sequence[str], *, callbacks: bool) -> str:
    """Return the settings of a destination with webhooks."""
    named = ", ".join(f'"{_variable(number, place)}"' for place in range(len(pool)))
    return f"webhooks_env = [{named}]\ncallbacks = {str(callbacks).lower()}"


def _key_of(number: int) -> str:
    """Return the settings of a workspace that has a key of the Public API."""
    return f'api_key_env = "{_variable(number, 0, "API_KEY")}"\napi_url = "{_API}"'


def _run_by(
    number: int,
    name: str,
    poll_after_s: Sequence[float],
    *,
    is_notified: bool,
) -> str:
    """Return the settings of a destination that is a routine."""
    text = f'routine = "function:t_{name}"\npoll_after_s = {list(poll_after_s)}'
    if is_notified:
        secret = _variable(number, 0, "RUN_HOOK")
        text += f'\nrun_webhook = "wh_{name}"\nrun_webhook_secret_env = "{secret}"'
    return text


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []
