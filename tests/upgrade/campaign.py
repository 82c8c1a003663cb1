"""Two versions on one cluster under load: mixed, rolled forward, rolled back, rolled forward again,
then the verdict.

The load has what an upgrade must carry over: dead letters, deferred leads, uncertain and parked
ones, callbacks that come late, budgets that are used up, a suppression, an import and commands to
lanes. Clay's own ledger and the topics judge it, by the checker of `tests.chaos`.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Final

import msgspec

from tests.chaos.campaign import CONFIG as IMPATIENT
from tests.chaos.campaign import settle
from tests.chaos.checker import Checker, Finding, Verdict
from tests.chaos.evidence import read_evidence
from tests.e2e.fleet import Fleet
from tests.e2e.load import Load
from tests.e2e.loop import TABLE
from tests.e2e.member import Member
from tests.support.pace import BUSY
from tests.upgrade.baseline import HEAD, Program

WORKSPACES: Final = 6
BUDGETED: Final = {"w4": 250, "w5": 250}
"""Credits a day. Each shares its partition with another workspace, so that its leads are deferred.
"""
UNWANTED: Final = range(900_000, 900_002)
"""Suppressed people, whose leads are published from then on."""
IMPORTED: Final = 30
_TERM_S: Final = 60.0
_MOVED_S: Final = 90.0
_ENDED_S: Final = 90.0
_RUN_AGAIN_S: Final = 2.0

_FEW_TRIES: Final = IMPATIENT.replace("[delivery]", "[delivery]\nmax_attempts = 2").replace(
    "[replay]",
    "[replay]\nmax_replays = 1",
)
CONFIG: Final = _FEW_TRIES + "".join(
    f"[workspaces.{name}.budget]\ncredits_per_day = {cap}\n" for name, cap in BUDGETED.items()
)
LANE: Final = """
[workspaces.{name}.breaker]
mode = "shadow"
[workspaces.{name}.flood_guard]
run = 1000000
share = 1
"""
DESTINATION: Final = "callback_deadline_s = 5\ncallback_grace_s = 3600\nestimate_credits = 9"
SCRIPT: Final = (
    TABLE
    + """
