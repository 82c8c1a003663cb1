"""Attacks without a token, one by one and all together, while good callbacks come: all of these
must be taken.

    python -m tests.gateway.hostile                        none, each attack alone, then all, 10 s
    and 10 MB/s each
    python -m tests.gateway.hostile --only trailers all
    python -m tests.gateway.hostile --from one             all attacks come from one public address
    python -m tests.gateway.hostile --from balancer        all peers, Clay too, have one private
    address, for which nginx has no limit
    python -m tests.gateway.hostile --only slow --from one --kafka-away 30 --good-per-s 100
    --seconds 60

A real nginx with the product's own configuration, a real gateway as a process and a real Kafka, on
loopback. Good callbacks come 20 times a second, each on a connection of its own. The goals: all are
taken at the first try, or 99 % of them where all attacks run at once; none is acknowledged and not
on Kafka; p99 < 2 s; the memory of nginx and gateway together stays under 160 MB; SIGTERM ends the
gateway within 15 s in the middle of all attacks. `none` is the same load without an attack.

With `--kafka-away` Kafka is killed during each attack, and the gateway holds the good callbacks.
Then p99 is the time without Kafka and 2 s, the memory 256 MB, and one whose caller was answered
with 429 counts as taken if it is on Kafka in the end.
"""

import argparse
import asyncio
import json
import logging
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import Broker, LocalKafka
from stream_app.dev.process import ChildProcesses, free_port
from stream_app.domain.model.messages import Callback
from tests.gateway.attacks import ATTACKS
from tests.gateway.support import NEW_KEY, OLD_KEY, URL, good
from tests.support.doctor import settings_for
from tests.support.kafka import create_planned, read_topic
from tests.support.nginx import Nginx
from tests.support.pace import BUSY

GOOD_PER_S = 20.0
MAX_P99_S = 2.0
MAX_MB = 160.0
MAX_MB_WHILE_HOLDING = 256.0
MIN_TAKEN_SHARE = 0.99  # of those that come while all attacks run
ENDS_WITHIN_S = 15.0
_ANSWER_WITHIN_S = 95.0
_CLAY = "127.0.0.1"
_ONE_ADDRESS = "127.0.0.2"
_NOBODY = "192.0.2.0/24"
_BEFORE_S = 1.0


@dataclass
class Figures:
    """The measurements of one attack: how many seconds each good callback took, and the answers of
    those not taken, by lead.
    """

    name: str
    at_once: int
    good: list[float] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    most_mb: float = 0.0
    sent_mb: float = 0.0
    connections: int = 0
    away_s: float = 0.0

    @property
    def p99_s(self) -> float:
        """The time within which 99 of 100 were answered."""
        return sorted(self.good)[math.ceil(0.99 * len(self.good)) - 1] if self.good else math.inf

    def missed(self, slow: float = 1.0) -> list[str]:
        """Return the goals that were missed.

        `slow`: how often longer than on an idle machine an answer may take.
        """
        may_fail = int((1 - MIN_TAKEN_SHARE) * len(self.good)) if self.at_once > 1 else 0
        missed = []
        if len(self.bad) > may_fail:
            answers = Counter(self.bad.values())
            missed = [f"{count} answers {answer}" for answer, count in answers.items()]
        if self.p99_s >= self.away_s + MAX_P99_S * slow:
            missed.append(f"p99 {self.p99_s:.2f} s")
        if self.most_mb >= (MAX_MB_WHILE_HOLDING if self.away_s else MAX_MB):
            missed.append(f"{self.most_mb:.0f} MB")
        return missed


