"""Callbacks of the simulated Clay while Kafka or a gateway is away: what is missing on Kafka?

    python -m tests.e2e.callback_storm                     Kafka is killed, and back after 30 s
    python -m tests.e2e.callback_storm --disturb one       one of two gateways is killed for good
    python -m tests.e2e.callback_storm --disturb only      the only gateway is killed, and starts at
    another address

A real nginx with the product's own configuration, real gateways behind it as processes, a real
Kafka, and `stream-app sim`, whose HTTP column has Clay's defaults: a call is repeated once, at
once, and only after 408, 413, 429 and errors of the connection. `--column` has the other trials:
`well_set` as `clay-setup` advises, and what Clay does not document (`patient`, `impatient`: the
default of the time that it waits; `single`: an answer that takes too long is not repeated).
Everything is killed with -9. A burst comes first, then so many callbacks a second, in whose middle
the disturbance comes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
import msgspec
import psutil
from rich.console import Console

from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import LOOPBACK, ChildProcesses, end, free_port
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.tokens import sign
from stream_app.kafka.topics import create_topics
from tests.support.kafka import read_topic
from tests.support.nginx import Nginx
from tests.support.pace import BUSY

WORKSPACES = 4
KEY = "a key of callback tokens, only for tests"
_ALL_WITHIN_S = 240.0
_HEALTH_WITHIN_S = 5.0
_ELSEWHERE = "127.0.0.2"
_SAMPLED_EVERY_S = 0.5

Disturbance = Literal["kafka", "one", "only"]
Column = Literal["default", "well_set", "patient", "impatient", "single"]
COLUMNS: Final[dict[Column, str]] = {
    "default": "",
    "well_set": "well_set = true",
    "patient": "timeout_s = 99",
    "impatient": "timeout_s = 5",
    "single": "timeout_s = 5\nrepeats_timeouts = false",
}
# The rates are off, so that the burst comes at once.
_SCRIPT: Final = """
callback_concurrency = 100_000
[limits]
rate_per_s = 0
outward_per_s = 0
lifetime = 0
[plan]
credits = 1_000_000
actions = 1_000_000
[table.latency]
scale = 0
[[table.columns]]
name = "title"
values = ["Head of something"]
[table.callback]
run_if = "always"
headers = {{}}
{column}
[table.callback.body]
lead_id = "{{{{lead_id}}}}"
callback_token = "{{{{callback_token}}}}"
email = "{{{{email}}}}"
title = "{{{{title}}}}"
summary = "{{{{summary}}}}"
credits = "{{{{clay_credits}}}}"
"""


@dataclass(frozen=True)
class Plan:
    """`burst` callbacks at once, then `per_s` for `seconds`.

    The disturbance comes in the middle of the second part.
    """

    burst: int = 1_000
    per_s: float = 100.0
    seconds: float = 60.0
    disturb: Disturbance = "kafka"
    away_s: float = 30.0
    column: Column = "default"


@dataclass
class Storm:
    """The outcome. Times are seconds since the epoch.

    Attributes:
        attempts: When each call began and ended, its status or error, and its lead.
        most_mb: What gateways and nginx held together at most.
    """

    sent: int = 0
    acknowledged: set[str] = field(default_factory=set)
    attempts: list[tuple[float, float, int | str, str]] = field(default_factory=list)
    disturbed: tuple[float, float] = (0.0, float("inf"))
    stored: Counter[str] = field(default_factory=Counter)
    most_mb: float = 0.0

    @property
    def lost(self) -> set[str]:
        """Return the callbacks that were acknowledged and are not on Kafka."""
        return self.acknowledged - self.stored.keys()

    @property
    def missing(self) -> set[str]:
        """Return the callbacks that are not on Kafka."""
        return {f"lead-{number}" for number in range(self.sent)} - self.stored.keys()

    @property
    def in_the_gap(self) -> set[str]:
        """Return those of which a call overlaps the time without a gateway."""
        first, last = self.disturbed
        return {lead for began, ended, _, lead in self.attempts if began < last and ended > first}

    def p(self, share: float) -> float:
        """Return the time within which this share of the calls outside the disturbance ended."""
        first, last = self.disturbed
        times = sorted(
            ended - began
            for began, ended, _, _ in self.attempts
            if not (began < last and ended > first)
        )
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


async def storm(plan: Plan) -> Storm:
    """Run one."""
    result = Storm()
    children = ChildProcesses("callback-storm")
    kafka = LocalKafka()
    try:
        await asyncio.to_thread(kafka.start)
        settings = _settings(children, kafka.bootstrap)
        await create_topics(connection_of(settings), settings.topic_plan(), 30, lambda _: None)
        gateways = [_gateway(children, LOOPBACK)]
        if plan.disturb == "one":
            gateways.append(_gateway(children, _ELSEWHERE))
        with Nginx(settings.http.gateway_port) as nginx:
            nginx.names.hosts["gateway"] = (LOOPBACK, _ELSEWHERE)[: len(gateways)]
            await _until_healthy(nginx, len(gateways))
            watching = asyncio.create_task(_watch(result, gateways, nginx))
            async with (
                asyncio.timeout(plan.seconds + _ALL_WITHIN_S),
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            ):
                clay = Clay(settings, nginx.port, result, session)
                await clay.start(children, plan)
                await asyncio.gather(*(clay.take() for _ in range(plan.burst)))
                await clay.until_called_back()
                await _stream(plan, clay, kafka, nginx, gateways, children)
                await clay.until_called_back()
                await clay.read_ledger()
            watching.cancel()
            running = [gateway for gateway in gateways if gateway.poll() is None]
            for gateway in running:
                await asyncio.to_thread(end, gateway, grace_s=20)
        codes = {gateway.returncode for gateway in running}
        assert codes == {0}, (children.directory / "gateway.log").read_text()[-2000:]
        for record in await read_topic(
            kafka.bootstrap,
            settings.names.callbacks,
            settings.kafka.partitions,
        ):
            callback = msgspec.json.decode(record.value, type=Callback)
            result.stored[callback.lead_id] += 1
    finally:
        kafka.stop()
        children.close()
    return result


async def _watch(result: Storm, gateways: list[subprocess.Popen[bytes]], nginx: Nginx) -> None:
    """Note the most memory."""
    while True:
        held = nginx.memory_mb()
        for gateway in gateways:
            with suppress(psutil.NoSuchProcess):
                held += float(psutil.Process(gateway.pid).memory_info().rss) / 1e6
        result.most_mb = max(result.most_mb, held)
        await asyncio.sleep(_SAMPLED_EVERY_S)


async def _stream(
    plan: Plan,
    clay: Clay,
    kafka: LocalKafka,
    nginx: Nginx,
    gateways: list[subprocess.Popen[bytes]],
    children: ChildProcesses,
) -> None:
    """Give Clay each lead at its time, whether or not earlier ones were called back."""
    result = clay.result

    async def disturb() -> None:
        await asyncio.sleep(plan.seconds / 3)
        first = time.time()
        result.disturbed = first, float("inf")
        if plan.disturb == "kafka":
            kafka.kill()
            await asyncio.sleep(plan.away_s)
            await asyncio.to_thread(kafka.restart)
        else:
            gateways[0].kill()
            await asyncio.to_thread(gateways[0].wait, 10 * BUSY)
        if plan.disturb == "only":
            nginx.names.hosts["gateway"] = (_ELSEWHERE,)
            gateways.append(_gateway(children, _ELSEWHERE))
            await _until_healthy(nginx, 1)
        result.disturbed = first, time.time()

    disturbing = asyncio.create_task(disturb())
    began = time.monotonic()
    tasks = []
    for number in range(int(plan.per_s * plan.seconds)):
        await asyncio.sleep(max(0.0, began + number / plan.per_s - time.monotonic()))
        tasks.append(asyncio.create_task(clay.take()))
    await asyncio.gather(*tasks)
    await disturbing


class Clay:
    """The simulated Clay, whose HTTP column calls the gateways through nginx."""

    def __init__(
        self,
        settings: Settings,
        port: int,
        result: Storm,
        session: aiohttp.ClientSession,
    ) -> None:
        self._settings = settings
        self._port = port
        self._session = session
        self._url = ""
        self.result = result

    async def start(self, children: ChildProcesses, plan: Plan) -> None:
        """Start it as a process, and return when it listens."""
        script = children.directory / "sim.toml"
        script.write_text(_SCRIPT.format(column=COLUMNS[plan.column]), encoding="utf-8")
        log = children.directory / "sim.log"
        argv = [sys.executable, "-m", "stream_app", "sim", "--port", "0", "--script", str(script)]
        children.spawn(argv, log=log)
        self._url = await _url_of(log)

    async def take(self) -> None:
        """Give it a lead, which it calls back about at once."""
        number = self.result.sent
        self.result.sent += 1
        workspace = f"w{number % WORKSPACES}"
        lead_id = f"lead-{number}"
        destination = f"{workspace}-crm"
        url = f"http://{LOOPBACK}:{self._port}/callbacks/{workspace}/{destination}"
        lead = {
            "lead_id": lead_id,
            "callback_url": url,
            "callback_token": sign(self._settings.callback_keys, workspace, destination, lead_id),
            "email": f"person{number}@example.com",
            "summary": "Has done this and that, in one place and another. " * 6,
        }
        webhook = f"{self._url}/v3/sources/webhook/{workspace}--crm"
        async with self._session.post(webhook, json=lead) as answer:
            assert answer.status == 200

    async def until_called_back(self) -> None:
        """Return when no row runs and no call is under way."""
        while True:
            async with self._session.get(f"{self._url}/control") as answer:
                state = await answer.json()
            if not state["rows_running"] and not state["callbacks_pending"]:
                return
            await asyncio.sleep(_SAMPLED_EVERY_S)

    async def read_ledger(self) -> None:
        """Note each call that it made."""
        result = self.result
        async with self._session.get(f"{self._url}/ledger?kind=callback") as answer:
            async for text in answer.content:
                line: dict[str, Any] = msgspec.json.decode(text)
                ended = line["at_ms"] / 1_000
                status = line.get("error", line["status"])
                result.attempts.append(
                    (ended - line.get("ms", 0) / 1_000, ended, status, line["lead_id"]),
                )
                if status == 200:
                    result.acknowledged.add(line["lead_id"])


async def _url_of(log: Path) -> str:
    """Return where the simulator listens, when it does."""
    deadline = time.monotonic() + 60 * BUSY
    while True:
        text = await asyncio.to_thread(log.read_text, encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("{"):
                return str(json.loads(line)["url"])
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.05)


async def _status(port: int) -> int:
    """Return the status of the gateway's health through nginx, or 0 if there is none."""
    request = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(_HEALTH_WITHIN_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(request)
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0
    return int(answer[9:12]) if answer else 0


def _settings(children: ChildProcesses, bootstrap: str) -> Settings:
    tables = "".join(
        f"[workspaces.w{number}]\n"
        f'[destinations.w{number}-crm]\nworkspace = "w{number}"\nwebhooks_env = ["NOT_NEEDED"]\n'
        for number in range(WORKSPACES)
    )
    port = free_port()
    config = children.directory / "stream_app.toml"
    config.write_text(
        f"""
[kafka]
bootstrap = "{bootstrap}"
partitions = {WORKSPACES}
replication = 1
[http]
gateway_port = {port}
gateway_ops_port = 0
[gateway]
public_url = "http://127.0.0.1:{port}/"
token_keys_env = ["STORM_KEY"]
{tables}
""",
    )
    return load_settings(config, {"STORM_KEY": KEY}, ("gateway",))


def _gateway(children: ChildProcesses, host: str) -> subprocess.Popen[bytes]:
    os.environ["STORM_KEY"] = KEY  # for the gateway
    text = (children.directory / "stream_app.toml").read_text(encoding="utf-8")
    config = children.directory / f"at-{host}.toml"
    config.write_text(text.replace("[gateway]", f'[gateway]\nhost = "{host}"'), encoding="utf-8")
    argv = [sys.executable, "-m", "stream_app", "gateway", "--config", str(config)]
    return children.spawn(argv, log=children.directory / "gateway.log")


async def _until_healthy(nginx: Nginx, gateways: int) -> None:
    """Return when the gateways answer: so many of them take turns."""
    deadline = time.monotonic() + 60 * BUSY
    good = 0
    while good < 4 * gateways:
        status = await _status(nginx.port)
        good = good + 1 if status == 200 else 0
        assert time.monotonic() < deadline, "the gateway is not healthy"
        await asyncio.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.callback_storm",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument("--burst", type=int, default=Plan.burst)
    parser.add_argument("--per-s", type=float, default=Plan.per_s)
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--away-s", type=float, default=Plan.away_s)
    parser.add_argument("--disturb", choices=("kafka", "one", "only"), default=Plan.disturb)
    parser.add_argument("--column", choices=tuple(COLUMNS), default=Plan.column)
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    result = asyncio.run(storm(Plan(**vars(args))))
    first, last = result.disturbed
    report = {
        "sent": result.sent,
        "acknowledged": len(result.acknowledged),
        "acknowledged_and_lost": len(result.lost),
        "missing": len(result.missing),
        "missing_outside_the_gap": len(result.missing - result.in_the_gap),
        "on_kafka_twice": sum(count > 1 for count in result.stored.values()),
        "answers": Counter(str(status) for _, _, status, _ in result.attempts),
        "disturbed_s": round(last - first, 2),
        "outside_p50_s": round(result.p(0.5), 4),
        "outside_p99_s": round(result.p(0.99), 4),
        "memory_mb": round(result.most_mb),
    }
    Console().print_json(data=report)
    allowed = result.in_the_gap if args.disturb == "only" else set[str]()
    return 1 if result.lost or result.missing - allowed else 0


if __name__ == "__main__":
    sys.exit(main())
