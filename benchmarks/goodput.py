"""What an outage of Clay costs, and how near to Clay's limit a lane runs, on real Kafka with worker and simulator.

`python -m benchmarks.goodput [--outage-s 60] [--around-s 60] [--steady-s 120] [--json]`. Every case is a worker, a
namespace and a simulator of its own; all run at once, each with more leads waiting than it can send.

Outage: a lane at the default rate, which is Clay's own (10 a second, burst 20); `around_s` of health, then every call
is answered 503, then `around_s` of health again. Goodput is what Clay took, in percent of 10 a second over the healthy
time; above 100 the lane sent in a burst what had waited. `breaker` is the worker as it comes, and is judged; `no
breaker` has its breaker in `shadow` and no flood guard, as a client that only retries.

At quota: a lane at the default rate, and a Clay that answers 429 without Retry-After. `alone` has all of Clay's 10 a
second, and may be answered 429 for 0.2 % of its calls. Elsewhere something else uses the workspace, so that Clay takes
8: `shared` may be answered 429 for 0.5 %. After a minute of finding its rate the share is measured. `fixed rate` never
cuts its rate; what no setting takes away is the second that a lane waits after a 429.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import msgspec
from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.lane.breaker import BreakerPolicy
from stream_app.domain.lane.rate import RatePolicy
from tests.e2e.fleet import Fleet, Request, now_ms

RATE = RatePolicy()
CLAY_PER_S, LEFT_PER_S = 10, 8
CLAY = {"rate_per_s": CLAY_PER_S, "burst": 20}
SHARED = {"rate_per_s": LEFT_PER_S, "burst": 20}
SETTLE_S = 60.0
LEAST_S = 10.0
MIN_GOODPUT = 0.97
MAX_LIMITED = {"alone": 0.002, "shared": 0.005}
_SLACK_S = 0.5  # of a probe that is due: its commit, its token, its way
_START_S = 120.0
_MORE_LEADS = 200  # than it can send, so that there is always one that waits
NO_GUARD = "flood_guard = { run = 1000000, share = 1.0, min_leads = 1000000 }"
FIXED = f"floor_per_s = {RATE.rate_per_s:g}\nbackoff_cap_s = 1\nretry_after_min_s = 0.1"
BREAKERS = {
    "breaker": BreakerPolicy(),
    "no breaker": BreakerPolicy(mode="shadow"),
}
RATES = {"alone": ("", CLAY), "shared": ("", SHARED), "fixed rate": (FIXED, SHARED)}
JUDGED_OUTAGE = "breaker"


class Setup(msgspec.Struct, frozen=True):
    """A case: Clay's limits, how long it runs, and what its workspace and its rate are told."""

    clay: dict[str, int]
    run_s: float
    workspace: str = ""
    rate: str = ""


class Outage(msgspec.Struct):
    """One outage. `allowed_failed`, `allowed_recovery_s`: by the breaker's policy, None without a breaker."""

    failed_calls: int
    allowed_failed: int | None
    recovery_s: float
    allowed_recovery_s: float | None
    goodput: float
    dead_letters: int


class Steady(msgspec.Struct):
    """A lane at quota, in the measured time. `of_limit`: what Clay took, as part of what it would have taken."""

    requests: int
    limited: int
    limited_share: float
    of_limit: float


def bounds(policy: BreakerPolicy, outage_s: float) -> tuple[int, float]:
    """The most calls that an outage may waste (threshold + probes), and the longest open time that may span its end.

    Jitter shortens an open time at most by its share, so no breaker is further along than one that always has that.
    """
    at_s, half_opens = 0.0, 0
    while True:
        at_s += _open_s(policy, at_s) * (1 - policy.jitter)
        if at_s >= outage_s:
            return policy.consecutive_failures + policy.probes * half_opens, _open_s(policy, outage_s)
        half_opens += 1


def _open_s(policy: BreakerPolicy, outage_s: float) -> float:
    """How long it is open after so much of an outage, without jitter."""
    return min(policy.open_cap_s, max(policy.open_s, policy.open_share * outage_s))


