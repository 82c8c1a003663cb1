"""One campaign: the whole system under load while the schedule breaks it, then time to settle, and
the verdict.
"""

import asyncio
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from stream_app import __version__
from stream_app.dev.kafka_tools import KAFKA_VERSION
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.lane.lane import Lane
from tests.chaos.brokers import BUDGETED, read_stops, too_long
from tests.chaos.brokers import MEANING as BROKER_MEANING
from tests.chaos.brokers import SESSION_S as CLUSTER_SESSION_S
from tests.chaos.brokers import draw as draw_for_brokers
from tests.chaos.checker import REST, Checker, Verdict, used_up
from tests.chaos.evidence import CEILING, CREDITS_A_LEAD, may_wait, read_evidence, read_lanes
from tests.chaos.schedule import MEANING, SESSION_S, draw
from tests.chaos.team import Team
from tests.e2e.fleet import Fleet
from tests.e2e.load import Load
from tests.support.local_cluster import LocalCluster
from tests.support.pace import BUSY
from tests.support.proxy import ProxiedKafka, Proxy

WORKSPACES: Final = 6
PARTITIONS: Final = 4
PER_S: Final = 60.0
WORKS_S: Final = 20.0
"""How long every second fault waits until leads move again."""
SETTLE_S: Final = 90.0
"""How long no event may come while something is not at rest. A machine that others use as well may
take minutes for the backlog that the faults have left, and is not stuck while it works it off.
"""
MAX_SETTLE_S: Final = 1200.0
"""It also bounds leads that would be deferred again and again."""
CLOSING_S: Final = 20.0
"""What is kept of a run's seconds for settling and the verdict."""

CONFIG: Final = """
[delivery]
request_timeout_s = 7
max_request_start_age_s = 3
commit_timeout_s = 4
uncertain_grace_s = 11
retry_base_s = 0.05
retry_cap_s = 0.5
[replay]
backoff_base_s = 1
backoff_cap_s = 3
tiers_s = [1, 3, 12, 600]
"""
_LANE: Final = """
[workspaces.{name}.breaker]
open_s = 0.5
open_cap_s = 3
probe_lease_s = 11
[workspaces.{name}.quota]
warn_at = 49000
rotate_at = 50000
"""
# With the credits that a workspace has by default, a long campaign would end in a lane that is held
# for want of credits until a person buys some.
_SCRIPT: Final = """
[plan]
credits = 10_000_000
actions = 10_000_000
[[fault]]
kind = "slow"
share = 0.7
delay_s = 0.2
"""


class Goal(msgspec.Struct, frozen=True):
    """Either this many seconds in all, or this many kills.

    It takes longer until every kind of fault has come.
    """

    seconds: float = 0.0
    kills: int = 0


class Result(msgspec.Struct):
    """The outcome of a campaign.

    It has passed if nothing was found or is untidy, and the books balance.
    """

    seed: int
    policy: str
    date: str
    versions: dict[str, str]
    seconds: float
    faults: dict[str, int]
    kills: int
    published: dict[str, int]
    verdict: Verdict
    ends: dict[str, int]
    books: str
    untidy: list[str]
    reported: dict[str, str]
    doors: str = ""
    """How the leads of the workspaces reach Clay."""
    longest_stop_s: float | None = None
    """Of a lane with leads waiting, while one of three brokers was broken and all else was well."""

    @property
    def passed(self) -> bool:
        return not self.verdict.findings and not self.untidy and self.books == "balance"


async def run_campaign(
    goal: Goal,
    seed: int,
    *,
    resend: bool,
    logs: Path | None = None,
    brokers: int = 1,
    workspaces: int = WORKSPACES,
    partitions: int = PARTITIONS,
) -> Result:
    """Run one on a broker, or on a cluster, of its own.

    logs: where to leave what the processes said, and Clay's ledger. brokers: 1, or 3 of which each
        is broken in turn.
    workspaces: they share the partitions if there are more of them.
    """
    began = time.monotonic()
    expected_s = goal.seconds or goal.kills * 5.0
    # Every second destination is a routine, and the runs of every second one are announced. The
    # last one with a budget shares a partition, so its leads are deferred: where what a routine's
    # runs have reserved is in the way, that is until the next day, and no lead is at rest then.
    routines = [f"w{number}" for number in range(1, workspaces, 2)]
    routines[routines.index(BUDGETED[-1])] = "w4"
    notified = routines[::2]
    caps = {name: int(CREDITS_A_LEAD * PER_S / workspaces * expected_s * 0.4) for name in BUDGETED}
    async with (
        _kafka(brokers) as (kafka, proxy),
        Fleet(
            kafka.bootstrap,
            f"chaos{seed}.",
            workspaces,
            partitions=partitions,
            config=CONFIG + "".join(_budget(name, cap) for name, cap in caps.items()),
            lane=_LANE,
            script=_SCRIPT,
            uncertain="resend" if resend else "park",
            routines=routines,
            notified=notified,
            replication=brokers,
            session_timeout_s=int(SESSION_S) if brokers == 1 else CLUSTER_SESSION_S,
        ) as line,
    ):
        team = Team(line, kafka, proxy, seed)
        team.start()
        load = Load(line, PER_S, mixed=True, bombs=True, seed=seed)
        async with load:
            await _break(goal, seed, team, line, began)
            sys.stderr.write("settling\n")
            await team.settle()
        unsettled = await settle(line, caps)
        await team.stop()
        if logs is not None:
            await asyncio.to_thread(shutil.copytree, line.directory, logs, dirs_exist_ok=True)
        checker = Checker(await read_evidence(line, dict(load.kinds), caps, resend=resend))
        verdict = checker.verdict()
        stops = await read_stops(line, team.brokers.windows) if team.brokers is not None else []
        code, books = await line.ask("books")
        return Result(
            seed=seed,
            policy="resend" if resend else "park",
            date=time.strftime("%Y-%m-%d", time.gmtime()),
            versions=_versions(),
            seconds=round(time.monotonic() - began, 1),
            faults=dict(team.faults),
            kills=team.kills,
            published=dict(load.kinds),
            verdict=verdict,
            ends=dict(team.ends),
            books=str(books)[-2_000:] if code else _books(books, verdict.resent),
            untidy=team.untidy + unsettled + too_long(stops),
            reported={
                finding.about: checker.describe(finding.about) for finding in verdict.findings[:10]
            },
            doors=(
                f"{workspaces - len(routines)} webhooks, {len(routines)} routines, "
                f"{len(notified)} of them with a completion webhook"
            ),
            longest_stop_s=max((stop.seconds for stop in stops), default=None),
        )


