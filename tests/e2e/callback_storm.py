"""Callbacks of a Clay table as it is by default, while Kafka or a gateway is away: what is missing
on Kafka afterwards?

    python -m tests.e2e.callback_storm                     Kafka is killed, and back after 30 s
    python -m tests.e2e.callback_storm --disturb one       one of two gateways is killed for good
    python -m tests.e2e.callback_storm --disturb only      the only gateway is killed, and starts at
    another address

A real nginx with the product's own configuration, real gateways behind it as processes, a real
Kafka. The senders are HTTP columns of Clay with their defaults: a call is repeated once, at once,
and only after 408, 413, 429 and errors of the connection. Everything is killed with -9. A burst
comes first, then so many callbacks a second, in whose middle the disturbance comes.
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
from typing import Literal

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
from tests.e2e.pipeline import read_topic
from tests.support.nginx import Nginx
from tests.support.pace import BUSY

WORKSPACES = 4
KEY = "a key of callback tokens, only for tests"
_REPEATED = {408, 413, 429, 0}
_COLUMN_WAITS_S = 95.0
_ALL_WITHIN_S = 240.0
_ELSEWHERE = "127.0.0.2"
_SAMPLED_EVERY_S = 0.5

Disturbance = Literal["kafka", "one", "only"]


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


@dataclass
class Storm:
    """The outcome. Times are seconds on one monotonic clock.

    Attributes:
        attempts: When each call began and ended, its status (0: none), and its lead.
        most_mb: What gateways and nginx held together at most.
    """

    sent: int = 0
    acknowledged: set[str] = field(default_factory=set)
    attempts: list[tuple[float, float, int, str]] = field(default_factory=list)
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
            senders = Senders(settings, nginx.port, result)
            async with asyncio.timeout(plan.seconds + _ALL_WITHIN_S):
                await asyncio.gather(*(senders.deliver() for _ in range(plan.burst)))
                await _stream(plan, senders, kafka, nginx, gateways, children)
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
    senders: Senders,
    kafka: LocalKafka,
    nginx: Nginx,
    gateways: list[subprocess.Popen[bytes]],
    children: ChildProcesses,
) -> None:
    """Send each callback at its time, whether or not earlier ones were answered."""
    result = senders.result

    async def disturb() -> None:
        await asyncio.sleep(plan.seconds / 3)
        first = time.monotonic()
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
        result.disturbed = first, time.monotonic()

    disturbing = asyncio.create_task(disturb())
    began = time.monotonic()
    tasks = []
    for number in range(int(plan.per_s * plan.seconds)):
        await asyncio.sleep(max(0.0, began + number / plan.per_s - time.monotonic()))
        tasks.append(asyncio.create_task(senders.deliver()))
    await asyncio.gather(*tasks)
    await disturbing


class Senders:
    """HTTP columns of Clay with their defaults."""

    def __init__(self, settings: Settings, port: int, result: Storm) -> None:
        self._settings = settings
        self._port = port
        self.result = result

    async def deliver(self) -> None:
        """Send one callback, and once more at once where the column does so."""
        result = self.result
        number = self.result.sent
        result.sent += 1
        workspace = f"w{number % WORKSPACES}"
        lead_id = f"lead-{number}"
        destination = f"{workspace}-crm"
        body = {
            "lead_id": lead_id,
            "callback_token": sign(self._settings.callback_keys, workspace, destination, lead_id),
            "email": f"person{number}@example.com",
            "title": "Head of something",
            "summary": "Has done this and that, in one place and another. " * 6,
            "credits": "7",
        }
        request = _request(
            "POST",
            f"/callbacks/{workspace}/{destination}",
            json.dumps(body).encode(),
        )
        for _ in range(2):
            began = time.monotonic()
            status = await _status(self._port, request)
            result.attempts.append((began, time.monotonic(), status, lead_id))
            if status == 200:
                result.acknowledged.add(lead_id)
            if status not in _REPEATED:
                return


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: gateway",
        "content-type: application/json",
        "connection: close",
    ]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


async def _status(port: int, request: bytes) -> int:
    """Return the status of the answer, or 0 if there is none.

    Without a library, whose time would be measured too.
    """
    try:
        async with asyncio.timeout(_COLUMN_WAITS_S):
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
        status = await _status(nginx.port, _request("GET", "/healthz"))
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
        "answers": dict(sorted(Counter(status for _, _, status, _ in result.attempts).items())),
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
