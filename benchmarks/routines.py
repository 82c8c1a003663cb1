"""What a lead costs the worker if a routine runs it, beside a webhook, and what its lane sends.

`python -m benchmarks.routines [--leads 2000] [--seconds 240] [--case NAME ...] [--json]`. Real
Kafka, worker, gateway and simulator; every case has a namespace and a simulator of its own, and
they run one after the other.

CPU: four lanes, rows that take about a second, and no limit at Clay. It is that of the worker's
process, of a lead with its answer, from the first tenth of the answers to the last one. `webhook`
is the baseline of the same run: the lead is POSTed to a table, which calls the gateway back.
`polled` asks for each result, and `notified` asks once, when Clay's completion webhook has told the
gateway.

Rate: one lane at the default rate of a routine (4 a second, burst 5), Clay's limit of 300 requests
a minute, and runs as long as the simulated Clay's rows (median 18 s, 95 % within 60 s, some 4
minutes), with more leads waiting than it can send. POSTs and polls share the rate. `of_rate` is
what Clay answered of both, as part of what the rate allows, from the second minute on; it must be
95 %. Polls are those of the leads that were answered: at most 3 a lead, and with notifications 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.goodput import check_sent_once
from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.plan import Destination
from tests.e2e.fleet import now_ms
from tests.e2e.loop import TABLE as CALLING_BACK
from tests.e2e.member import Member
from tests.e2e.routine_line import RoutineLine

LANES: Final = 4
LANE_PER_S: Final = 250
RATE_PER_S: Final = 4
BURST: Final = 5
SETTLE_S: Final = 60.0
MIN_RUN_S: Final = 10.0
MIN_OF_RATE: Final = 0.95
MAX_POLLS: Final = 3.0
MAX_NOTIFIED_POLLS: Final = 1.0
COST_CASES: Final = ("webhook", "polled", "notified")
SLOW: Final = """
# A thousand times as long as the simulator's own, because pipeline.FAST_SIM leaves a thousandth.
min_s = 5_000
median_s = 18_000
p95_s = 60_000
slow_s = 240_000
"""
RATE_CASES: Final = ("polled at the rate", "notified at the rate")
_START_S: Final = 120.0
_WITHIN_S: Final = 600.0


class Cost(msgspec.Struct):
    """What the leads of a case cost the worker.

    `polls`: a lead, over all leads.
    """

    leads: int
    cpu_us_per_lead: float
    leads_per_s: float
    polls: float


class Share(msgspec.Struct):
    """What a lane made of its rate.

    `of_rate`: what Clay answered, as part of what the rate allows. `polls`: a lead, over those that
    were answered. `most_a_minute`: requests, as the simulator counts them.
    """

    posts: int
    polls: float
    limited: int
    of_rate: float
    leads_a_minute: float
    most_a_minute: int


def line_of(bootstrap: str, case: str) -> RoutineLine:
    """Return the system of a case."""
    options: dict[str, Any] = {"public": True}
    names = tuple(f"w{number}" for number in range(LANES))
    if case in RATE_CASES:
        names = names[:1]
        options |= {"rate_per_s": RATE_PER_S, "burst": BURST, "script": SLOW}
        options["poll_after_s"] = Destination("", "").poll_after_s
    else:
        options |= {"rate_per_s": LANE_PER_S, "burst": LANE_PER_S}
    if case == "webhook":
        options |= {"callbacks": True, "script": CALLING_BACK}
    else:
        options["routines"] = names
    if case.startswith("notified"):
        options["notified"] = names
        options["poll_after_s"] = (600,)
    return RoutineLine(bootstrap, unused("routines"), len(names), **options)


async def cost(line: RoutineLine, leads: int) -> Cost:
    """Let the worker take the leads to their answers."""
    gateway = line.start("gateway")
    await line.receives()
    await line.publish(line.leads(leads))
    worker = line.join()
    first, cpu_first_s, first_ms = await _reached(line, worker, leads // 10)
    last, cpu_last_s, last_ms = await _reached(line, worker, leads)
    polls = line.polls().total()
    check_sent_once(line)
    for process in (worker, gateway):
        await process.stop()
    return Cost(
        leads,
        (cpu_last_s - cpu_first_s) / (last - first) * 1e6,
        (last - first) / (last_ms - first_ms) * 1_000,
        polls / leads,
    )


async def _reached(line: RoutineLine, worker: Member, answers: int) -> tuple[int, float, int]:
    """Wait for so many answers. Return how many there are, the worker's CPU, and the time."""
    await line.until(lambda: line.answered() >= answers, _WITHIN_S, f"{answers} answers")
    times = psutil.Process(worker.process.pid).cpu_times()
    return line.answered(), times.user + times.system, now_ms()


