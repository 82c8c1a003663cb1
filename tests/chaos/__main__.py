"""`python -m tests.chaos`: break everything for a while on a real Kafka, and count what was lost or
sent twice. Half of the destinations are routines.

python -m tests.chaos --seconds 60                the quick form
python -m tests.chaos --kills 200 --seed 7        a campaign
python -m tests.chaos --seconds 120 --resend      uncertain leads are sent again instead of parked
python -m tests.chaos --seconds 600 --brokers 3   on a cluster: each broker is killed, stopped and
frozen
python -m tests.chaos --kills 100 --workspaces 40 --partitions 8    with workspaces that share
partitions
"""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from tests.chaos.brokers import BOUND_S, BUDGETED
from tests.chaos.brokers import MEANING as BROKER_MEANING
from tests.chaos.campaign import PARTITIONS, WORKSPACES, Goal, Result, run_campaign
from tests.chaos.schedule import MEANING


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--seed", type=int, default=1)
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--seconds", type=float, help="how long, at least (default 60)")
    goal.add_argument("--kills", type=int, help="until so many workers were killed with -9")
    parser.add_argument(
        "--resend",
        action="store_true",
        help="the policy for uncertain leads: resend, not park",
    )
    parser.add_argument(
        "--brokers",
        type=int,
        choices=(1, 3),
        default=1,
        help="how many Kafka has (default 1)",
    )
    parser.add_argument(
        "--workspaces",
        type=int,
        default=WORKSPACES,
        help=f"how many (default {WORKSPACES})",
    )
    parser.add_argument(
        "--partitions",
        type=int,
        default=PARTITIONS,
        help=f"how many (default {PARTITIONS})",
    )
    parser.add_argument(
        "--logs",
        type=Path,
        metavar="DIR",
        help="leave the logs of all processes there",
    )
    args = parser.parse_args()
    if args.workspaces < len(BUDGETED) or args.partitions < 2:
        parser.error(
            f"at least {len(BUDGETED)} workspaces and 2 partitions: some have a budget, and "
            "some leads stray",
        )
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broken connection is no news here
    wanted = Goal(kills=args.kills) if args.kills else Goal(seconds=args.seconds or 60.0)
    result = asyncio.run(
        run_campaign(
            wanted,
            args.seed,
            resend=args.resend,
            logs=args.logs,
            brokers=args.brokers,
            workspaces=args.workspaces,
            partitions=args.partitions,
        ),
    )
    sys.stdout.write(f"{table(result)}\n")
    sys.stderr.writelines(f"{line}\n" for line in complaints(result))
    return 0 if result.passed else 1


def table(result: Result) -> str:
    """Return the result as Markdown."""
    meaning = MEANING | BROKER_MEANING
    verdict = result.verdict
    faults = [
        f"{meaning[kind]}: {result.faults[kind]}" for kind in meaning if kind in result.faults
    ]
    rows = {
        "seed, policy, date": f"{result.seed}, {result.policy}, {result.date}",
        "versions": ", ".join(f"{name} {number}" for name, number in result.versions.items()),
        "workspaces": result.doors,
        "took": f"{result.seconds:.0f} s",
        "faults": f"{sum(result.faults.values())}, of these {'; '.join(faults)}",
        "workers killed with -9": result.kills,
        "records published": (
            f"{verdict.leads} ({', '.join(f'{n} {kind}' for kind, n in result.published.items())})"
        ),
        "accepted by Clay": verdict.accepted,
        "lost": verdict.count("lost"),
        "POSTed twice": verdict.doubles,
        "over a budget": verdict.count("overspend"),
        "illegal histories": verdict.count("illegal"),
        "uncertain": verdict.uncertain,
        "parked": verdict.parked,
        "sent again by policy": verdict.resent,
        "held by their budget at the end": verdict.held,
        "workers that ended by themselves": ", ".join(
            f"{n} {why}" for why, n in result.ends.items()
        )
        or 0,
        "books": "balance" if result.books == "balance" else "do not balance",
    }
    if result.longest_stop_s is not None:
        rows["longest stop of a lane (one broker broken)"] = (
            f"{result.longest_stop_s:.1f} s, of {BOUND_S:.0f}"
        )
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())],
    )


def complaints(result: Result) -> list[str]:
    """Return each finding with everything that is known of its lead."""
    if result.passed:
        return []
    lines = [f"FAILED: seed {result.seed}"]
    findings = result.verdict.findings
    for finding in findings[:10]:
        lines += [
            f"{finding.promise}: {finding.about}: {finding.what}",
            result.reported.get(finding.about, ""),
        ]
    if len(findings) > 10:
        lines.append(f"and {len(findings) - 10} more")
    lines += [f"untidy: {what}" for what in result.untidy[:20]]
    return lines if result.books == "balance" else [*lines, f"books: {result.books}"]


if __name__ == "__main__":
    sys.exit(main())