async def begin(bootstrap: str, name: str, setup: Setup, stack: AsyncExitStack) -> Fleet:
    """A case with its leads and its worker. One after the other: they share the environment of their webhooks."""
    line = Fleet(
        bootstrap,
        unused(name.replace(" ", "-")),
        1,
        partitions=1,
        workspace=setup.workspace,
        lane=setup.rate,
        rate_per_s=RATE.rate_per_s,
        burst=RATE.burst,
    )
    await stack.enter_async_context(line)
    line.control("POST", "/control/limits", setup.clay)
    await line.publish(line.leads(int(RATE.rate_per_s * setup.run_s) + _MORE_LEADS))
    line.join()
    return line


async def outage(line: Fleet, policy: BreakerPolicy, outage_s: float, around_s: float) -> Outage:
    """Health, an outage, health, from the moment at which the lane is under way."""
    await line.until(lambda: line.last()["accepted"] >= 10, _START_S, "it is under way")
    began_ms = now_ms()
    await asyncio.sleep(around_s)
    line.control("POST", "/control/faults", {"kind": "status_before", "status": 503, "for_s": outage_s})
    up_ms = now_ms() + int(outage_s * 1000)
    await asyncio.sleep(outage_s + around_s)
    ended_ms = now_ms()
    seen = _between(line, began_ms, ended_ms)
    healthy_s = (ended_ms - began_ms) / 1000 - outage_s
    back_ms = [request.at_ms - up_ms for request in seen if request.accepted and request.at_ms > up_ms]
    calls, open_s = bounds(policy, outage_s)
    bounded = policy.mode == "auto"
    _once(line)
    return Outage(
        sum(request.status == 503 for request in seen),
        calls if bounded else None,
        min(back_ms, default=ended_ms - up_ms) / 1000,
        open_s + _SLACK_S if bounded else None,
        sum(request.accepted for request in seen) / (CLAY_PER_S * healthy_s),
        len(await line.read(line.settings.names.dlq)),
    )


async def steady(line: Fleet, limit_per_s: float, steady_s: float) -> Steady:
    """The lane finds its rate, then it is watched."""
    await line.until(lambda: line.last()["accepted"] >= 10, _START_S, "it is under way")
    await asyncio.sleep(SETTLE_S)
    began_ms = now_ms()
    await asyncio.sleep(steady_s)
    ended_ms = now_ms()
    seen = _between(line, began_ms, ended_ms)
    limited = sum(request.status == 429 for request in seen)
    took = sum(request.accepted for request in seen)
    _once(line)
    return Steady(len(seen), limited, limited / max(1, len(seen)), took / (limit_per_s * (ended_ms - began_ms) / 1000))


def _between(line: Fleet, from_ms: int, to_ms: int) -> list[Request]:
    return [request for request in line.requests() if from_ms <= request.at_ms <= to_ms]


def _once(line: Fleet) -> None:
    if line.posted_again():
        raise SystemExit("a lead was POSTed twice: the figures are worth nothing")


async def measure(
    bootstrap: str, outage_s: float, around_s: float, steady_s: float, progress: Callable[[str], None]
) -> tuple[dict[str, Outage], dict[str, Steady]]:
    """All cases at once, on one broker."""
    outage_run_s, steady_run_s = 2 * around_s + outage_s, SETTLE_S + steady_s
    outages: dict[str, asyncio.Task[Outage]] = {}
    quotas: dict[str, asyncio.Task[Steady]] = {}
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for name, policy in BREAKERS.items():
            setup = Setup(CLAY, outage_run_s, workspace=_workspace(policy))
            line = await begin(bootstrap, name, setup, stack)
            outages[name] = tasks.create_task(outage(line, policy, outage_s, around_s))
        for name, (rate, clay) in RATES.items():
            line = await begin(bootstrap, name, Setup(clay, steady_run_s, rate=rate), stack)
            quotas[name] = tasks.create_task(steady(line, clay["rate_per_s"], steady_s))
        progress(f"all {len(outages) + len(quotas)} cases run, for {max(outage_run_s, steady_run_s):.0f} s")
    return (
        {name: task.result() for name, task in outages.items()},
        {name: task.result() for name, task in quotas.items()},
    )


