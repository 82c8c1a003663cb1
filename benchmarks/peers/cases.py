"""What each system is put through, on a Kafka of its own namespace and a simulated Clay of its own.

The account is the simulator's ledger. A dead letter is a record on the DLQ; ours are read from the
statuses, too.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from typing import Final

import msgspec

from benchmarks import line as whole_line
from benchmarks.baselines import instant_target
from benchmarks.peers import server
from benchmarks.peers.systems import BARE, OURS, System
from stream_app.dev.kafka import unused
from stream_app.dev.process import ChildProcesses
from stream_app.domain.model.addresses import WEBHOOK_PATH
from tests.e2e.fleet import Fleet, now_ms

CLAY_PER_S: Final = 10
SQUEEZED_PER_S: Final = 8
OUTAGE_PER_S: Final = 8
BURST: Final = 20
SESSION_MS: Final = 6_000
_IN_FLIGHT: Final = 100
_START_S: Final = 90.0
_QUIET_S: Final = 20.0
"""Nothing more is expected of a system that has sent nothing for so long while nothing was wrong.
"""


class Candidate(msgspec.Struct, frozen=True):
    """A system, the command that runs its program, and the path of its server, if it has one."""

    system: System
    argv: Sequence[str]
    server: str = ""

    @property
    def ours(self) -> bool:
        return self.system.name == OURS


class Cpu(msgspec.Struct):
    """What the program and its server used together."""

    cpu_us_per_lead: float
    leads_per_s: float
    rss_mb: float


class Kills(msgspec.Struct):
    """`lost`: neither taken, nor on the DLQ, nor parked.

    `doubled`: taken by Clay more than once.
    """

    leads: int
    lost: int
    doubled: int
    parked: int


class Outage(msgspec.Struct):
    """`first_s`: from the start of the process to its first POST, with a warm cache of files."""

    first_s: float
    wasted: int
    dead_letters: int
    back_s: float


class Squeezed(msgspec.Struct):
    of_limit: float
    limited_share: float


class Hot(msgspec.Struct):
    """`came`: how many of the hot leads Clay took within the watch; `p50_s` of these, from their
    publication.
    """

    hot: int
    came: int
    p50_s: float


def cpu(bootstrap: str, candidate: Candidate, leads: int) -> Cpu:
    """Run through leads with an instant target, in a process of its own."""
    with closing(ChildProcesses("peers")) as children, instant_target() as port:
        url = f"http://127.0.0.1:{port}{WEBHOOK_PATH}"
        namespace = unused("peers")
        config, secrets, _ = whole_line.configure(
            children.directory,
            namespace,
            bootstrap,
            _IN_FLIGHT,
            url,
        )
        asyncio.run(whole_line.publish(config, secrets, leads))
        argv = candidate.argv
        if candidate.ours:
            argv = [sys.executable, "-m", "stream_app", "worker", "--config", str(config)]
        elif candidate.system.name == BARE:
            bare = [sys.executable, "-m", "benchmarks.baselines", "bare"]
            argv = [*bare, bootstrap, f"{namespace}leads", url, str(_IN_FLIGHT)]
        environment = os.environ | secrets | settings_of(bootstrap, namespace, f"{url}w0", 0)
        beside = []
        if candidate.server:
            running, settings = server.start(children, candidate.server, bootstrap, _IN_FLIGHT)
            environment |= settings
            beside.append(running)
        with (children.directory / "log").open("wb") as log:
            process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        try:
            measured = whole_line.measure(process, lambda: whole_line.count(port), leads, beside)
        except SystemExit as problem:
            words = (children.directory / "log").read_text(errors="replace")[-1500:]
            raise SystemExit(f"{candidate.system.name}: {problem}\n{words}") from None
        finally:
            process.terminate()
            process.wait(60)
    return Cpu(
        measured["cpu_us_per_lead"],
        measured["leads_per_s"],
        measured["rss_mb_at_100_percent"],
    )


def settings_of(bootstrap: str, namespace: str, url: str, rate_per_s: float) -> dict[str, str]:
    """Return the environment of a program; see `programs/__init__.py`."""
    return {
        "BOOTSTRAP": bootstrap,
        "LEADS": f"{namespace}leads",
        "BULK": f"{namespace}leads.bulk",
        "DLQ": f"{namespace}leads.dlq",
        "GROUP": f"{namespace}peer",
        "URL": url,
        "IN_FLIGHT": str(_IN_FLIGHT),
        "RATE_PER_S": f"{rate_per_s:g}",
        "SESSION_MS": str(SESSION_MS),
    }


class Run:
    """One candidate with its own namespace and its own Clay.

    `async with` starts Clay, `start` the candidate.
    """

    def __init__(
        self,
        bootstrap: str,
        candidate: Candidate,
        rate_per_s: int,
        burst: int = BURST,
    ) -> None:
        self._namespace = unused("peers")
        self._rate_per_s = rate_per_s
        self._server: dict[str, str] = {}
        self.candidate = candidate
        self.line = Fleet(
            bootstrap,
            self._namespace,
            1,
            partitions=4,
            rate_per_s=rate_per_s,
            burst=burst,
        )

    async def __aenter__(self) -> Run:
        await self.line.__aenter__()
        if self.candidate.server:
            try:
                _, self._server = await asyncio.to_thread(
                    server.start,
                    self.line.children,
                    self.candidate.server,
                    self.line.bootstrap,
                    _IN_FLIGHT,
                )
            except BaseException:
                await self.line.__aexit__(None, None, None)
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.line.__aexit__(None, None, None)

    def start(self, *, paced: bool = True) -> subprocess.Popen[bytes]:
        """Start the process.

        Candidates start one after the other: they share this process's environment.
        """
        os.environ.update(self.line.environment)
        if self.candidate.ours:
            return self.line.join().process
        url = self.line.environment["WEBHOOK_0"]
        rate_per_s = self._rate_per_s if paced else 0
        os.environ.update(
            settings_of(self.line.bootstrap, self._namespace, url, rate_per_s) | self._server,
        )
        return self.line.children.spawn(self.candidate.argv, log=self.line.directory / "peer.log")

    def accepted(self) -> Counter[str]:
        """Count how often Clay took each lead."""
        taken = (request.lead_id for request in self.line.requests() if request.accepted)
        return Counter(lead for lead in taken if lead is not None)

    async def dead_letters(self) -> set[str]:
        """Return the leads on the DLQ."""
        records = await self.line.read(self.line.settings.names.dlq)
        return {msgspec.json.decode(record.value)["lead_id"] for record in records}

    def parked(self) -> set[str]:
        """Return the leads that ours has parked: it does not know if Clay took them, and does not
        send them again.
        """
        return {
            history[-1].lead_id
            for history in list(self.line.histories.values())
            if history[-1].status == "parked"
        }

    def say(self, what: str) -> AssertionError:
        """Return an error with the last words of the process."""
        log = self.line.directory / "peer.log"
        words = log.read_text(errors="replace")[-1500:] if log.exists() else ""
        return AssertionError(f"{self.candidate.system.name}: {what}\n{words}")


async def kills(bootstrap: str, candidate: Candidate, leads: int, count: int) -> Kills:
    """End the program by SIGKILL at equal parts of the work, 200 ms a POST, and start it again at
    once.

    The server of a candidate that has one goes on.
    """
    async with Run(bootstrap, candidate, 1_000, 1_000) as run:
        run.line.control(
            "POST",
            "/control/faults",
            {"kind": "slow", "delay_s": 0.2, "for_s": 3_600},
        )
        await run.line.publish(run.line.leads(leads))
        process = run.start(paced=False)
        for number in range(1, count + 1):
            goal = leads * number // (count + 1)
            await _until_concluded(run, goal)
            process.kill()
            await asyncio.to_thread(process.wait, 10)
            process = run.start(paced=False)
        await _until_quiet(run, leads)
        process.terminate()
        taken = run.accepted()
        parked = run.parked() if candidate.ours else set()
        concluded = taken.keys() | parked | await run.dead_letters()
        await asyncio.to_thread(process.wait, 60)
        return Kills(
            leads,
            leads - len(concluded),
            sum(times > 1 for times in taken.values()),
            len(parked),
        )


async def outages(
    bootstrap: str,
    candidates: Sequence[Candidate],
    outage_s: float,
    around_s: float,
) -> dict[str, Outage]:
    """Let Clay's host answer 503 for a time, for all candidates at once."""
    leads = int(OUTAGE_PER_S * (outage_s + 3 * around_s))
    async with AsyncExitStack() as stack:
        runs, first_s = await _begin(stack, bootstrap, candidates, OUTAGE_PER_S, leads)
        await asyncio.sleep(around_s)
        for run in runs:
            run.line.control(
                "POST",
                "/control/faults",
                {"kind": "status_before", "status": 503, "for_s": outage_s},
            )
        up_ms = now_ms() + int(outage_s * 1000)
        await asyncio.sleep(outage_s + around_s)
        results = {}
        for run in runs:
            seen = run.line.requests()
            back = [
                request.at_ms - up_ms
                for request in seen
                if request.accepted and request.at_ms > up_ms
            ]
            name = run.candidate.system.name
            wasted = sum(request.status == 503 for request in seen)
            back_s = min(back, default=int(around_s * 1000)) / 1000
            results[name] = Outage(first_s[name], wasted, len(await run.dead_letters()), back_s)
        return results


