"""Attacks without a token, one by one and all together, while good callbacks come: all of these must be taken.

    python -m tests.gateway.hostile                        none, each attack alone, then all, 10 s and 10 MB/s each
    python -m tests.gateway.hostile --only trailers all
    python -m tests.gateway.hostile --one-address          all peers have one address, as behind a proxy

A real nginx with the product's own configuration, a real gateway as a process and a real Kafka, on loopback. Good
callbacks come 20 times a second, each on a connection of its own. The goals: all are taken at the first try, or 99 % of
them where all attacks run at once; none is acknowledged and not on Kafka; p99 < 2 s; the memory of nginx and gateway
together stays under 160 MB; SIGTERM ends the gateway within 15 s in the middle of all attacks. `none` is the same load
without an attack. The column "no CPU" is the share of the time in which the gateway could have run, and something else
on the machine did. Linux only.
"""

import argparse
import asyncio
import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from stream_app.config import Settings
from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import ChildProcesses, free_port
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.tokens import sign
from tests.e2e.pipeline import read_topic
from tests.gateway.attacks import ATTACKS, post
from tests.gateway.support import NEW_KEY, OLD_KEY
from tests.support.doctor import settings_for
from tests.support.kafka import create_planned
from tests.support.nginx import Nginx

GOOD_PER_S = 20.0
MOST_P99_S = 2.0
MOST_MB = 160.0
LEAST_TAKEN = 0.99  # of those that come while all attacks run
ENDS_WITHIN_S = 15.0
_ANSWER_WITHIN_S = 20.0
_BEFORE_S = 1.0


@dataclass
class Figures:
    """The measurements of one attack. Times in seconds."""

    name: str
    about: str
    good: list[float] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    most_mb: float = 0.0
    cpu: float = 0.0
    held_up: float = 0.0
    sent_mb: float = 0.0
    connections: int = 0
    at_once: bool = False

    def missed(self, slow: float = 1.0) -> list[str]:
        """Return the goals that were missed. `slow`: how often longer than on an idle machine an answer may take."""
        may_fail = int((1 - LEAST_TAKEN) * len(self.good)) if self.at_once else 0
        missed = list(self.bad) if len(self.bad) > may_fail else []
        if p99(self.good) >= MOST_P99_S * slow:
            missed.append(f"p99 {p99(self.good):.2f} s")
        if self.most_mb >= MOST_MB:
            missed.append(f"{self.most_mb:.0f} MB")
        return missed


def p99(times: list[float]) -> float:
    """Return the time within which 99 of 100 were answered."""
    return sorted(times)[math.ceil(0.99 * len(times)) - 1] if times else math.inf


