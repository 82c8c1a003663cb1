"""Callbacks in a burst, then a steady stream in whose middle Kafka restarts: what was acknowledged
must be on Kafka.

    python -m tests.e2e.callback_storm                        3,000 at once, then 200 a second for a
    minute
    python -m tests.e2e.callback_storm --disturb gateway      the gateway is killed, and starts at
    another address

A real nginx with the product's own configuration, a real gateway behind it as a process, a real
Kafka, and a sender that tries again like Clay's HTTP column. The gateway is killed with -9. Times
are those of single requests; those that overlap the disturbance, until the first answer of 200
after it, are counted apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import msgspec
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
_RETRY_S = (2.0, 6.0)
_ALL_WITHIN_S = 90.0
_REQUEST_S = 30.0
_ELSEWHERE = "127.0.0.2"

Disturbance = Literal["kafka", "gateway"]


@dataclass(frozen=True)
class Plan:
    """`burst` callbacks at once, then `per_s` for `seconds`.

    The disturbance comes in the middle of the second part.
    """

    burst: int = 3_000
    per_s: float = 200.0
    seconds: float = 60.0
    disturb: Disturbance = "kafka"


@dataclass
class Storm:
    """The outcome. Times are seconds on one monotonic clock."""

    sent: int = 0
    acknowledged: set[str] = field(default_factory=set)
    attempts: list[tuple[float, float, int]] = field(default_factory=list)
    disturbed: tuple[float, float] = (0.0, 0.0)
    back_s: float = 0.0
    burst_p99_s: float = 0.0
    stored: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> set[str]:
        """Return the callbacks that were acknowledged and are not on Kafka."""
        return self.acknowledged - self.stored.keys()

    def times(self, *, during: bool) -> list[float]:
        """Return the times of the requests that overlap the disturbance, or of the others."""
        first, last = self.disturbed
        return sorted(
            ended - began
            for began, ended, _ in self.attempts
            if (began < last and ended > first) == during
        )

    def p(self, share: float, *, during: bool = False) -> float:
        """Return the time within which this share of the requests were answered."""
        times = self.times(during=during) or [0.0]
        return times[min(len(times) - 1, int(share * len(times)))]


async def storm(plan: Plan) -> Storm:
    """Run one."""
    result = Storm()
    children = ChildProcesses("callback-storm")
    kafka = LocalKafka()
    try:
        await asyncio.to_thread(kafka.start)
        settings = _settings(children, kafka.bootstrap)
        await create_topics(connection_of(settings), settings.topic_plan(), 30, lambda _: None)
        gateway = _gateway(children, LOOPBACK)
        with Nginx(settings.http.gateway_port) as nginx:
            await _until_healthy(nginx)
            senders = Senders(settings, nginx.port, result)
            async with asyncio.timeout(plan.seconds + 2 * _ALL_WITHIN_S):
                await asyncio.gather(*(senders.deliver() for _ in range(plan.burst)))
                result.burst_p99_s = result.p(0.99)
                gateway = await _stream(plan, senders, kafka, nginx, gateway, children)
            await asyncio.to_thread(end, gateway, grace_s=20)
        assert gateway.returncode == 0, (children.directory / "gateway.log").read_text()[-2000:]
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


async def _stream(
    plan: Plan,
    senders: Senders,
    kafka: LocalKafka,
    nginx: Nginx,
    gateway: subprocess.Popen[bytes],
    children: ChildProcesses,
) -> subprocess.Popen[bytes]:
    """Send each callback at its time, whether or not earlier ones were answered."""
    result = senders.result

    async def disturb() -> subprocess.Popen[bytes]:
        await asyncio.sleep(plan.seconds / 2)
        first = time.monotonic()
        result.disturbed = first, float("inf")
        new = gateway
        if plan.disturb == "kafka":
            await asyncio.to_thread(kafka.restart)
        else:
            gateway.kill()
            await asyncio.to_thread(gateway.wait, 10)
            nginx.names.hosts["gateway"] = _ELSEWHERE
            new = _gateway(children, _ELSEWHERE)
        result.disturbed = first, time.monotonic()
        return new

    disturbing = asyncio.create_task(disturb())
    began = time.monotonic()
    tasks = []
    for number in range(int(plan.per_s * plan.seconds)):
        await asyncio.sleep(max(0.0, began + number / plan.per_s - time.monotonic()))
        tasks.append(asyncio.create_task(senders.deliver()))
    await asyncio.gather(*tasks)
    new = await disturbing
    first, back = result.disturbed
    result.back_s = back - first
    good = [ended for began, ended, status in result.attempts if status == 200 and began > back]
    result.disturbed = first, min(good, default=back)
    return new


class Senders:
    """Clay's HTTP columns."""

    def __init__(self, settings: Settings, port: int, result: Storm) -> None:
        self._settings = settings
        self._port = port
        self.result = result

    async def deliver(self) -> None:
        """Send one callback until it is acknowledged."""
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
        pauses = random.Random(number)
        while lead_id not in result.acknowledged:
            began = time.monotonic()
            status = await _status(self._port, request)
            result.attempts.append((began, time.monotonic(), status))
            if status == 200:
                result.acknowledged.add(lead_id)
            else:
                await asyncio.sleep(pauses.uniform(*_RETRY_S))


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
        async with asyncio.timeout(_REQUEST_S):
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


async def _until_healthy(nginx: Nginx) -> None:
    deadline = time.monotonic() + 30 * BUSY
    while await _status(nginx.port, _request("GET", "/healthz")) != 200:
        assert time.monotonic() < deadline, "the gateway is not healthy"
        await asyncio.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.callback_storm",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--burst", type=int, default=Plan.burst)
    parser.add_argument("--per-s", type=float, default=Plan.per_s)
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--disturb", choices=("kafka", "gateway"), default=Plan.disturb)
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    result = asyncio.run(storm(Plan(args.burst, args.per_s, args.seconds, args.disturb)))
    first, last = result.disturbed
    report = {
        "sent": result.sent,
        "acknowledged": len(result.acknowledged),
        "acknowledged_and_lost": len(result.lost),
        "on_kafka_twice": sum(count > 1 for count in result.stored.values()),
        "answers": dict(sorted(Counter(status for _, _, status in result.attempts).items())),
        "back_after_s": round(result.back_s, 2),
        "answers_200_after_s": round(last - first, 2),
        "burst_p99_s": round(result.burst_p99_s, 4),
        "outside_p50_s": round(result.p(0.5), 4),
        "outside_p99_s": round(result.p(0.99), 4),
        "outside_max_s": round(result.p(1), 4),
        "during_max_s": round(result.p(1, during=True), 4),
    }
    Console().print_json(data=report)
    return 1 if result.lost or result.p(0.99) >= 2 else 0


if __name__ == "__main__":
    sys.exit(main())