def _workspace(policy: BreakerPolicy) -> str:
    return "" if policy.mode == "auto" else f'breaker = {{ mode = "{policy.mode}" }}\n{NO_GUARD}'


def missed(outages: Mapping[str, Outage], quotas: Mapping[str, Steady]) -> list[str]:
    """The goals that were missed, in words."""
    there = outages[JUDGED_OUTAGE]
    assert there.allowed_failed is not None
    assert there.allowed_recovery_s is not None
    found = []
    if there.failed_calls > there.allowed_failed:
        found.append(f"{there.failed_calls} calls failed, more than threshold + probes = {there.allowed_failed}")
    if there.recovery_s > there.allowed_recovery_s:
        found.append(f"back after {there.recovery_s:.2f} s, later than one interval = {there.allowed_recovery_s:.2f} s")
    if there.goodput < MIN_GOODPUT:
        found.append(f"goodput {there.goodput:.1%}, below {MIN_GOODPUT:.0%}")
    if there.dead_letters:
        found.append(f"{there.dead_letters} dead letters: an outage is no poison")
    for name, most in MAX_LIMITED.items():
        if (share := quotas[name].limited_share) >= most:
            found.append(f"{share:.2%} of the calls at quota ({name}) were 429, not below {most:.1%}")
    return found


def main() -> None:
    """Measure, print two tables or JSON, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.goodput",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m benchmarks.goodput --outage-s 60 --json",
    )
    parser.add_argument("--outage-s", type=float, default=20.0, help="every call is answered 503 for so long")
    parser.add_argument(
        "--around-s",
        type=float,
        default=60.0,
        help="health before the outage, and after it; under 55 the goal of goodput is out of reach",
    )
    parser.add_argument("--steady-s", type=float, default=120.0, help="how long a lane at quota is watched")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.outage_s, arguments.around_s, arguments.steady_s) < LEAST_S:
        parser.error(f"--outage-s, --around-s and --steady-s must be at least {LEAST_S:g}")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        run = measure(kafka.bootstrap, arguments.outage_s, arguments.around_s, arguments.steady_s, progress)
        outages, quotas = asyncio.run(run)
    failed = missed(outages, quotas)
    if arguments.json:
        found = {"outage_s": arguments.outage_s, "outage": outages, "at_quota": quotas, "missed": failed}
        sys.stdout.write(json.dumps(msgspec.to_builtins(found)) + "\n")
    else:
        _show(outages, quotas, arguments.outage_s, arguments.around_s)
    if failed:
        raise SystemExit("; ".join(failed))


def _show(outages: Mapping[str, Outage], quotas: Mapping[str, Steady], outage_s: float, around_s: float) -> None:
    title = f"An outage of {outage_s:g} s at {CLAY_PER_S}/s, {around_s:g} s of health before and after"
    table = Table(title=title)
    for column in ("case", "calls failed", "at most", "back after s", "at most ", "goodput", "dead letters"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, row in outages.items():
        table.add_row(
            name,
            str(row.failed_calls),
            "" if row.allowed_failed is None else str(row.allowed_failed),
            f"{row.recovery_s:.2f}",
            "" if row.allowed_recovery_s is None else f"{row.allowed_recovery_s:.2f}",
            f"{row.goodput:.1%}",
            str(row.dead_letters),
        )
    Console().print(table)
    table = Table(title=f"At quota: Clay takes {CLAY_PER_S}/s; {LEFT_PER_S}/s where something else uses the workspace")
    for column in ("case", "calls", "429", "share", "of the limit"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, found in quotas.items():
        share = f"{found.limited_share:.2%}"
        table.add_row(name, str(found.requests), str(found.limited), share, f"{found.of_limit:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