class Target:
    """A gateway behind nginx, under attack."""

    def __init__(
        self,
        nginx: Nginx,
        gateway: subprocess.Popen[bytes],
        kafka: Broker,
        args: argparse.Namespace,
    ) -> None:
        self.nginx = nginx
        self.gateway = gateway
        self.kafka = kafka
        self.args = args
        self.acknowledged: set[str] = set()
        self._sent = 0

    async def good(self) -> tuple[str, float, str]:
        """Return lead, seconds and answer of one callback that must be accepted."""
        self._sent += 1
        callback = good(f"lead-{self._sent}", note="x" * 400)
        began = time.monotonic()
        answer = await self._answer(json.dumps(callback).encode())
        if answer == "200":
            self.acknowledged.add(callback["lead_id"])
        return callback["lead_id"], time.monotonic() - began, answer

    async def _answer(self, body: bytes) -> str:
        """Return the status of the answer, or what came in its place.

        Head and body are written at once: a caller that the attacks starve between them is slow.
        """
        head = (
            f"POST {URL} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                reader, writer = await asyncio.open_connection(_CLAY, self.nginx.port)
                try:
                    writer.write(head.encode() + body)
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            return type(error).__name__
        return answer[9:12].decode() or "nothing"

    def memory_mb(self) -> float:
        """Return what gateway and nginx hold together."""
        return (
            float(psutil.Process(self.gateway.pid).memory_info().rss) / 1e6 + self.nginx.memory_mb()
        )

    @contextmanager
    def under(self, names: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run these attacks."""
        running = []
        for number, name in enumerate(names):
            address = {"one": _ONE_ADDRESS, "balancer": _CLAY}.get(
                self.args.source,
                f"127.0.0.{number + 2}",
            )
            argv = [
                name,
                str(self.nginx.port),
                address,
                str(self.args.seconds),
                str(self.args.mb_per_s / len(names)),
            ]
            argv = [sys.executable, "-m", "tests.gateway.attacks", *argv]
            running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, process_group=0))
        try:
            yield running
        finally:
            for process in running:
                process.kill()
                process.wait(10 * BUSY)

    async def attacked(self, name: str, names: list[str]) -> Figures:
        """Return the figures of an attack."""
        figures = Figures(name, len(names))
        with self.under(names) as running:
            await asyncio.sleep(_BEFORE_S)
            watching = asyncio.create_task(self._watch(figures))
            began = time.monotonic()
            away = asyncio.create_task(self._without_kafka(figures))
            asking = []
            per_s = self.args.good_per_s
            for number in range(int(per_s * self.args.seconds)):
                await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
                asking.append(asyncio.create_task(self.good()))
            answers = await asyncio.gather(*asking)
            await away
            figures.good = [seconds for _, seconds, _ in answers]
            figures.bad = {lead: answer for lead, _, answer in answers if answer != "200"}
            for process in running:
                out, _ = await asyncio.to_thread(process.communicate, timeout=60 * BUSY)
                done = json.loads(out)
                figures.sent_mb += done["sent_bytes"] / 1e6
                figures.connections += done["connections"]
            watching.cancel()
        return figures

    async def _without_kafka(self, figures: Figures) -> None:
        """Kill Kafka for a while once the attack has begun, if that is asked for."""
        if not self.args.kafka_away:
            return
        assert isinstance(self.kafka, LocalKafka), "it is one that may be killed"
        await asyncio.sleep(_BEFORE_S)
        began = time.monotonic()
        await asyncio.to_thread(self.kafka.kill)
        await asyncio.sleep(self.args.kafka_away)
        await asyncio.to_thread(self.kafka.restart)
        figures.away_s = time.monotonic() - began

    async def _watch(self, figures: Figures) -> None:
        while True:
            figures.most_mb = max(figures.most_mb, self.memory_mb())
            await asyncio.sleep(0.2)

    async def ended_by_sigterm(self) -> tuple[float, int]:
        """Return the seconds that the gateway takes to stop in the middle of all attacks, and its
        exit code.
        """
        with self.under(list(ATTACKS)):
            await asyncio.sleep(min(5.0, self.args.seconds / 2))
            began = time.monotonic()
            self.gateway.terminate()
            code = await asyncio.to_thread(self.gateway.wait, 60 * BUSY)
            return time.monotonic() - began, code


@dataclass
class Siege:
    """The figures of each attack, how the gateway ended, its log, and what it acknowledged and
    lost.
    """

    figures: list[Figures]
    ended_s: float
    exit_code: int
    log: str
    lost: set[str]

    def missed(self, slow: float = 1.0) -> list[str]:
        """Return the goals that were missed. `slow`: as for the figures."""
        missed = [
            f"{figure.name}: {what}" for figure in self.figures for what in figure.missed(slow)
        ]
        if self.lost:
            missed.append(f"{len(self.lost)} callbacks were acknowledged and are not on Kafka")
        if self.exit_code != 0 or self.ended_s > ENDS_WITHIN_S * slow:
            missed.append(
                f"the gateway ended with {self.exit_code} {self.ended_s:.1f} s after SIGTERM",
            )
        if "raceback" in self.log:
            missed.append("there is a traceback in its log")
        return missed


async def siege(kafka: Broker, namespace: str, args: argparse.Namespace) -> Siege:
    """Run the attacks."""
    children = ChildProcesses("hostile")
    figures = []
    try:
        port = free_port()
        more = f"[http]\ngateway_port = {port}\ngateway_ops_port = 0\n"
        public_url = f"http://127.0.0.1:{port}/"
        settings = settings_for(
            children.directory,
            kafka.bootstrap,
            namespace,
            public_url=public_url,
            more=more,
        )
        await create_planned(settings)
        log = children.directory / "gateway.log"
        shared = "127.0.0.0/8" if args.source == "balancer" else _NOBODY
        with Nginx(port, shared=shared) as nginx:
            target = Target(nginx, _gateway(children), kafka, args)
            started = time.monotonic()
            while (await target.good())[2] != "200":
                running = target.gateway.poll() is None and time.monotonic() - started < 60 * BUSY
                assert running, f"the gateway is not ready: {log.read_text()[-500:]}"
                await asyncio.sleep(0.2)
            await asyncio.sleep(2)
            for name in args.only or ["none", *ATTACKS, "all"]:
                figures.append(
                    await target.attacked(
                        name,
                        {"none": [], "all": list(ATTACKS)}.get(name, [name]),
                    ),
                )
                await asyncio.sleep(1)
            seconds, code = await target.ended_by_sigterm()
        stored = {
            msgspec.json.decode(record.value, type=Callback).lead_id
            for record in await read_topic(
                kafka.bootstrap,
                settings.names.callbacks,
                settings.kafka.partitions,
            )
        }
        for figure in figures:
            if figure.away_s:
                figure.bad = {
                    lead: answer for lead, answer in figure.bad.items() if lead not in stored
                }
        return Siege(figures, seconds, code, log.read_text(), target.acknowledged - stored)
    finally:
        children.close()


def _gateway(children: ChildProcesses) -> subprocess.Popen[bytes]:
    keys = {"KEY": NEW_KEY, "OLD_KEY": OLD_KEY}
    program = (
        f"import os, sys; os.environ |= {keys}; import stream_app.cli.main as m; sys.exit(m.main())"
    )
    config = str(children.directory / "stream_app.toml")
    argv = [sys.executable, "-c", program, "gateway", "--config", config]
    return children.spawn(argv, log=children.directory / "gateway.log")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gateway.hostile",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["none", *ATTACKS, "all"],
        help="these, in this order",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack, at most 60")
    parser.add_argument(
        "--mb-per-s",
        type=float,
        default=10.0,
        help="of each attack, and of all together",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=("many", "one", "balancer"),
        default="many",
        help="whether each attack has an address of its own, all have one, or Clay has it, too",
    )
    parser.add_argument("--good-per-s", type=float, default=GOOD_PER_S)
    parser.add_argument("--kafka-away", type=float, default=0.0, metavar="SECONDS")
    return parser


def main() -> int:
    args = options().parse_args()
    args.seconds = min(args.seconds, 60.0)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with LocalKafka() as kafka:
        done = asyncio.run(siege(kafka, "", args))
    table = Table("attack", "sent MB", "connections", "good", "p99 s", "RSS MB", "missed")
    for figure in done.figures:
        about = (
            ATTACKS[figure.name].about
            if figure.name in ATTACKS
            else f"{figure.at_once} attacks at once"
        )
        sent = f"{figure.sent_mb:.0f}"
        taken = f"{len(figure.good) - len(figure.bad)} of {len(figure.good)}"
        measured = (
            f"{figure.p99_s:.2f}",
            f"{figure.most_mb:.0f}",
            ", ".join(sorted(set(figure.missed()))),
        )
        table.add_row(f"{figure.name}: {about}", sent, str(figure.connections), taken, *measured)
    out = Console(width=170)
    out.print(
        table,
        f"SIGTERM under all attacks: exit code {done.exit_code} after {done.ended_s:.1f} s",
        sep="\n",
    )
    out.print(f"acknowledged and lost: {len(done.lost)}")
    if missed := done.missed():
        out.print("\n".join([*missed, *done.log.splitlines()[-20:]]), markup=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