class Target:
    """A gateway behind nginx, under attack."""

    def __init__(self, settings: Settings, nginx: Nginx, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = nginx.port
        self.nginx = nginx
        self.acknowledged: set[str] = set()
        self.process = psutil.Process(process.pid)
        self.popen = process
        self._keys = settings.callback_keys
        self.log = log
        self._sent = 0

    async def good(self) -> tuple[float, str]:
        """Return seconds and answer of one callback that must be accepted."""
        self._sent += 1
        lead_id = f"lead-{self._sent}"
        token = sign(self._keys, "acme", "people", lead_id)
        body = json.dumps({"lead_id": lead_id, "callback_token": token, "title": "CEO", "note": "x" * 400}).encode()
        request = post("/callbacks/acme/people", "connection: close", length=len(body)) + body
        began = time.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(request)
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            return time.monotonic() - began, type(error).__name__
        if answer.startswith(b"HTTP/1.1 200 "):
            self.acknowledged.add(lead_id)
        return time.monotonic() - began, answer[9:12].decode() or "no answer"

    def memory_mb(self) -> float:
        """Return what gateway and nginx hold together."""
        return float(self.process.memory_info().rss) / 1e6 + self.nginx.memory_mb()

    def ran_and_waited_s(self) -> tuple[float, float]:
        """Return the seconds that the gateway's event loop ran, and the seconds that it waited for a CPU."""
        ran_ns, waited_ns, _ = Path(f"/proc/{self.process.pid}/schedstat").read_text().split()
        return int(ran_ns) / 1e9, int(waited_ns) / 1e9

    @contextmanager
    def under(
        self, names: list[str], seconds: float, mb_per_s: float, *, one_address: bool
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run these attacks, each from an address of its own."""
        running = []
        for number, name in enumerate(names):
            address = "127.0.0.1" if one_address else f"127.0.0.{number + 2}"
            argv = [sys.executable, "-m", "tests.gateway.attacks", name, "--port", str(self.port), "--address", address]
            argv += ["--seconds", str(seconds), "--mb-per-s", str(mb_per_s / len(names))]
            running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, process_group=0))
        try:
            yield running
        finally:
            for process in running:
                process.kill()
                process.wait(10)


async def attacked(target: Target, name: str, names: list[str], args: argparse.Namespace) -> Figures:
    """Return the figures of an attack."""
    figures = Figures(name, ATTACKS[name].about if name in ATTACKS else f"{len(names)} attacks at once")
    figures.at_once = len(names) > 1
    with target.under(names, args.seconds, args.mb_per_s, one_address=args.one_address) as running:
        await asyncio.sleep(_BEFORE_S)
        before, began = target.ran_and_waited_s(), time.monotonic()
        watching = asyncio.create_task(_watch(target, figures))
        asking = []
        for number in range(int(GOOD_PER_S * args.seconds)):
            await asyncio.sleep(max(0.0, began + number / GOOD_PER_S - time.monotonic()))
            asking.append(asyncio.create_task(target.good()))
        for seconds, answer in await asyncio.gather(*asking):
            figures.good.append(seconds)
            if answer != "200":
                figures.bad.append(answer)
        after, took_s = target.ran_and_waited_s(), time.monotonic() - began
        figures.cpu, figures.held_up = ((after[n] - before[n]) / took_s for n in range(2))
        for process in running:
            out, _ = await asyncio.to_thread(process.communicate, timeout=60)
            done = json.loads(out)
            figures.sent_mb += done["sent_bytes"] / 1e6
            figures.connections += done["connections"]
        watching.cancel()
    return figures


async def _watch(target: Target, figures: Figures) -> None:
    while True:
        figures.most_mb = max(figures.most_mb, target.memory_mb())
        await asyncio.sleep(0.2)


async def ended_by_sigterm(target: Target, args: argparse.Namespace) -> tuple[float, int | None]:
    """Return the seconds that the gateway takes to stop in the middle of all attacks, and its exit code."""
    with target.under(list(ATTACKS), args.seconds, args.mb_per_s, one_address=args.one_address):
        await asyncio.sleep(min(5.0, args.seconds / 2))
        began = time.monotonic()
        target.popen.terminate()
        code = await asyncio.to_thread(target.popen.wait, 60)
        return time.monotonic() - began, code


@dataclass
class Siege:
    """The figures of each attack, how the gateway ended, its log, and what it acknowledged and lost."""

    figures: list[Figures]
    ended_s: float
    exit_code: int | None
    log: str
    lost: set[str]

    def missed(self, slow: float = 1.0) -> list[str]:
        """Return the goals that were missed. `slow`: as for the figures."""
        missed = [f"{figure.name}: {what}" for figure in self.figures for what in figure.missed(slow)]
        if self.lost:
            missed.append(f"{len(self.lost)} callbacks were acknowledged and are not on Kafka")
        if self.exit_code != 0 or self.ended_s > ENDS_WITHIN_S * slow:
            missed.append(f"the gateway ended with {self.exit_code} {self.ended_s:.1f} s after SIGTERM")
        if "raceback" in self.log:
            missed.append("there is a traceback in its log")
        return missed


async def siege(bootstrap: str, namespace: str, args: argparse.Namespace) -> Siege:
    """Run the attacks."""
    children, figures = ChildProcesses("hostile"), []
    try:
        port = free_port()
        more = f"[http]\ngateway_port = {port}\ngateway_ops_port = 0\n"
        public_url = f"http://127.0.0.1:{port}/"
        settings = settings_for(children.directory, bootstrap, namespace, public_url=public_url, more=more)
        await create_planned(settings)
        with Nginx(settings.http.gateway_port) as nginx:
            target = Target(settings, nginx, _gateway(children), children.directory / "gateway.log")
            await _until_ready(target)
            await asyncio.sleep(2)
            for name in args.only or ["none", *ATTACKS, "all"]:
                names = {"none": [], "all": list(ATTACKS)}.get(name, [name])
                figures.append(await attacked(target, name, names, args))
                await asyncio.sleep(1)
            seconds, code = await ended_by_sigterm(target, args)
        stored = {
            msgspec.json.decode(record.value, type=Callback).lead_id
            for record in await read_topic(bootstrap, settings.names.callbacks, settings.kafka.partitions)
        }
        log = await asyncio.to_thread(target.log.read_text)
        return Siege(figures, seconds, code, log, target.acknowledged - stored)
    finally:
        children.close()


async def _until_ready(target: Target) -> None:
    started = time.monotonic()
    while (await target.good())[1] != "200":
        running = target.popen.poll() is None and time.monotonic() - started < 60
        assert running, f"the gateway is not ready: see {target.log}"
        await asyncio.sleep(0.2)


def _gateway(children: ChildProcesses) -> subprocess.Popen[bytes]:
    keys = {"KEY": NEW_KEY, "OLD_KEY": OLD_KEY}
    program = f"import os, sys; os.environ |= {keys}; import stream_app.cli.main as m; sys.exit(m.main())"
    config = str(children.directory / "stream_app.toml")
    argv = [sys.executable, "-c", program, "gateway", "--config", config]
    return children.spawn(argv, log=children.directory / "gateway.log")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.hostile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=["none", *ATTACKS, "all"], help="these, in this order")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack, at most 60")
    parser.add_argument("--mb-per-s", type=float, default=10.0, help="of each attack, and of all together")
    parser.add_argument("--one-address", action="store_true")
    return parser


def main() -> int:
    args = options().parse_args()
    args.seconds = min(args.seconds, 60.0)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with LocalKafka() as kafka:
        done = asyncio.run(siege(kafka.bootstrap, "", args))
    table = Table("attack", "sent MB", "connections", "good", "p99 s", "RSS MB", "CPU", "no CPU", "missed")
    for figure in done.figures:
        table.add_row(
            f"{figure.name}: {figure.about}",
            f"{figure.sent_mb:.0f}",
            str(figure.connections),
            f"{len(figure.good) - len(figure.bad)} of {len(figure.good)}",
            f"{p99(figure.good):.2f}",
            f"{figure.most_mb:.0f}",
            f"{figure.cpu:.0%}",
            f"{figure.held_up:.0%}",
            ", ".join(sorted(set(figure.missed()))),
        )
    out = Console(width=170)
    out.print(table)
    lines = done.log.splitlines()
    out.print(
        f"SIGTERM under all attacks: exit code {done.exit_code} after {done.ended_s:.1f} s; {len(lines)} lines of log"
    )
    out.print(f"acknowledged and lost: {len(done.lost)}")
    if missed := done.missed():
        out.print("\n".join([*missed, *lines[-20:]]), markup=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