async def share(line: RoutineLine, seconds: float) -> Share:
    """Watch a lane at its rate, from the second minute on."""
    line.start("gateway")
    await line.receives()
    line.control("POST", "/control/limits", {"api_per_minute": 300})
    await line.publish(line.leads(int(RATE_PER_S * (SETTLE_S + seconds)) + 200))
    line.join()
    await line.until(lambda: line.answered() >= 1, _START_S, "it is under way")
    await asyncio.sleep(SETTLE_S)
    began_ms = now_ms()
    await asyncio.sleep(seconds)
    ended_ms = now_ms()
    answered = {
        event.lead_id for event in line.ended().values() if began_ms <= event.at_ms <= ended_ms
    }
    asked = [
        entry
        for entry in line.ledger()
        if entry["kind"] in ("run", "poll") and began_ms <= entry["at_ms"] <= ended_ms
    ]
    limited = sum(entry["status"] == 429 for entry in asked)
    polls = line.polls()
    check_sent_once(line)
    return Share(
        sum(entry["kind"] == "run" for entry in asked),
        sum(polls[lead] for lead in answered) / max(1, len(answered)),
        limited,
        (len(asked) - limited) / (RATE_PER_S * (ended_ms - began_ms) / 1_000),
        len(answered) / (ended_ms - began_ms) * 60_000,
        line.most_a_minute(line.names[0]),
    )


async def measure(
    bootstrap: str,
    cases: Sequence[str],
    leads: int,
    seconds: float,
    progress: Callable[[str], None],
) -> tuple[dict[str, Cost], dict[str, Share]]:
    """Run the cases, one after the other, on one broker."""
    costs: dict[str, Cost] = {}
    shares: dict[str, Share] = {}
    for case in cases:
        progress(f"{case} ...")
        async with line_of(bootstrap, case) as line:
            if case in COST_CASES:
                costs[case] = await cost(line, leads)
            else:
                shares[case] = await share(line, seconds)
    return costs, shares


def missed(costs: Mapping[str, Cost], shares: Mapping[str, Share]) -> list[str]:
    """Return the goals that were missed, in words."""
    failed = []
    polls_of = {name: row.polls for name, row in costs.items()}
    polls_of |= {name: row.polls for name, row in shares.items()}
    for name, polls in polls_of.items():
        most = MAX_NOTIFIED_POLLS if name.startswith("notified") else MAX_POLLS
        if polls > most:
            failed.append(f"{polls:.2f} polls a lead ({name}), above {most:g}")
    for name, row in shares.items():
        if row.of_rate < MIN_OF_RATE:
            failed.append(f"{row.of_rate:.1%} of the rate ({name}), below {MIN_OF_RATE:.0%}")
        if row.limited:
            failed.append(f"{row.limited} requests were 429 ({name})")
    return failed


def main() -> None:
    """Measure, print two tables or JSON, and exit with 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routines",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m benchmarks.routines --leads 2000 --json",
    )
    cases = (*COST_CASES, *RATE_CASES)
    parser.add_argument(
        "--case",
        action="append",
        choices=cases,
        help="a case to run (may be repeated); default: all",
    )
    parser.add_argument("--leads", type=int, default=2_000, help="leads of each case of CPU")
    parser.add_argument(
        "--seconds",
        type=float,
        default=240.0,
        help="how long a lane at its rate is watched",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.seconds < MIN_RUN_S or arguments.leads < LANES:
        parser.error(f"--seconds must be at least {MIN_RUN_S:g}, and --leads {LANES}")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    progress = Console(stderr=True).print
    with kafka_for(progress) as kafka:
        run = measure(
            kafka.bootstrap,
            arguments.case or cases,
            arguments.leads,
            arguments.seconds,
            progress,
        )
        costs, shares = asyncio.run(run)
    failed = missed(costs, shares)
    if arguments.json:
        report = {"cpu": costs, "rate": shares, "missed": failed}
        sys.stdout.write(json.dumps(msgspec.to_builtins(report)) + "\n")
    else:
        _show(costs, shares)
    if failed:
        raise SystemExit("; ".join(failed))


def _show(costs: Mapping[str, Cost], shares: Mapping[str, Share]) -> None:
    table = Table(title=f"One lead with its answer, {LANES} lanes")
    for column in ("case", "CPU us a lead", "x webhook", "leads/s", "polls a lead"):
        table.add_column(column, justify="left" if column == "case" else "right")
    baseline = costs.get("webhook")
    for name, row in costs.items():
        times = f"{row.cpu_us_per_lead / baseline.cpu_us_per_lead:.2f}" if baseline else ""
        table.add_row(
            name,
            f"{row.cpu_us_per_lead:.0f}",
            times,
            f"{row.leads_per_s:.0f}",
            f"{row.polls:.2f}",
        )
    if costs:
        Console().print(table)
    table = Table(title=f"A lane at {RATE_PER_S}/s, POSTs and polls together")
    columns = ("case", "POSTs", "polls a lead", "429", "of the rate", "leads/min", "most a minute")
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, of_rate in shares.items():
        table.add_row(
            name,
            str(of_rate.posts),
            f"{of_rate.polls:.2f}",
            str(of_rate.limited),
            f"{of_rate.of_rate:.1%}",
            f"{of_rate.leads_a_minute:.0f}",
            str(of_rate.most_a_minute),
        )
    if shares:
        Console().print(table)


if __name__ == "__main__":
    main()