async def squeezed(
    bootstrap: str,
    candidates: Sequence[Candidate],
    watch_s: float,
) -> dict[str, Squeezed]:
    """Let Clay take 8 leads a second of candidates that are configured for 10, as where another
    program sends, too.
    """
    settle_s = watch_s / 2
    leads = int(CLAY_PER_S * (watch_s + settle_s) * 2)
    async with AsyncExitStack() as stack:
        runs, _ = await _begin(
            stack,
            bootstrap,
            candidates,
            CLAY_PER_S,
            leads,
            per_s=SQUEEZED_PER_S,
        )
        await asyncio.sleep(settle_s)
        began_ms = now_ms()
        await asyncio.sleep(watch_s)
        ended_ms = now_ms()
        results = {}
        for run in runs:
            seen = [
                request for request in run.line.requests() if began_ms <= request.at_ms <= ended_ms
            ]
            took = sum(request.accepted for request in seen)
            limited = sum(request.status == 429 for request in seen)
            of_limit = took / (SQUEEZED_PER_S * watch_s)
            results[run.candidate.system.name] = Squeezed(of_limit, limited / max(1, len(seen)))
        return results


async def hot(
    bootstrap: str,
    candidates: Sequence[Candidate],
    bulk: int,
    watch_s: float,
) -> dict[str, Hot]:
    """Publish a hot lead a second on `leads` while a backfill waits on `leads.bulk`."""
    hot_leads = 15
    async with AsyncExitStack() as stack:
        runs, _ = await _begin(stack, bootstrap, candidates, CLAY_PER_S, bulk, to_bulk=True)
        published: dict[str, int] = {}
        for number in range(1_000_000, 1_000_000 + hot_leads):
            published[f"lead-{number}"] = now_ms()
            for run in runs:
                await run.line.publish([run.line.lead(number, run.line.names[0])])
            await asyncio.sleep(1)
        await asyncio.sleep(watch_s)
        results = {}
        for run in runs:
            took = {
                request.lead_id: (request.at_ms - published[request.lead_id]) / 1000
                for request in run.line.requests()
                if request.accepted and request.lead_id in published
            }
            p50_s = statistics.median(took.values()) if took else watch_s
            results[run.candidate.system.name] = Hot(hot_leads, len(took), p50_s)
        return results


