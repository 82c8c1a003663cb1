"""`stream-app sim`: run the Clay simulator alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from stream_app.cli.base import Subparsers, command


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "sim",
        run,
        says="Run a simulated Clay until Ctrl-C: rate limits, credits, faults on a timeline, and a ledger.",
        example="stream-app sim --port 8700 --ledger ledger.jsonl",
    )
    # The simulator is also a separate program with the same options; a test keeps the two equal.
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8700, help="port; 0: any free one (%(default)s)")
    parser.add_argument("--control-port", type=int, default=0, help="second port, for control alone (%(default)s)")
    parser.add_argument("--seed", type=int, help="decides everything random; over the script's seed")
    parser.add_argument("--script", type=Path, help="TOML file with limits, webhooks and faults")
    parser.add_argument("--ledger", type=Path, help="JSONL file to append the ledger to (else temporary)")
    epilog = "scripts, faults and the control API are described by: python -m stream_app.dev.simulator --help"
    parser.epilog = f"{parser.epilog}\n\n{epilog}"


def run(args: argparse.Namespace) -> int:
    from stream_app.dev import simulator as sim

    return sim.run(args)