[plan]
credits = 1_000_000
[[fault]]
kind = "status_before"
status = 503
share = 0.3
[[fault]]
kind = "reset_after_read"
share = 0.01
[[fault]]
kind = "callbacks_late"
share = 0.2
delay_s = 7
[[fault]]
kind = "slow"
share = 0.3
delay_s = 0.2
"""
)


class Result(msgspec.Struct):
    """What came of it.

    `steps`: how often each status was reported. `posts`: POSTs by who ran them in the mixture.
    """

    verdict: Verdict
    steps: dict[str, int]
    posts: dict[str, int]
    untidy: list[str]
    described: list[str]

    @property
    def passed(self) -> bool:
        return not self.verdict.findings and not self.untidy

    def text(self) -> str:
        """Return all of it, a line each."""
        verdict = self.verdict
        count = self.verdict.count
        lines = [
            f"posts while mixed: {self.posts}",
            f"{verdict.leads} records: lost {count('lost')}, POSTed twice "
            f"{verdict.doubles + count('double')}, over a "
            f"budget {count('overspend')}, illegal {count('illegal')}, held by a budget "
            f"{verdict.held}",
            f"steps: {self.steps}",
        ]
        lines += [
            f"{finding.promise}: {finding.about}: {finding.what}"
            for finding in verdict.findings[:10]
        ]
        return "\n".join([*lines, *self.described, *(f"untidy: {what}" for what in self.untidy)])


class Versions:
    """The processes of a fleet, each of one version.

    `posts`: leads that each version wrote ahead while mixed.
    """

    def __init__(self, line: Fleet, baseline: Program) -> None:
        self.line = line
        self._began = time.monotonic()
        self.untidy: list[str] = []
        self.posts: Counter[str] = Counter()
        self._programs = {"baseline": baseline, "HEAD": HEAD}
        self._workers: dict[str, list[Member]] = {"baseline": [], "HEAD": []}
        self._replay: dict[str, Member] = {}
        self._gateway: Member | None = None

    def say(self, what: str) -> None:
        """Note what happens, for people who wait and for the report of a failure."""
        sys.stderr.write(
            f"{time.monotonic() - self._began:.0f} s: {what}; {dict(self.line.last())}\n",
        )

    async def worker(self, version: str) -> None:
        """Let a worker join, and wait until it has partitions."""
        member = self.line.join(program=self._programs[version])
        self._workers[version].append(member)
        await member.joined(60)

    async def leave(self, version: str, *, killed: bool = False) -> None:
        """End the oldest worker of a version."""
        member = self._workers[version].pop(0)
        if killed:
            await asyncio.to_thread(member.kill)
        else:
            await self._end(member)

    async def roll(self, before: str, after: str, *, kill: bool = False) -> None:
        """Replace the workers, then the replay process and the gateway."""
        self.say(f"from {before} to {after}")
        for number in range(len(self._workers[before])):
            await self.worker(after)
            await self.leave(before, killed=kill and number == 0)
        if after not in self._replay:
            await self.replay(after)
        await self._end(self._replay.pop(before))
        await self.gateway(after)

    async def replay(self, version: str) -> None:
        """Start a replay process."""
        self._replay[version] = self._started("replay", version)
        await self._replay[version].joined(60)

    async def gateway(self, version: str) -> None:
        """Replace the gateway, and run the HTTP columns again whose callbacks met none."""
        if self._gateway is not None:
            await self._end(self._gateway)
        self._gateway = self._started("gateway", version)
        await self.line.receives()
        await self.line.report_again()

    async def mixed(self, seconds: float) -> None:
        """Let both versions work for a while. Both must have sent leads then."""
        self.say("mixed")
        before = await self._sent()
        deadline = time.monotonic() + _MOVED_S * BUSY
        began = time.monotonic()
        while True:
            await asyncio.sleep(0.5)
            sent = await self._sent() - before
            if (
                all(sent[version] for version in self._programs)
                and time.monotonic() - began > seconds
            ):
                break
            assert time.monotonic() < deadline, f"while mixed: {sent}"
        self.posts += sent

    async def stop(self) -> None:
        """End all. Each must end cleanly, and have left no traceback."""
        ending = [*self._workers["baseline"], *self._workers["HEAD"], *self._replay.values()]
        await asyncio.gather(
            *map(self._end, [*ending, *([self._gateway] if self._gateway is not None else [])]),
        )
        for member in self.line.started:
            text = "\n".join(member.output())
            if "Traceback" in text:
                self.untidy.append(f"{member.log.name}: {text[text.index('Traceback') :][-600:]}")

    async def _end(self, member: Member) -> None:
        if not member.alive:
            self.untidy.append(f"{member.log.name} ended by itself: {member.last_words()[-1:]}")
        elif code := await member.stop(_TERM_S):
            self.untidy.append(
                f"{member.log.name} ended with {code} after SIGTERM: {member.last_words()[-1:]}",
            )

    async def _sent(self) -> Counter[str]:
        sent: Counter[str] = Counter()
        for version, members in self._workers.items():
            for member in members:
                counts = await asyncio.to_thread(member.sent) or {}
                sent[version] += int(sum(counts.values()))
        return sent

    def _started(self, command: str, version: str) -> Member:
        return self.line.start(command, program=self._programs[version])


async def run_campaign(
    bootstrap: str,
    namespace: str,
    baseline: Program,
    *,
    workers: int = 2,
    per_s: float = 15.0,
    phase_s: float = 4.0,
    rounds: int = 1,
) -> Result:
    """Run one: so many records a second, each mixture for `phase_s` at least, and there and back so
    many `rounds`.
    """
    async with Fleet(
        bootstrap,
        namespace,
        WORKSPACES,
        config=CONFIG,
        lane=LANE,
        script=SCRIPT,
        callbacks=True,
        workspace="callback_health = { overdue = 1000 }",
        destination=DESTINATION,
    ) as line:
        team = Versions(line, baseline)
        await asyncio.gather(
            *(team.worker("baseline") for _ in range(workers)),
            team.replay("baseline"),
        )
        await team.gateway("baseline")
        load = Load(line, per_s, mixed=True)
        async with load:
            for number in UNWANTED:
                await _cli(
                    line,
                    "suppress",
                    "add",
                    f"person{number}@example.com",
                    "--why",
                    "objected",
                )
            await line.until(
                lambda: steps(line)["dead_lettered"] > 5 and line.last()["enriched"] > 5,
                60,
                "it works",
            )
            for _ in range(rounds):
                await team.worker("HEAD")
                await team.replay("HEAD")
                await _cli(line, "lanes", "pause", "w2", "--why", "an upgrade")
                await team.mixed(phase_s)
                await _cli(line, "lanes", "resume", "w2", "--why", "an upgrade")
                await team.leave("baseline", killed=True)
                await team.roll("baseline", "HEAD")
                await asyncio.sleep(phase_s)
                await team.roll("HEAD", "baseline", kill=True)
                await asyncio.sleep(phase_s)
            await publish_import(line)
            await team.roll("baseline", "HEAD")
        line.control("DELETE", "/control/faults")
        team.say("settling")
        # Before the leads settle, because that may take longer than a lead waits for its callback.
        await line.report_again()
        untidy = await settle(line, BUDGETED) + await _answered(line)
        await team.stop()
        published = dict(load.kinds + Counter(lead=len(UNWANTED) + IMPORTED))
        return await _judge(line, team, published, untidy)


async def publish_import(line: Fleet) -> None:
    """Publish a file, and a lead of each suppressed person."""
    rows = "".join(f"imported{number}@example.com,Ada\n" for number in range(IMPORTED))
    (line.directory / "people.csv").write_text("email,first_name\n" + rows)
    await _cli(line, "publish", "people.csv", "--workspace", "w2", "--yes")
    await line.publish(
        [line.lead(number, line.names[number % len(line.names)]) for number in UNWANTED],
    )


def steps(line: Fleet) -> Counter[str]:
    """Count the steps of all leads so far by status."""
    return Counter(event.status for history in list(line.histories.values()) for event in history)


async def _cli(line: Fleet, *argv: str) -> None:
    code, output = await line.run(*argv)
    assert code in (0, 3), (argv, code, output)  # 3: it waits on Kafka for the end of a rebalance


async def _answered(line: Fleet) -> list[str]:
    """Wait until Clay has called back about each lead that it accepted.

    A column whose callback met a gateway that was ending, or that waited too long on a busy
    machine, is run again, as a person would do.

    Return what has not ended, as text.
    """
    deadline = time.monotonic() + _ENDED_S * BUSY
    while waiting := line.last()["accepted"] + line.last()["callback_overdue"]:
        if time.monotonic() > deadline:
            return [f"{waiting} leads are accepted and not answered: {dict(line.last())}"]
        await line.report_again()
        await asyncio.sleep(_RUN_AGAIN_S)
    return []


async def _judge(
    line: Fleet,
    team: Versions,
    published: dict[str, int],
    untidy: list[str],
) -> Result:
    unwanted = frozenset(
        f"{line.names[number % len(line.names)]} person{number}@example.com" for number in UNWANTED
    )
    evidence = await read_evidence(line, published, BUDGETED, resend=False)
    # What a lead costs differs here: Clay's charges are compared below instead.
    checker = Checker(msgspec.structs.replace(evidence, credits_a_lead=0, suppressed=unwanted))
    verdict = checker.verdict()
    verdict.findings += _overcharged(line) + _sent_unwanted(line)
    code, output = await line.run("books", "--json")
    books = json.loads(output[: output.rindex("}") + 1]) if code == 0 else {}
    if not books.get("balanced") or sum(books["possible_doubles"].values()):
        untidy = [*untidy, f"the books do not balance: {output[-800:]}"]
    return Result(
        verdict=verdict,
        steps=dict(steps(line)),
        posts=dict(team.posts),
        untidy=untidy + team.untidy,
        described=[checker.describe(finding.about) for finding in verdict.findings[:5]],
    )


def _overcharged(line: Fleet) -> list[Finding]:
    charged: Counter[str] = Counter()
    for text in line.ledger_file().read_bytes().splitlines():
        row = json.loads(text)
        if row["kind"] in ("charge", "refund"):
            charged[row["workspace"]] += row.get("credits", 0) * (
                1 if row["kind"] == "charge" else -1
            )
    return [
        Finding("overspend", name, f"Clay charged {charged[name]} credits of {cap}")
        for name, cap in BUDGETED.items()
        if charged[name] > cap
    ]


def _sent_unwanted(line: Fleet) -> list[Finding]:
    names = {f"lead-{number}" for number in UNWANTED}
    return [
        Finding("suppressed", request.lead_id or "", "a suppressed person was sent")
        for request in line.requests()
        if request.lead_id in names
    ]