async def _begin(
    stack: AsyncExitStack,
    bootstrap: str,
    candidates: Sequence[Candidate],
    rate_per_s: int,
    leads: int,
    *,
    per_s: int = CLAY_PER_S,
    to_bulk: bool = False,
) -> tuple[list[Run], dict[str, float]]:
    """Start all, one after the other.

    Return them when each has sent, with the seconds to the first POST of each.
    """
    runs = []
    started_ms = {}
    for candidate in candidates:
        run = await stack.enter_async_context(Run(bootstrap, candidate, rate_per_s))
        run.line.control("POST", "/control/limits", {"rate_per_s": per_s, "burst": BURST})
        records = run.line.leads(leads)
        if to_bulk and not candidate.system.one_topic:
            bulk = run.line.settings.names.bulk
            records = [msgspec.structs.replace(record, topic=bulk) for record in records]
        await run.line.publish(records)
        runs.append(run)
    for run in runs:
        started_ms[run.candidate.system.name] = now_ms()
        run.start()
        await _until(run.line.requests, run, "the first POST")
    first = {run.candidate.system.name: run.line.requests()[0].at_ms for run in runs}
    for run in runs:
        await _until_accepted(run, BURST)
    return runs, {name: (first[name] - started_ms[name]) / 1000 for name in first}


async def _until_accepted(run: Run, leads: int) -> None:
    await _until(lambda: len(run.accepted()) >= leads, run, f"{leads} leads accepted")


async def _until_concluded(run: Run, leads: int) -> None:
    """Wait until so many are taken or on the DLQ, where a careful program puts those that a kill
    interrupted.
    """
    dead: set[str] = set()
    deadline = time.monotonic() + _START_S
    while len(run.accepted().keys() | dead) < leads:
        if time.monotonic() > deadline:
            raise run.say(f"{leads} leads concluded: not within {_START_S:.0f} s")
        dead = await run.dead_letters()
        await asyncio.sleep(0.1)


async def _until(done: Callable[[], object], run: Run, what: str) -> None:
    deadline = time.monotonic() + _START_S
    while not done():
        if time.monotonic() > deadline:
            raise run.say(f"{what}: not within {_START_S:.0f} s")
        await asyncio.sleep(0.02)


async def _until_quiet(run: Run, leads: int) -> None:
    """Wait until every lead is concluded, or until nothing was sent for a while."""
    last = -1
    quiet_since = time.monotonic()
    while (
        len(run.accepted().keys() | run.parked()) < leads
        and time.monotonic() < quiet_since + _QUIET_S
    ):
        if (sent := len(run.line.requests())) != last:
            last = sent
            quiet_since = time.monotonic()
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
