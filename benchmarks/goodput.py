"""What an outage of Clay costs, and how near to Clay's limit a lane runs, on real Kafka with worker
and simulator.

`python -m benchmarks.goodput [--case NAME ...] [--outage-s 60] [--around-s 60] [--steady-s 240]
[--json]`. Every case is a worker, a namespace and a simulator of its own, with more leads waiting
than it can send. They run one after the other.

Outage: a lane at the default rate, which is Clay's own (10 a second, burst 20); `around_s` of
health, then Clay's host answers everything with 503, then `around_s` of health again. Goodput is
what Clay took, in percent of 10 a second over the healthy time; above 100 the lane sent in a burst
what had waited. `breaker`, whose limits are checked, is the worker with its defaults. In `webhook
alone` the host answers meanwhile. `no breaker` has its breaker in `shadow` and no flood guard, as a
client that only retries.

At quota: a lane at the default rate, and a Clay that answers 429 without Retry-After. `alone` has
all of Clay's 10 a second. In `shared` something else uses the workspace, so that Clay takes 8. Both
must use 99 % of that, with 429 for at most 0.2 % of the calls. The share is measured after a minute
of finding the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import msgspec
from rich.console import Console
from rich.table import Table

from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.limits.rate import RatePolicy
from tests.e2e.fleet import Fleet, Request, now_ms

RATE = RatePolicy()
CLAY_PER_S = 10
LEFT_PER_S = 8
CLAY = {"rate_per_s": CLAY_PER_S, "burst": 20}
SHARED = {"rate_per_s": LEFT_PER_S, "burst": 20}
SETTLE_S = 60.0
MIN_PHASE_S = 10.0
MIN_GOODPUT = 0.97
MAX_FAILED = 20
MAX_RECOVERY_S = 2.0
MIN_OF_LIMIT = 0.99
MAX_LIMITED = 0.002
_START_S = 120.0
_MORE_LEADS = 200  # than it can send, so that there is always one that waits
NO_GUARD = "flood_guard = { run = 1000000, share = 1.0 }"
NO_BREAKER = f'breaker = {{ mode = "shadow" }}\n{NO_GUARD}'
OUTAGES = {"breaker": ("", False), "webhook alone": ("", True), "no breaker": (NO_BREAKER, False)}
"""What the workspace is configured with, and whether the host answers during the outage."""
RATES = {"alone": CLAY, "shared": SHARED}
CHECKED_OUTAGE = "breaker"


class Setup(msgspec.Struct, frozen=True):
    """A case: Clay's limits, its duration, and the settings of its workspace."""

    clay: dict[str, int]
    run_s: float
    workspace: str = ""


class Outage(msgspec.Struct):
    """One outage: what it cost, and when the first lead was accepted after it."""

    failed_calls: int
    recovery_s: float
    goodput: float
    dead_letters: int


class Steady(msgspec.Struct):
    """A lane at quota, in the measured time.

    `of_limit`: what Clay took, as part of what it would have taken.
    """

    requests: int
    limited: int
    limited_share: float
    of_limit: float


async def begin(bootstrap: str, name: str, setup: Setup, stack: AsyncExitStack) -> Fleet:
    """A case with its leads and its worker.

    One after the other: they share the environment of their webhooks.
    """
    line = Fleet(
        bootstrap,
        unused(name.replace(" ", "-")),
        1,
        partitions=1,
        workspace=setup.workspace,
        rate_per_s=RATE.rate_per_s,
        burst=RATE.burst,
    )
    await stack.enter_async_context(line)
    line.control("POST", "/control/limits", setup.clay)
    await line.publish(line.leads(int(RATE.rate_per_s * setup.run_s) + _MORE_LEADS))
    line.join()
    return line