@asynccontextmanager
async def _kafka(brokers: int) -> AsyncIterator[tuple[ProxiedKafka | LocalCluster, Proxy | None]]:
    if brokers == 1:
        async with ProxiedKafka() as kafka, kafka.proxy() as proxy:
            yield kafka, proxy
    else:
        cluster = LocalCluster()
        await asyncio.to_thread(cluster.start)
        try:
            yield cluster, None
        finally:
            await asyncio.to_thread(cluster.stop)


async def _break(goal: Goal, seed: int, team: Team, line: Fleet, began: float) -> None:
    if team.brokers is None:
        faults = draw(seed, mostly_kills=goal.kills > 0)
        kinds = MEANING.keys()
    else:
        faults = draw_for_brokers(seed)
        kinds = BROKER_MEANING.keys()
    for number, fault in enumerate(faults):
        if goal.kills:
            done = team.kills / goal.kills
        else:
            done = (time.monotonic() - began + fault.after_s) / (goal.seconds - CLOSING_S)
        if done >= 1 and team.faults.keys() >= kinds:
            return
        counts = line.last()
        so_far = f"{sum(counts.values())} records, {counts['accepted']} accepted"
        sys.stderr.write(f"{min(done, 1.0):.0%} {fault.kind} next; {so_far}\n")
        await asyncio.sleep(fault.after_s)
        if goal.kills and number % 2:
            await _until_it_works(line)
        await team.hit(fault)


async def _until_it_works(line: Fleet) -> None:
    """Wait until a worker commits a step of a lead again, for at most `WORKS_S`.

    A kill within the session timeout of the one before hits a worker that has no partition yet. A
    campaign of such kills alone would never kill a worker that sends.
    """
    before = _events(line)
    deadline = time.monotonic() + WORKS_S
    while True:
        if _events(line) != before or time.monotonic() > deadline:
            return
        await asyncio.sleep(0.2)


def _events(line: Fleet) -> int:
    return sum(len(history) for history in list(line.histories.values()))


async def settle(line: Fleet, caps: dict[str, int]) -> list[str]:
    """Wait until everything has ended that can. Return what has not, as text."""
    names = line.settings.names
    records = [
        record
        for topic in (names.leads, names.bulk, names.retry)
        for record in await line.read(topic)
    ]
    inputs = {
        f"{record.topic}/{record.partition}/{record.offset}": (record.key or b"").decode()
        for record in records
        if (record.topic in names.inputs and record.value is not None)
        or (
            record.topic == names.retry
            and not any(name == HEADERS["way"] for name, _ in record.headers)
        )
    }
    waiting = may_wait(line, inputs, caps)
    began = time.monotonic()
    moved_at = began
    quiet_since = began
    before = -1
    while True:
        histories = {place: history[-1].status for place, history in list(line.histories.items())}
        moving = Counter(
            histories.get(place, "waiting") for place in inputs if place not in waiting
        )
        busy = sum(count for status, count in moving.items() if status not in REST)
        busy += sum(
            histories.get(place) == "accepted" and workspace in line.routines
            for place, workspace in inputs.items()
        )
        events = _events(line)
        now = time.monotonic()
        if events != before:
            moved_at = now
            before = events
        if busy or moved_at == now:
            quiet_since = now
        held = Counter(waiting[place] for place in waiting if histories.get(place) not in REST)
        is_quiet = now - quiet_since > 2
        is_stuck = now - moved_at > SETTLE_S * BUSY or now - began > MAX_SETTLE_S
        if is_quiet or is_stuck:
            lanes = await read_lanes(line)
            if is_quiet and held.keys() <= used_up(lanes, caps, CEILING):
                return []
            if is_stuck:
                return [
                    (
                        f"not at rest: {dict(moving)}, for want of a budget {dict(held)}, "
                        f"suspended {_suspended(lanes)}, {now - began:.0f} s after the last fault, "
                        f"{now - moved_at:.0f} s after the last event"
                    ),
                ]
        await asyncio.sleep(0.2)


def _suspended(lanes: Iterable[Lane]) -> dict[str, str]:
    """Return why lanes are suspended, by the last of their rows."""
    last = {lane.workspace: lane for lane in lanes}
    return {
        name: lane.suspension.text for name, lane in last.items() if lane.suspension is not None
    }


def _books(books: dict[str, Any], resent: int) -> str:
    """Check that the books balance and count what was sent again."""
    reported = sum(books["possible_doubles"].values())
    return (
        "balance"
        if reported == resent
        else f"{reported} possible doubles in the books, {resent} in the events"
    )


def _budget(name: str, cap: int) -> str:
    return f"\n[workspaces.{name}.budget]\ncredits_per_day = {cap}\n"


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("faust-streaming", "aiokafka")}
    return {
        "stream-app": __version__,
        **packages,
        "Kafka": KAFKA_VERSION,
        "Python": platform.python_version(),
    }
