"""Puts this system beside others that read leads from Kafka and POST them, all in one run, and
prints one table.

`python -m benchmarks.peers [--only NAME ...] [--case NAME ...] [--json]`. Real Kafka, a simulated
Clay of its own for each system. Each system is a program that its users would write
(`benchmarks/peers/programs`), with its libraries in an environment of its own, which pip fills at
the first run. Parallel Consumer needs a JDK, and Restate needs npm, which brings its server; a
system whose tool is missing is left out, with a line that says so.

The cases: `cpu` is 20,000 leads with an instant target, one system after the other. `kills` ends
the program by SIGKILL at equal parts of 2,000 leads and starts it again, while the server of
Restate goes on. `outage`, `squeezed` and `hot` run all systems at the same time: Clay answers 503
for 60 s; Clay takes 8 a second of systems configured for 10; hot leads while a backfill waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Mapping

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.peers import cases
from benchmarks.peers.cases import Candidate
from benchmarks.peers.systems import BARE, OURS, SYSTEMS, command, server
from stream_app.dev.kafka import kafka_for
from stream_app.dev.process import StartError

CASES = ("cpu", "kills", "outage", "squeezed", "hot")
Found = dict[str, dict[str, msgspec.Struct]]


def candidates(names: list[str], console: Console) -> list[Candidate]:
    """Install the systems.

    One that cannot be installed here is left out, with a line that says why.
    """
    chosen = []
    for system in SYSTEMS:
        if names and system.name not in names:
            continue
        try:
            beside = server(system, console.print)
            chosen.append(Candidate(system, command(system, console.print), beside))
        except StartError as error:
            console.print(f"left out: {error}", markup=False)
    return chosen


def measure(
    bootstrap: str,
    chosen: list[Candidate],
    arguments: argparse.Namespace,
    console: Console,
    results: Found,
) -> None:
    """Run the cases, and add to `found` what each one shows."""
    promising = [candidate for candidate in chosen if candidate.system.name != BARE]
    for case in arguments.case or CASES:
        if case in ("cpu", "kills"):
            results[case] = {}
            for candidate in chosen if case == "cpu" else promising:
                console.print(f"{case}: {candidate.system.name} ...")
                results[case][candidate.system.name] = (
                    cases.cpu(bootstrap, candidate, arguments.leads)
                    if case == "cpu"
                    else asyncio.run(
                        cases.kills(bootstrap, candidate, arguments.leads // 10, arguments.kills),
                    )
                )
            continue
        console.print(f"{case}: all at once ...")
        if case == "outage":
            run = cases.outages(bootstrap, promising, arguments.outage_s, 20)
            results[case] = dict(asyncio.run(run))
        elif case == "squeezed":
            results[case] = dict(
                asyncio.run(cases.squeezed(bootstrap, promising, arguments.outage_s)),
            )
        else:
            results[case] = dict(asyncio.run(cases.hot(bootstrap, promising, 5_000, 30)))


def missed(results: Found) -> list[str]:
    """Return what this system must never do, in words."""
    problems = []
    if isinstance(kills := results.get("kills", {}).get(OURS), cases.Kills) and (
        kills.lost or kills.doubled
    ):
        problems.append(f"{kills.lost} leads lost and {kills.doubled} sent twice in {kills.leads}")
    if (
        isinstance(outage := results.get("outage", {}).get(OURS), cases.Outage)
        and outage.dead_letters
    ):
        problems.append(f"{outage.dead_letters} dead letters in an outage")
    return problems


def rows(results: Found) -> dict[str, list[str]]:
    """Return the cells of each system, a column after the other."""
    names = [
        system.name for system in SYSTEMS if any(system.name in row for row in results.values())
    ]
    bare = results.get("cpu", {}).get(BARE)
    bare_us = bare.cpu_us_per_lead if isinstance(bare, cases.Cpu) else 0.0
    return {
        name: [
            cell
            for case in CASES
            if case in results
            for cell in _cells(case, results[case].get(name), bare_us)
        ]
        for name in names
    }


HEADINGS: Mapping[str, list[str]] = {
    "cpu": ["CPU us a lead", "x bare", "leads/s", "MB"],
    "kills": ["lost", "doubled", "parked"],
    "outage": ["first POST s", "wasted", "dead", "back s"],
    "squeezed": ["of 8/s", "429"],
    "hot": ["hot came", "p50 s"],
}


def _cells(case: str, row: msgspec.Struct | None, bare_us: float) -> list[str]:
    match row:
        case cases.Cpu():
            ratio = f"{row.cpu_us_per_lead / bare_us:.1f}" if bare_us else ""
            return [
                f"{row.cpu_us_per_lead:.0f}",
                ratio,
                f"{row.leads_per_s:,.0f}",
                f"{row.rss_mb:.0f}",
            ]
        case cases.Kills():
            return [str(row.lost), str(row.doubled), str(row.parked)]
        case cases.Outage():
            return [
                f"{row.first_s:.2f}",
                str(row.wasted),
                str(row.dead_letters),
                f"{row.back_s:.2f}",
            ]
        case cases.Squeezed():
            return [f"{row.of_limit:.1%}", f"{row.limited_share:.1%}"]
        case cases.Hot():
            return [f"{row.came} of {row.hot}", f"{row.p50_s:.2f}" if row.came else "-"]
    return [""] * len(HEADINGS[case])


def show(results: Found) -> None:
    """Print one row a system. In a pipe it is as wide as it has to be."""
    table = Table(title="Leads from Kafka to an API that takes 10 a second")
    table.add_column("system", no_wrap=True)
    for case in CASES:
        for heading in HEADINGS[case] if case in results else []:
            table.add_column(heading, justify="right")
    table.add_column("lines", justify="right")
    lines = {system.name: str(system.lines) if system.program else "" for system in SYSTEMS}
    for name, cells in rows(results).items():
        table.add_row(name, *cells, lines[name])
    out = Console()
    (out if out.is_terminal else Console(width=200)).print(table)


def main() -> None:
    """Measure, print one table or JSON, and exit with 1 if this system lost a lead or sent one
    twice.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=(__doc__ or "").split("\n")[0],
        epilog=(
            "example: python -m benchmarks.peers --only stream-app --only FastStream --case kills"
        ),
    )
    names = [system.name for system in SYSTEMS]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        default=[],
        help="a system (may be repeated)",
    )
    parser.add_argument(
        "--case",
        action="append",
        choices=CASES,
        help="a case (may be repeated); default: all",
    )
    parser.add_argument(
        "--leads",
        type=int,
        default=20_000,
        help="leads of `cpu`; `kills` has a tenth of them",
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--outage-s",
        type=float,
        default=60.0,
        help="also how long `squeezed` is watched",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console(stderr=True)
    chosen = candidates(arguments.only, console)
    results: Found = {}
    try:
        with kafka_for(console.print) as kafka:
            measure(kafka.bootstrap, chosen, arguments, console, results)
    finally:  # the cases that were finished, even if a later one failed
        if arguments.json:
            sys.stdout.write(json.dumps(msgspec.to_builtins(results)) + "\n")
        else:
            show(results)
    if problems := missed(results):
        raise SystemExit("; ".join(problems))


if __name__ == "__main__":
    main()