async def outage(line: Fleet, host_answers: bool, outage_s: float, around_s: float) -> Outage:
    """Health, an outage, health, from the first accepted leads on."""
    await line.until(lambda: line.last()["accepted"] >= 10, _START_S, "it is under way")
    began_ms = now_ms()
    await asyncio.sleep(around_s)
    of = {"workspace": line.names[0]} if host_answers else {}
    line.control(
        "POST",
        "/control/faults",
        {"kind": "status_before", "status": 503, "for_s": outage_s, **of},
    )
    up_ms = now_ms() + int(outage_s * 1000)
    await asyncio.sleep(outage_s + around_s)
    ended_ms = now_ms()
    seen = _between(line, began_ms, ended_ms)
    healthy_s = (ended_ms - began_ms) / 1000 - outage_s
    back_ms = [
        request.at_ms - up_ms for request in seen if request.accepted and request.at_ms > up_ms
    ]
    check_sent_once(line)
    return Outage(
        sum(request.status == 503 for request in seen),
        min(back_ms, default=ended_ms - up_ms) / 1000,
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
    check_sent_once(line)
    return Steady(
        len(seen),
        limited,
        limited / max(1, len(seen)),
        took / (limit_per_s * (ended_ms - began_ms) / 1000),
    )


def _between(line: Fleet, from_ms: int, to_ms: int) -> list[Request]:
    return [request for request in line.requests() if from_ms <= request.at_ms <= to_ms]


def check_sent_once(line: Fleet) -> None:
    """End the benchmark if a lead was POSTed twice."""
    if line.posted_again():
        raise SystemExit("a lead was POSTed twice: the figures are worth nothing")


async def measure(
    bootstrap: str,
    cases: Sequence[str],
    outage_s: float,
    around_s: float,
    steady_s: float,
    progress: Callable[[str], None],
) -> tuple[dict[str, Outage], dict[str, Steady]]:
    """Run the cases, one after the other, on one broker."""
    outages: dict[str, Outage] = {}
    quotas: dict[str, Steady] = {}
    for name in cases:
        async with AsyncExitStack() as stack:
            if name in OUTAGES:
                workspace, host_answers = OUTAGES[name]
                run_s = 2 * around_s + outage_s
                line = await begin(bootstrap, name, Setup(CLAY, run_s, workspace=workspace), stack)
                progress(f"{name}: {run_s:.0f} s")
                outages[name] = await outage(line, host_answers, outage_s, around_s)
            else:
                clay = RATES[name]
                run_s = SETTLE_S + steady_s
                line = await begin(bootstrap, name, Setup(clay, run_s), stack)
                progress(f"{name}: {run_s:.0f} s")
                quotas[name] = await steady(line, clay["rate_per_s"], steady_s)
    return outages, quotas


def missed(outages: Mapping[str, Outage], quotas: Mapping[str, Steady]) -> list[str]:
    """The goals that were missed, in words."""
    failed = []
    if (checked := outages.get(CHECKED_OUTAGE)) is not None:
        if checked.failed_calls > MAX_FAILED:
            failed.append(f"{checked.failed_calls} calls failed, more than {MAX_FAILED}")
        if checked.recovery_s > MAX_RECOVERY_S:
            failed.append(f"back after {checked.recovery_s:.2f} s, later than {MAX_RECOVERY_S:g} s")
        if checked.goodput < MIN_GOODPUT:
            failed.append(f"goodput {checked.goodput:.1%}, below {MIN_GOODPUT:.0%}")
        if checked.dead_letters:
            failed.append(f"{checked.dead_letters} dead letters: an outage is no poison")
    for name in RATES:
        if (seen := quotas.get(name)) is None:
            continue
        if seen.limited_share > MAX_LIMITED:
            failed.append(
                (
                    f"{seen.limited_share:.2%} of the calls at quota ({name}) were 429, above "
                    f"{MAX_LIMITED:.1%}"
                ),
            )
        if seen.of_limit < MIN_OF_LIMIT:
            failed.append(
                f"{seen.of_limit:.1%} of the quota ({name}) was used, below {MIN_OF_LIMIT:.0%}",
            )
    return failed


def main() -> None:
    """Measure, print two tables or JSON, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.goodput",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m benchmarks.goodput --outage-s 60 --json",
    )
    cases = (*OUTAGES, *RATES)
    parser.add_argument(
        "--case",
        action="append",
        choices=cases,
        help="a case to run (may be repeated); default: all",
    )
    parser.add_argument(
        "--outage-s",
        type=float,
        default=60.0,
        help="every call is answered 503 for so long",
    )
    parser.add_argument(
        "--around-s",
        type=float,
        default=60.0,
        help="health before the outage, and after it; under 55 the goal of goodput is out of reach",
    )
    parser.add_argument(
        "--steady-s",
        type=float,
        default=240.0,
        help="how long a lane at quota is watched",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.outage_s, arguments.around_s, arguments.steady_s) < MIN_PHASE_S:
        parser.error(f"--outage-s, --around-s and --steady-s must be at least {MIN_PHASE_S:g}")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        times_s = (arguments.outage_s, arguments.around_s, arguments.steady_s)
        run = measure(kafka.bootstrap, arguments.case or cases, *times_s, progress)
        outages, quotas = asyncio.run(run)
    failed = missed(outages, quotas)
    if arguments.json:
        report = {
            "outage_s": arguments.outage_s,
            "outage": outages,
            "at_quota": quotas,
            "missed": failed,
        }
        sys.stdout.write(json.dumps(msgspec.to_builtins(report)) + "\n")
    else:
        _show(outages, quotas, arguments.outage_s, arguments.around_s)
    if failed:
        raise SystemExit("; ".join(failed))


def _show(
    outages: Mapping[str, Outage],
    quotas: Mapping[str, Steady],
    outage_s: float,
    around_s: float,
) -> None:
    title = (
        f"An outage of {outage_s:g} s at {CLAY_PER_S}/s, {around_s:g} s of health before and after"
    )
    table = Table(title=title)
    for column in ("case", "calls failed", "back after s", "goodput", "dead letters"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, row in outages.items():
        table.add_row(
            name,
            str(row.failed_calls),
            f"{row.recovery_s:.2f}",
            f"{row.goodput:.1%}",
            str(row.dead_letters),
        )
    Console().print(table)
    table = Table(
        title=f"At quota: Clay takes {CLAY_PER_S}/s; {LEFT_PER_S}/s where something else uses the "
        "workspace",
    )
    for column in ("case", "calls", "429", "share", "of the limit"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, quota in quotas.items():
        share = f"{quota.limited_share:.2%}"
        table.add_row(name, str(quota.requests), str(quota.limited), share, f"{quota.of_limit:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
